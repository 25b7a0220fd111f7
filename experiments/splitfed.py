"""SplitFed over lossy links: does a network that is cut deeper stand the loss of packets better?

Shiranthika et al., "SplitFed Resilience to Packet Loss: Where to Split, that is the Question"
(2023): front and back of a U-Net stand at the clients, its middle at the server, and rows of
feature maps are lost on the way, forward and back. Claims: a deeper cut is better at every rate of
loss and far better at .9, up to .5 little is lost, and no way of joining the clients wins.

  python -m experiments.splitfed demo            simulated abdomens of four hospitals, losses of .5
                                                 and .9, 2 seeds, 14 trainings; about 5 minutes
  python -m experiments.splitfed evidence        all arms, 3 seeds, 57 trainings; 20 to 25 minutes
                                                 (an estimate)

Times are for 2 CPU cores; of `evidence` 16 trainings have been run (a rate of .9, 2 seeds).
Published mean Jaccard without losses .826 to .830; up to a rate of .5 near that for both cuts; at
.9 the shallow one near 0.

"none" loses nothing, so both cuts are one network. "deep-skip" is a control: the deep cut also
keeps a skip connection at the client, and here that connection crosses the link, too. Networks are
scored with links that lose nothing, and with links as in training. Beyond the paper: what arrives
is divided by the share that arrives, as in dropout ("rescaled"). Clients are joined by their cases;
"deep-equal" counts them alike ("naive"), "deep-near" counts every leaf of a client's parameters by
1 / (1 + distance from the model that was sent) (Fed-NCL_V4, in the form of the released code),
"deep-near-loss" has one such weight a client, which falls with its loss, too (Fed-NCL_V2), and
"deep-learned" learns weights on a sixth of the hospitals' training cases (Auto-FedAvg).

DEVIATIONS: a small U-Net with instance norms; 10 local updates a round in place of 12 epochs; the
clients' optimisers start anew in each round; all hospitals label all organs. Fed-NCL_V4 has no
penalty on outliers (its papers give no numbers), Fed-NCL_V2 takes the mean loss of local updates,
and Auto-FedAvg learns its weights anew in each round.

results.json: the common schema of `study.results`; roles are "RATE, clean" and "RATE, lossy".
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import abdomens, federations
from medjax import check, cli, federated, losses, methods, nets, ops, rng, study
from medjax.federated import aggregate
from medjax.train import Report
from medjax.types import Array, Batch, Key, Params, Step

_RATES = (0.5, 0.7, 0.9)  # that questions were asked for
_LINKS = ("clean", "lossy")

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Hospitals train a network whose middle stands elsewhere."""

  arms: tuple[str, ...] = ("none", "shallow", "deep", "deep-skip")  # what is compared
  loss_rates: tuple[float, ...] = (0.5, 0.9)  # shares of packets that are lost
  num_lossy: int = 4  # hospitals whose links lose them
  num_seeds: int = 2
  num_rounds: int = 40
  local_steps: int = 10  # updates of a client in a round
  num_people: int = 36  # of each hospital, a third of them for testing
  shape: tuple[int, ...] = (24, 24)  # pixels
  widths: tuple[int, ...] = (8, 16)  # channels of each level of the U-Net
  batch_size: int = 4  # pictures a local update
  learning_rate: float = 3e-3  # Adam's, of the clients
  log_every: int = 5  # rounds between two log rows

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    for rate in self.loss_rates:
      check.one_of("loss_rates", rate, _RATES)


# --- model and arms


