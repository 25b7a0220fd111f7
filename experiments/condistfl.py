"""ConDistFL: one network of all organs from hospitals that each label their own.

Wang et al., "ConDistFL: Conditional Distillation for Federated Learning from Partially Annotated
Data" (2023): each client labels one organ and its tumour. Claims: a loss that takes unlabelled
organs for background fails, the marginal loss works, and distillation from the global model on what
is not labelled helps where clients train for long between two rounds.

  python -m experiments.condistfl demo           simulated abdomens, rounds of 10 and of 50 local
                                                 updates, 2 seeds; 65 minutes beside other work
  python -m experiments.condistfl evidence       does it help, and must the teacher see the picture:
                                                 rounds of 50 and 250, 4 seeds; 21 minutes
  python -m experiments.condistfl strategies     temperatures, servers, FedProx, 3 seeds; 13 minutes
  python -m experiments.condistfl long           rounds of 1,000 updates, 5,000 in all, 2 seeds
  python -m experiments.condistfl volumes        small volumes, rounds of 50, 400 updates, 2 seeds
  python -m experiments.condistfl federated_sites --env sim
                                                 two hospitals as processes: condistfl_sites

Times are for 2 CPU cores; `long` has not been run whole. Published mean Dice: plain loss .393,
marginal loss with FedAvg .728, FedProx .711, FedOpt .724; ConDistFL .770; alone .810.

Control: "shuffled" distils from the global model's predictions at voxels in random order. All arms
take the same number of updates in all, and all but "fedavg" have the paper's server (momentum .6).

DEVIATIONS: a small U-Net without deep supervision, Adam at a constant rate, anew in each round, and
no augmentation; "condist-2" has the temperature 2.0 of the released configuration, "condist" the
0.5 of the text. The true labels of test people are whole, as in the paper's external set.

results.json: the common schema of `study.results`; roles are numbers of local updates;
structures.<arm>.<role>.<structure>: mean Dice.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import abdomens, condistfl_sites, federations
from medjax import check, cli, federated, losses, methods, nets, study
from medjax.train import Report
from medjax.types import Array, Batch, Key, Params, Step

_GROUPS = ((0,), *abdomens.LABELS.values())
_LOCAL = (10, 50, 250, 1000)  # updates between two rounds that questions were asked for

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Hospitals that label different organs train one network."""

  arms: tuple[str, ...] = ("plain", "marginal", "condist", "shuffled")  # what is compared
  local_updates: tuple[int, ...] = (10, 50)  # of a client between two rounds
  num_seeds: int = 2
  num_updates: int = 400  # of each client in all
  num_people: int = 36  # of each hospital, a third of them for testing
  shape: tuple[int, ...] = (24, 24)  # voxels of a picture or volume
  widths: tuple[int, ...] = (8, 16)  # channels of each level of the U-Net
  batch_size: int = 4  # pictures a local update
  learning_rate: float = 3e-3  # Adam's, of the clients
  log_every: int = 2  # rounds between two log rows
  env: str = ""  # sim or poc: hospitals are processes, in NVFlare's simulator or deployment

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    for local in self.local_updates:
      check.one_of("local_updates", local, _LOCAL)
      check.require(
        self.num_updates % local == 0,
        f"num_updates that {local} local updates divide",
        f"{self.num_updates}",
        "every arm must take the same number of updates",
      )


# --- model and arms


class Task:
  """The network, and the federation of each arm."""

  def __init__(self, config: Config):
    self.config = config
    # As products: what clients train runs in a loop, where a CPU is slow at other convolutions.
    module = nets.UNet(len(abdomens.CLASSES), config.widths, convolution="product")
    self.model = nets.from_linen(module)
    self.labelled = losses.labelled_classes(list(abdomens.LABELS.values()), len(abdomens.CLASSES))

  def logits(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0]

  def supervised(self, logits: Array, label: Array, labelled: Array, *, merges: bool) -> Array:
    """Dice and cross-entropy; of the merged classes, or of all as if nothing were missing."""
    counted = None
    if merges:
      logits, label = losses.merge_unlabelled(logits, label, labelled)
      counted = labelled.at[0].set(True)
    dice = losses.soft_dice(logits, label, counted=counted)
    return dice + losses.cross_entropy(logits, label)

  def federation(
    self,
    local: int,
    *,
    merges: bool = True,
    temperature: float | None = None,
    shuffles: bool = False,
    momentum: float | None = 0.6,
    pull: float = 0.0,
    number: int = len(abdomens.LABELS),
  ) -> Step:
    config, last = self.config, max(self.config.num_updates // local - 1, 1)
    tx = optax.adam(config.learning_rate)

    def loss_fn(params: Params, example: Batch, key: Key, broadcast: Any) -> Array:
      labelled = jnp.asarray(self.labelled)[example.domain]
      logits = self.logits(params, example.image)
      loss = self.supervised(logits, example.label, labelled, merges=merges)
      if temperature is None:
        return loss
      teacher = self.logits(broadcast.params, example.image)
      if shuffles:
        order = jax.random.permutation(key, example.label.size)
        teacher = teacher.reshape(-1, len(abdomens.CLASSES))[order].reshape(teacher.shape)
      distilled = losses.conditional_distillation(
        logits,
        teacher,
        example.label,
        labelled=labelled,
        groups=_GROUPS,
        temperature=temperature,
      )
      return loss + (0.01 + 0.99 * broadcast.round / last) * distilled  # w of Eq. 9

    def step(broadcast: federated.Broadcast) -> Step:
      return methods.supervised(functools.partial(loss_fn, broadcast=broadcast), tx)

    if pull:
      plain = functools.partial(loss_fn, broadcast=None)
      client = federated.fedprox(lambda f: methods.supervised(f, tx), plain, pull, max_unrolled=1)
    else:
      client = federated.local(step, max_unrolled=1)
    server = optax.sgd(1.0, momentum=momentum)
    return federated.federated(client, num_clients=number, cohort=number, server=server)


_MADE = functools.partial
ARMS = study.arms(
  study.Arm("plain", "what is not labelled is background", _MADE(Task.federation, merges=False)),
  study.Arm("marginal", "what is not labelled is merged with the background", Task.federation),
  study.Arm(
    "condist", "and distilled from the global model", _MADE(Task.federation, temperature=0.5)
  ),
  study.Arm(
    "shuffled",
    "distilled from its predictions at other voxels: the control",
    _MADE(Task.federation, temperature=0.5, shuffles=True),
  ),
  study.Arm("condist-2", "distilled at temperature 2", _MADE(Task.federation, temperature=2.0)),
  study.Arm("fedavg", "marginal, server without momentum", _MADE(Task.federation, momentum=None)),
  study.Arm("fedprox", "marginal, held near the global model", _MADE(Task.federation, pull=0.01)),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.08), ("seed", 0.03))


