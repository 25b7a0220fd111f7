"""Fed-MAS: do clients whose classes are badly covered deserve a larger weight?

Elbatel et al., "Federated Model Aggregation via Self-supervised Priors for Highly Imbalanced
Medical Image Classification" (2023): clients train with the balanced softmax, are held to the
features of a frozen self-supervised network, and count by how far their classes are from it. Claim,
in balanced accuracy: FedAvg below balanced softmax below distillation below Fed-MAS.

  python -m experiments.fed_mas demo             simulated findings of 10 classes, 300 to 3 cases,
                                                 at 8 clients, 2 seeds, 14 trainings; 28
                                                 minutes beside other work
  python -m experiments.fed_mas evidence         all arms, 6 seeds, 80 rounds, five times the test
                                                 pictures; 6 minutes beside other work
  python -m experiments.fed_mas even             the same with even shares of every class
  python -m experiments.fed_mas pictures --data FILE.npz LITE0.safetensors
                                                 ten classes of an npz file as those of MedMNIST,
                                                 held to EfficientNet-Lite0 of ImageNet, 4 seeds

Times are for 2 CPU cores; `pictures` has not been run whole. Published on HyperKvasir,
even and uneven clients: FedAvg .581 .562, balanced softmax .603 .592, FedLC .611 .598, Fed-MAS .621
.616; uneven, balanced softmax with distillation .602.

The text sums divergences over the classes of a client, so that many classes weigh; the released
code scales them first, so that few do. Both are arms. Controls: "equal" is distillation with equal
weights of clients (the paper's rule also drops numbers of cases); "mas-random" measures with a
frozen network that has learnt nothing.

DEVIATIONS: a small network from scratch; the frozen one learnt to tell how a picture is turned, on
600 further pictures without classes, or ("pictures") has learnt ImageNet's classes, in place of
MoCo v2 on natural images; plain descent at a constant rate; a round is not an epoch but the same
number of updates for every client.

results.json: the common schema of `study.results`; roles are all classes and their three groups;
rescue.<arm>: mean RF of the first and last round shown. shares: cases of each client and class.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax

from experiments import federations, rare_findings
from medjax import cli, data, federated, losses, methods, nets, study
from medjax.train import Report
from medjax.types import Array, Batch, Key, Params, Step

_GROUPS = {"all": range(10), "head": range(3), "medium": range(3, 6), "tail": range(6, 10)}

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Clients with few cases of rare classes train one classifier."""

  arms: tuple[str, ...] = ("fedavg", "bsm", "kd", "equal", "mas", "mas-code", "mas-random")
  num_seeds: int = 2
  num_clients: int = 8
  reads_pictures: bool = False  # of --data, in place of simulated ones
  widths: tuple[int, ...] = (8, 16)  # channels of the clients' network
  alpha: float = 0.5  # of the Dirichlet law of the clients' shares; large: even
  num_tests: int = 20  # pictures of each class for testing
  num_rounds: int = 40
  local_steps: int = 8  # updates of a client in a round
  batch_size: int = 16  # pictures a local update
  learning_rate: float = 0.1  # of the clients' gradient descent
  pull: float = 3.0  # weight of the distance to the frozen features
  frozen_steps: int = 300  # updates of the frozen network beforehand
  log_every: int = 5  # rounds between two log rows

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- networks


class Student(nn.Module):
  """Logits and a projection to the frozen features, from one encoder."""

  num_features: int
  widths: tuple[int, ...] = (8, 16)

  @nn.compact
  def __call__(self, image: Array) -> tuple[Array, Array]:
    z = nn.silu(nets.SmallCNN(32, self.widths, convolution="product")(image))
    return nn.Dense(rare_findings.CLASSES)(z), nn.Dense(self.num_features)(nn.silu(nn.Dense(64)(z)))