class Task:
  """The network, cut in several ways, and the federation of each arm."""

  def __init__(self, config: Config):
    self.config = config
    self.module = nets.UNet(len(abdomens.CLASSES), config.widths, convolution="product")
    self.model = nets.from_linen(self.module)

  def over_links(self, way: "Way", params: Params, image: Array, key: Key, rate: Any) -> Array:
    def link(number: int, x: Array) -> Array:
      own = jax.random.fold_in(key, number)
      return ops.lossy_link(x, own, rate, rescales=way.rescales)

    return nets.split(self.module, way.cut).apply(params, image, link)

  def clean(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0]

  def tester(self, way: "Way") -> Callable[[Params, Batch, float, int], np.ndarray]:
    """Classes of test pictures, each over losses of its own; one program for all rates."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
    def classes(params: Params, image: Array, key: Key, rate: Array) -> Array:
      return self.over_links(way, params, image, key, rate).argmax(-1)

    def tested(params: Params, test: Batch, rate: float, seed: int) -> np.ndarray:
      key = rng.stream(jax.random.key(seed), "test links")
      return np.asarray(
        classes(params, test.image, jax.random.split(key, len(test.label)), jnp.float32(rate))
      )

    return tested

  def rule(self, way: "Way", judged: Batch) -> aggregate.Rule:
    """How clients are joined; `judged` are the cases that learned weights are judged by."""

    def judge(params: Params, key: Key) -> Array:
      del key
      logits = jax.vmap(self.clean, (None, 0))(params, judged.image)
      return jax.vmap(_loss)(logits, judged.label).mean()

    rules = {
      "mean": aggregate.mean,
      "near": aggregate.fed_ncl_v4,
      "near-loss": aggregate.fed_ncl_v2,
      "learned": functools.partial(aggregate.auto_fedavg, judge),
    }
    return rules[way.joins]()

  def federation(self, way: "Way", rate: float, judged: Batch) -> Step:
    config = self.config

    def loss_fn(params: Params, example: Batch, key: Key) -> Array:
      if rate:
        own = jnp.where(example.domain < config.num_lossy, rate, 0.0)
        logits = self.over_links(way, params, example.image, key, own)
      else:
        logits = self.clean(params, example.image)
      return _loss(logits, example.label)

    client = federated.local(
      methods.supervised(loss_fn, optax.adam(config.learning_rate)), max_unrolled=1
    )
    number = len(abdomens.LABELS)
    rule = self.rule(way, judged)
    return federated.federated(client, num_clients=number, cohort=number, aggregate=rule)


class Way(NamedTuple):
  """How an arm cuts, loses and joins."""

  cut: nets.SplitKind = "deep"
  rescales: bool = False
  weighs_alike: bool = False
  joins: Literal["mean", "near", "near-loss", "learned"] = "mean"


def _loss(logits: Array, label: Array) -> Array:
  return losses.soft_dice(logits, label) + losses.cross_entropy(logits, label)


def set_aside(held: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
  """Rows that each hospital trains on, and every sixth of all, which judge learned weights.

  >>> set_aside([np.arange(7), np.arange(7, 9)])
  ([array([1, 2, 3, 4, 5]), array([8])], array([0, 6, 7]))
  """
  trained = [rows[np.arange(len(rows)) % 6 > 0] for rows in held]
  return trained, np.concatenate([rows[::6] for rows in held])


ARMS = study.arms(
  study.Arm("none", "nothing is lost", Way),
  study.Arm("shallow", "cut after the first convolution", functools.partial(Way, "shallow")),
  study.Arm("deep", "cut after the first level", Way),
  study.Arm("deep-skip", "deep, the skip crosses too", functools.partial(Way, "deep-skip")),
  study.Arm(
    "shallow-rescaled",
    "shallow, over the share that arrives",
    functools.partial(Way, "shallow", rescales=True),
  ),
  study.Arm(
    "deep-rescaled", "deep, over the share that arrives", functools.partial(Way, rescales=True)
  ),
  study.Arm("deep-equal", "deep, clients alike", functools.partial(Way, weighs_alike=True)),
  study.Arm("deep-near", "deep, layers by nearness", functools.partial(Way, joins="near")),
  study.Arm(
    "deep-near-loss",
    "deep, clients by nearness and loss",
    functools.partial(Way, joins="near-loss"),
  ),
  study.Arm("deep-learned", "deep, weights learned", functools.partial(Way, joins="learned")),
)

# --- questions, written down before the run

_JOINED = ("deep-equal", "deep-near", "deep-near-loss", "deep-learned")
_SPREAD = (("subject", 0.08), ("seed", 0.03))


def _role(rate: float, link: str) -> str:
  return f"{rate:g}, {link}"


def _asked(rate: float, link: str) -> list[study.Question]:
  def question(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
    text = f"{text} ({rate:g} lost, {link} links)"
    return study.Question(text, reference, arms, "dice", _role(rate, link), expects, _SPREAD)

  return [
    question("Does a deeper cut stand losses better?", "shallow", ("deep",), "better"),
    question("Do losses do harm?", "none", ("shallow", "deep"), "worse" if rate > 0.5 else "open"),
    question("Is it the skip connection?", "deep", ("deep-skip",), "open"),
    question("Does the shallow cut gain by rescaling?", "shallow", ("shallow-rescaled",), "open"),
    question("Does the deep cut gain by rescaling?", "deep", ("deep-rescaled",), "open"),
    question("Does it matter how clients are joined?", "deep", _JOINED, "open"),
  ]


QUESTIONS = tuple(q for rate in _RATES for link in _LINKS for q in _asked(rate, link))
PRESETS = {"demo": Config(), "evidence": Config(arms=tuple(ARMS), num_seeds=3)}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0)
  whole = abdomens.hospitals(config.num_people, config.shape, options.seed)
  roles = [_role(rate, link) for rate in config.loss_rates for link in _LINKS]
  frame = federations.frame(config, options.seed, whole, QUESTIONS, roles, config.arms)
  with options.directory(config, whole.manifest()) as directory:
    if directory.finished:
      return
    train, test = frame.begin(directory)
    task, held = Task(config), federated.by_domain(train.domain)
    names = frame.names(test)
    trained: dict[str, study.Trained] = {}
    rows: list[dict[str, Any]] = []
    for arm in config.arms:
      way: Way = ARMS[arm].make()
      trained_on, apart = set_aside(held)
      judged = jax.tree.map(lambda x, rows=apart: x[rows], train)
      classes_of = task.tester(way)
      for rate in (0.0,) if arm == "none" else config.loss_rates:
        step = task.federation(way, rate, judged)
        for seed in frame.design.seeds:
          job = federations.job(
            f"{arm}-{rate:g}-{seed}",
            step,
            task.model,
            train,
            trained_on if way.joins == "learned" else held,
            seed=seed,
            num_rounds=config.num_rounds,
            batch_size=config.batch_size,
            local_steps=config.local_steps,
            weights=np.ones(len(held)) if way.weighs_alike else None,
            chunk=1,
          )
          one = study.train_job(job, directory, log_every=config.log_every, progress=False)
          trained.setdefault(f"{arm}, {rate:g}", one)
          for tested in config.loss_rates if arm == "none" else (rate,):
            for link in _LINKS:
              about = {"arm": arm, "seed": seed, "role": _role(tested, link)}
              found = classes_of(one.params, test, tested * (link == "lossy"), seed)
              rows += abdomens.scored(found, test.label, names, about)
    found = frame.design.results(rows, ("dice",), is_simulated=True)
    study.finish(directory, found, page(found, trained), trained=list(trained.values()), rows=rows)


def page(found: dict[str, Any], trained: dict[str, study.Trained]) -> Report:
  """Dice by rate and link, verdicts and curves."""
  report = study.page.start("A network cut between hospital and server", found)
  roles = list(found["test_cases"])
  report.section("Dice by what is lost", "Rows: how the network is cut and joined.")
  report.table(
    ["arm", *roles],
    [
      [arm, *(own.get(role, {}).get("dice", {}).get("mean", float("nan")) for role in roles)]
      for arm, own in found["arms"].items()
    ],
    "Means over structures and people. Columns: share lost in training, links of testing.",
  )
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.curves(report, trained, {"loss": "mean loss of the clients"}, xlabel="round")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
