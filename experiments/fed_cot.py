"""Fed-CoT: do two teachers help hospitals whose scans are mostly without labels?

Zhan et al., "Fed-CoT: Co-teachers for Federated Semi-supervised MS Lesion Segmentation" (2023): a
student learns from few labelled scans, and from the answers of a teacher that the server averages
and of one that stays in the hospital. Claims: a mean teacher that is averaged is below supervised
federated training, co-teachers are above it.

  python -m experiments.fed_cot demo             simulated heads of four scanners, 2D, 2 seeds;
                                                 5 minutes (an estimate)
  python -m experiments.fed_cot evidence         all arms, 3 seeds, twice the updates; about 25
                                                 minutes (an estimate)
  python -m experiments.fed_cot volumes          volumes, three arms, 2 seeds; about 20 minutes (an
                                                 estimate)

Times are for 2 CPU cores; of `volumes` one training has been run. Published Dice on MSSEG-16 and a
private set: supervised .501 .526, pseudo-labels .569 .502, mean teacher .430 .510, Fed-CoT .605
.547.

Heads and lesions are those of the study of replay. A quarter of the training people of each scanner
is labelled. Controls: "cot-raw" does not mix what the teachers answer, as the paper's figure has
it; "cot-uncut" pastes nothing; "own" has the teacher that stays alone; "whole" knows every label.

DEVIATIONS: the text gives neither the teachers' rates nor the weight of agreement and its course
nor the number of boxes: .99, .9, 1 reached after a third of the rounds, and 3 boxes. In so short
trainings teachers of .99 do harm where few scans are labelled, and those of --decay 0.9 do not. A
small U-Net; no registration; pseudo-labels are the global student's at the start of a round. A
scan without a lesion in truth and answer has Dice 1.

results.json: the common schema of `study.results`; the role is "all".
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import federations
from experiments.ms_replay import simulation
from experiments.ms_replay.bench import scores_of
from medjax import cli, data, federated, losses, nets, study
from medjax.federated.co_teachers import half_squared
from medjax.train import Report
from medjax.types import IGNORE, Array, Model, Params, Source, Step

_SCANNERS = ("research", "hospital", "memory", "legacy")
_HEAD_MM = 190.0  # field of view

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Hospitals with few labels train students with teachers."""

  arms: tuple[str, ...] = ("supervised", "pseudo", "mean-teacher", "cot")
  num_seeds: int = 2
  num_people: int = 32  # of each scanner, half of them for testing
  labelled: float = 0.25  # share of the training people with labels
  shape: tuple[int, ...] = (32, 32)  # voxels of a slice or volume
  widths: tuple[int, ...] = (8, 16)  # channels of each level of the U-Net
  num_rounds: int = 8
  local_steps: int = 15  # updates of a client in a round
  batch_size: int = 8
  learning_rate: float = 3e-3  # Adam's, of the students
  agreement: float = 1.0  # lambda, reached after a third of the rounds
  decay: float = 0.99  # of teachers at each update: they remember 1 / (1 - decay) updates
  num_boxes: int = 3
  sides: tuple[int, int] = (4, 10)  # of the boxes, voxels
  log_every: int = 2  # rounds between two log rows

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- data


def scanner(name: str, num: int, shape: tuple[int, ...], seed: int) -> Source:
  """Heads with lesions under one scanner, each scan with mean 0 and deviation 1."""
  spacing = tuple(_HEAD_MM / n for n in shape)
  image, lesion = simulation.centre(name, ("flair",), num, shape, spacing, seed, ())
  axes = tuple(range(1, image.ndim))
  image = (image - image.mean(axes, keepdims=True)) / image.std(axes, keepdims=True)
  label = (lesion > 0.5).astype(np.int32)
  return data.from_records(
    [{"image": one, "label": own} for one, own in zip(image, label, strict=True)],
    class_names=("background", "lesion"),
    channel_names=("MRI",),
    spacing=spacing,
  )


def hidden(label: np.ndarray, domain: np.ndarray, share: float) -> np.ndarray:
  """The labels with those of all but the first people of each scanner ignored."""
  kept = np.zeros(len(label), bool)
  for scanner in np.unique(domain):
    own = np.flatnonzero(domain == scanner)
    kept[own[: max(1, round(share * len(own)))]] = True
  return np.where(kept.reshape(-1, *[1] * (label.ndim - 1)), label, IGNORE)


# --- model and arms


class Way(NamedTuple):
  """What an arm's students listen to."""

  teachers: tuple[Any, ...] = ()
  is_hard: bool = False
  mixes: bool = True
  cuts: bool = True
  knows_all: bool = False