def _role(local: int) -> str:
  return f"{local} local"


def _asked(local: int) -> list[study.Question]:
  def question(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
    text = f"{text} ({local} local updates)"
    return study.Question(text, reference, arms, "dice", _role(local), expects, _SPREAD)

  at_length: Any = "better" if local >= 50 else "open"
  return [
    question("Does the marginal loss mend the plain one?", "plain", ("marginal",), "better"),
    question("Does conditional distillation help?", "marginal", ("condist",), at_length),
    question("Does it matter what the teacher sees?", "shuffled", ("condist",), at_length),
    question("Is a temperature of 0.5 better than 2?", "condist-2", ("condist",), "open"),
    question("Does momentum on the server help?", "fedavg", ("marginal",), "open"),
    question("Does FedProx help?", "marginal", ("fedprox",), "open"),
  ]


QUESTIONS = tuple(question for local in _LOCAL for question in _asked(local))
PRESETS = {
  "demo": Config(),
  "evidence": Config(
    arms=("marginal", "condist", "shuffled"), local_updates=(50, 250), num_seeds=4, num_updates=1000
  ),
  "strategies": Config(
    arms=("marginal", "fedavg", "fedprox", "condist", "condist-2"),
    local_updates=(50,),
    num_seeds=3,
    num_updates=1000,
  ),
  "long": Config(
    arms=("marginal", "condist"), local_updates=(1000,), num_updates=5000, log_every=1
  ),
  "volumes": Config(
    arms=("marginal", "condist"), local_updates=(50,), shape=(8, 16, 16), batch_size=2
  ),
  "federated_sites": Config(arms=("condist",), local_updates=(10,), num_updates=30, env="sim"),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0)
  if config.env:
    return condistfl_sites.build(config, options)
  whole = abdomens.hospitals(config.num_people, config.shape, options.seed)
  roles = [_role(local) for local in config.local_updates]
  frame = federations.frame(config, options.seed, whole, QUESTIONS, roles, config.arms)
  with options.directory(config, whole.manifest()) as directory:
    if directory.finished:
      return
    train, test = frame.begin(directory)
    task = Task(config)
    # Each hospital forgets what it does not label.
    cut = jax.vmap(losses.keep_labelled)(train.label, jnp.asarray(task.labelled)[train.domain])
    train = train.replace(label=np.asarray(cut))
    held = federated.by_domain(train.domain)
    predict = study.ChunkedPredictor(task.logits, chunk=16)
    trained: dict[str, study.Trained] = {}
    rows: list[dict[str, Any]] = []

    def score(one: study.Trained, about: dict[str, Any]) -> study.Scored:
      found = predict(one.params, test.image).argmax(-1)
      return study.Scored(abdomens.scored(found, test.label, frame.names(test), about))

    for arm in config.arms:
      for local, role in zip(config.local_updates, roles, strict=True):
        step: Step = ARMS[arm].make(task, local)
        for seed in frame.design.seeds:
          job = federations.job(
            f"{arm}-{local}-{seed}",
            step,
            task.model,
            train,
            held,
            seed=seed,
            num_rounds=config.num_updates // local,
            batch_size=config.batch_size,
            local_steps=local,
            chunk=1,
          )
          one = study.train_job(job, directory, log_every=config.log_every)
          trained.setdefault(f"{arm}, {role}", one)
          make = functools.partial(score, one, {"arm": arm, "seed": seed, "role": role})
          rows += study.kept(directory, one.name, one.params, make).rows
    found = frame.design.results(
      rows, ("dice",), is_simulated=True, structures=abdomens.structures(rows)
    )
    study.finish(directory, found, page(found, trained), trained=list(trained.values()), rows=rows)


def page(found: dict[str, Any], trained: dict[str, study.Trained]) -> Report:
  """Dice by number of local updates and by structure, verdicts and curves."""
  report = study.page.start("One network from hospitals that label different organs", found)
  roles = list(found["test_cases"])
  report.section("Dice by local updates", "Every arm takes the same number of updates in all.")
  report.table(
    ["arm", *roles],
    [[a, *(own[role]["dice"]["mean"] for role in roles)] for a, own in found["arms"].items()],
    "Mean over structures and people of all hospitals.",
  )
  report.table(
    ["arm", "rounds of", *abdomens.CLASSES[1:]],
    [
      [arm, role, *means.values()]
      for arm, own in found["structures"].items()
      for role, means in own.items()
    ],
    "Dice of each structure. Three hospitals of four take it for background.",
  )
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.curves(report, trained, {"loss": "mean loss of the clients"}, xlabel="round")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