class Task:
  """The federation of each arm; `train` has the client as its domain and its row as its index."""

  def __init__(self, config: Config, train: Batch, known: dict[str, np.ndarray]):
    self.config, self.known = config, known
    self.model = nets.from_linen(Student(known["learnt"].shape[1], config.widths))
    self.shares = np.zeros((config.num_clients, rare_findings.CLASSES), np.float32)
    np.add.at(self.shares, (train.domain, train.label), 1)

  def logits(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0][0]

  def federation(
    self, loss: Any = losses.logit_adjusted, frozen: str = "", scaled: str = ""
  ) -> Step:
    table = jnp.asarray(self.known[frozen or "learnt"])

    def apart(projected: Array, example: Batch) -> Array:
      norm = jnp.maximum(jnp.linalg.norm(projected), 1e-6)
      return 2 - 2 * (projected / norm) @ table[example.index]  # Eq. 1

    def loss_fn(params: Params, example: Batch, key: Key) -> Array:
      del key
      logits, projected = self.model.apply(params, example.image)[0]
      cost = loss(logits, example.label, jnp.asarray(self.shares)[example.domain])
      return cost + self.config.pull * apart(projected, example) if frozen else cost

    def divergence(params: Params, example: Batch) -> Array:
      return apart(self.model.apply(params, example.image)[0][1], example)

    step = methods.supervised(loss_fn, optax.sgd(self.config.learning_rate))
    client = federated.local(step, max_unrolled=1)
    if scaled:
      kind: Any = scaled
      client = federated.rescued(
        step, divergence, rare_findings.CLASSES, scaled=kind, max_unrolled=1
      )
    number = self.config.num_clients
    whole = federated.federated(client, num_clients=number, cohort=number, across="map")
    return dataclasses.replace(whole, chunked=None)  # one block a round: one program


def _plain(logits: Array, label: Array, counts: Array) -> Array:
  del counts
  return losses.cross_entropy(logits, label)


_MADE = functools.partial(functools.partial, Task.federation)
ARMS = study.arms(
  study.Arm("fedavg", "cross-entropy, weights by cases", _MADE(loss=_plain)),
  study.Arm("bsm", "balanced softmax of each client's counts", _MADE()),
  study.Arm("fedlc", "margins by counts", _MADE(loss=losses.margin_calibrated)),
  study.Arm("kd", "bsm, held to frozen features", _MADE(frozen="learnt")),
  study.Arm("equal", "kd, clients weigh alike: a control", _MADE(frozen="learnt")),
  study.Arm("mas", "kd, weights by RF of the text", _MADE(frozen="learnt", scaled="text")),
  study.Arm("mas-code", "kd, weights by RF of the code", _MADE(frozen="learnt", scaled="code")),
  study.Arm("kd-random", "kd with random features", _MADE(frozen="random")),
  study.Arm("mas-random", "mas with random features", _MADE(frozen="random", scaled="text")),
)
_BY_CASES = ("fedavg", "bsm", "fedlc", "kd", "kd-random")  # arms whose clients weigh by their cases

# --- questions, written down before the run

_SPREAD = (("subject", 0.4), ("seed", 0.03))


def _question(
  text: str, other: str, arm: str, expects: Any = "better", role: str = "all"
) -> study.Question:
  return study.Question(text, other, (arm,), "balanced", role, expects, _SPREAD)