class Task:
  """The network, and the federation of each arm."""

  def __init__(self, config: Config):
    self.config = config
    self.net = nets.from_linen(nets.UNet(1, config.widths, convolution="product"))
    # Student and averaged teacher start alike and go to the server side by side.
    self.model = Model(self._init, self.net.apply)

  def _init(self, key: Any, image: Any) -> tuple[Params, Any]:
    params, state = self.net.init(key, image)
    return {"student": params, "sync": params}, state

  def predict(self, params: Params, image: Array) -> Array:
    return self.net.apply(params, image)[0][..., 0]

  def federation(self, way: Way) -> Step:
    config = self.config
    rise = max(config.num_rounds // 3, 1)

    def supervised(logits: Array, label: Array) -> Array:
      two = jnp.stack([jnp.zeros_like(logits), logits], -1)
      entropy = losses.binary_cross_entropy(logits.ravel(), label.ravel())
      return entropy + losses.soft_dice(two, label)

    def hard(logits: Array, target: Array) -> Array:
      return losses.binary_cross_entropy(logits.ravel(), (target.ravel() > 0.5).astype(jnp.int32))

    made = federated.co_teachers(
      self.predict,
      supervised,
      optax.adam(config.learning_rate),
      weight=lambda t: config.agreement * jnp.minimum(1.0, (t + 1) / rise),
      boxes=federated.Boxes(config.num_boxes if way.cuts else 0, config.sides),
      teachers=way.teachers,
      alpha=config.decay,
      mixes_targets=way.mixes,
      agree=hard if way.is_hard else half_squared,
    )
    client = federated.local(
      made, keep=("extra",), metrics=("loss", "supervised", "agreement"), max_unrolled=1
    )
    number = len(_SCANNERS)
    return federated.federated(client, num_clients=number, cohort=number)


_BOTH = ("sync", "own")
ARMS = study.arms(
  study.Arm("supervised", "labelled scans alone", Way),
  study.Arm("pseudo", "the global student's classes", functools.partial(Way, ("global",), True)),
  study.Arm("mean-teacher", "the averaged teacher", functools.partial(Way, ("sync",))),
  study.Arm("own", "the teacher that stays", functools.partial(Way, ("own",))),
  study.Arm("cot", "both teachers", functools.partial(Way, _BOTH)),
  study.Arm("cot-raw", "answers not mixed", functools.partial(Way, _BOTH, mixes=False)),
  study.Arm("cot-uncut", "nothing pasted", functools.partial(Way, _BOTH, cuts=False)),
  study.Arm("whole", "every label known", functools.partial(Way, knows_all=True)),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.15), ("seed", 0.04))


def _question(text: str, reference: str, arm: str, expects: Any) -> study.Question:
  return study.Question(text, reference, (arm,), "dice", "all", expects, _SPREAD)


QUESTIONS = (
  _question("Is an averaged mean teacher worse than none?", "supervised", "mean-teacher", "worse"),
  _question("Do co-teachers help?", "supervised", "cot", "better"),
  _question("Are two better than the averaged one?", "mean-teacher", "cot", "better"),
  _question("Are two better than the one that stays?", "own", "cot", "open"),
  _question("Are they better than pseudo-labels?", "pseudo", "cot", "better"),
  _question("Do pseudo-labels help?", "supervised", "pseudo", "open"),
  _question("Does it matter that answers are mixed?", "cot-raw", "cot", "open"),
  _question("Does pasting help?", "cot-uncut", "cot", "open"),
  _question("Do all labels help?", "supervised", "whole", "better"),
)
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=tuple(ARMS), num_seeds=3, num_rounds=12, local_steps=20),
  "volumes": Config(
    arms=("supervised", "mean-teacher", "cot"),
    shape=(8, 24, 24),
    sides=(2, 6),
    num_people=16,
    batch_size=4,
    local_steps=20,
  ),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0)
  whole = data.concat(
    {name: scanner(name, config.num_people, config.shape, options.seed) for name in _SCANNERS}
  )
  frame = federations.frame(
    config, options.seed, whole, QUESTIONS, ["all"], config.arms, shares=(1 / 2, 1 / 2)
  )
  with options.directory(config, whole.manifest()) as directory:
    if directory.finished:
      return
    train, test = frame.begin(directory)
    task, held, names = Task(config), federated.by_domain(train.domain), frame.names(test)
    few = train.replace(label=hidden(train.label, train.domain, config.labelled))
    predict = study.ChunkedPredictor(task.predict, chunk=16)
    trained: dict[str, study.Trained] = {}
    rows: list[dict[str, Any]] = []

    def score(one: study.Trained, about: dict[str, Any]) -> study.Scored:
      found = predict(one.params["student"], test.image)
      lesion = np.asarray(jax.nn.sigmoid(found))
      return study.Scored(
        [
          {
            **about,
            "case": name,
            "subject": name,
            "domain": name.partition("/")[0],
            "dice/lesion": scores_of(ours, theirs)["dice"],
          }
          for name, ours, theirs in zip(names, lesion, test.label, strict=True)
        ]
      )

    for arm in config.arms:
      way: Way = ARMS[arm].make()
      step = task.federation(way)
      for seed in frame.design.seeds:
        job = federations.job(
          f"{arm}-{seed}",
          step,
          task.model,
          train if way.knows_all else few,
          held,
          seed=seed,
          num_rounds=config.num_rounds,
          batch_size=config.batch_size,
          local_steps=config.local_steps,
          weights=np.ones(len(held)),
          chunk=1,
        )
        one = study.train_job(job, directory, log_every=config.log_every, progress=False)
        trained.setdefault(arm, one)
        make = functools.partial(score, one, {"arm": arm, "seed": seed, "role": "all"})
        rows += study.kept(directory, one.name, one.params, make).rows
    found = frame.design.results(rows, ("dice",), is_simulated=True)
    study.finish(directory, found, page(found, trained), trained=list(trained.values()), rows=rows)


def page(found: dict[str, Any], trained: dict[str, study.Trained]) -> Report:
  """Dice, verdicts and curves."""
  report = study.page.start("Teachers for hospitals with few labels", found)
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  labels = {"supervised": "loss on labelled scans", "agreement": "distance from the teachers"}
  study.page.curves(report, trained, labels, xlabel="round", caption="First seed.")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