QUESTIONS = (
  _question("Does the balanced softmax help?", "fedavg", "bsm"),
  _question("Does it help rare classes?", "fedavg", "bsm", role="tail"),
  _question("Does distillation help?", "bsm", "kd"),
  _question("Do rescue factors help?", "kd", "mas"),
  _question("Do rescue factors help rare classes?", "kd", "mas", "open", "tail"),
  _question("Is it the factors, or that cases no longer weigh?", "equal", "mas"),
  _question("Does it matter what the frozen network learnt?", "mas-random", "mas"),
  _question("And for distillation alone?", "kd-random", "kd", "open"),
  _question("Is the released code's scaling as good?", "mas", "mas-code", "open"),
  _question("Are margins as good as the balanced softmax?", "bsm", "fedlc", "open"),
)
_EVERY: dict[str, Any] = {"arms": tuple(ARMS), "num_seeds": 6, "num_rounds": 80, "num_tests": 100}
PRESETS = {
  "demo": Config(),
  "evidence": Config(**_EVERY),
  "even": Config(alpha=1e4, **_EVERY),
  "pictures": Config(
    arms=("fedavg", "bsm", "kd", "kd-random", "mas", "mas-random"),
    reads_pictures=True,
    widths=(16, 32),
    num_seeds=4,
    num_tests=100,
  ),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  why = " (pictures and weights)" if config.reads_pictures else " of a simulation"
  paths = study.paths_of(options.data, 2 if config.reads_pictures else 0, why)
  if config.reads_pictures:
    sources = rare_findings.pictures(paths[0], config.num_tests, options.seed)
  else:
    sources = rare_findings.simulated(config.num_tests, options.seed)
  arrays = {use: data.stack(source) for use, source in sources.items()}
  train, test = arrays["train"], arrays["test"]
  people = {use: [f"{use}/{name}" for name in own.subjects] for use, own in sources.items()}
  tested = {role: len(own) * config.num_tests for role, own in _GROUPS.items()}
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, tested=tested)
  with options.directory(config, data.concat(sources).manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    held = federated.dirichlet(train.label, config.num_clients, config.alpha, options.seed, least=8)
    owner = np.zeros(len(train.label), np.int32)
    for client, rows_of in enumerate(held):
      owner[rows_of] = client
    train = train.replace(domain=owner, index=np.arange(len(owner), dtype=np.int32))
    if config.reads_pictures:
      known, ready = rare_findings.imagenet_features(train.image, paths[1], options.seed), []
    else:
      known, ready = rare_findings.frozen_features(
        arrays["public"], train.image, options.seed, config.frozen_steps, directory
      )
    task = Task(config, train, known)
    predict = study.ChunkedPredictor(task.logits, chunk=100)
    trained: dict[str, list[study.Trained]] = {}
    rows: list[dict[str, Any]] = []

    def score(one: study.Trained, arm: str, seed: int) -> study.Scored:
      logits, found = predict(one.params, test.image), []
      for role, classes in _GROUPS.items():
        own, about = np.isin(test.label, classes), {"arm": arm, "seed": seed, "role": role}
        names = [people["test"][i] for i in np.flatnonzero(own)]
        found += study.classes(
          logits[own], test.label[own], about=about, subjects=names, wanted=("balanced",)
        )
      return study.Scored(found)

    for arm in config.arms:
      step: Step = ARMS[arm].make(task)
      weights = None if arm in _BY_CASES else np.ones(config.num_clients)
      for seed in design.seeds:
        name = f"{arm}-{seed}"
        job = federations.job(
          name,
          step,
          task.model,
          train,
          held,
          seed=seed,
          num_rounds=config.num_rounds,
          batch_size=config.batch_size,
          local_steps=config.local_steps,
          weights=weights,
        )
        job = federations.in_one_block(job)
        one = study.train_job(job, directory, log_every=config.log_every, progress=False)
        trained.setdefault(arm, []).append(one)
        make = functools.partial(score, one, arm, seed)
        rows += study.kept(directory, name, one.params, make).rows
    shown = {arm: own[0].curve("rescue")[1] for arm, own in trained.items()}
    found = design.results(
      rows,
      ("balanced",),
      is_simulated=not config.reads_pictures,
      rescue={arm: {"first": own[0], "last": own[-1]} for arm, own in shown.items() if own},
      shares=task.shares.astype(int).tolist(),
    )
    every = [*ready, *(one for own in trained.values() for one in own)]
    study.finish(directory, found, page(found, trained), trained=every, rows=rows)


def page(found: dict[str, Any], trained: dict[str, list[study.Trained]]) -> Report:
  """Scores by group of classes, who holds what, verdicts and the course of the weights."""
  report = study.page.start("Weights for clients with rare classes", found)
  study.page.scores(
    report, found, ARMS, text="Head: 108 training cases or more; tail: 14 or fewer."
  )
  report.table(
    ["client", *(f"finding {k}" for k in range(rare_findings.CLASSES))],
    [[client, *own] for client, own in enumerate(found["shares"])],
    "Training cases of each client.",
  )
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  first = {arm: own[0] for arm, own in trained.items()}
  labels = {"loss": "loss", "rescue": "mean rescue factor", "top_weight": "largest weight"}
  study.page.curves(report, first, labels, xlabel="round", caption="First seed.")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
