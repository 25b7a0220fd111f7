"""MAP: do episodes over made-up appearances teach shapes, and is a meta-gradient needed?

Hu et al., "Domain Generalization via Meta-Learning on Anatomy-Consistent Pseudo-Modalities" (2023):
a picture is shown in other ways that keep its vessels; a network learns from one of them and is
held to mixtures of the others, with features that are alike within a picture and apart between
pictures. Claims: plain training < decorrelation < episodes and decorrelation < all three terms, and
far sites gain most.

  python -m experiments.map demo       simulated trees, three appearances unseen, 2 seeds; about 5
                                       minutes
  python -m experiments.map evidence   all arms, 5 seeds; about 25 minutes
  python -m experiments.map folders --data SITE1 --data SITE2 --train_on SITE1
                                       your nnU-Net folders of PNG files, background and vessel
  python -m experiments.map retina --data retina --data retina_drive --data OCTA500 --data STARE
                                       eye grounds train, angiographies and others are unseen; about
                                       15 minutes

Times are estimates for 2 CPU cores. Published mean Dice: none .630, decorrelation .660, episodes
.652, with similarity .668, with decorrelation .681, both .694. The paper speaks of meta-learning;
its released code makes an epoch of plain updates and then one on the mixtures, on the same weights
("map"). The arms "map-first" and "map-exact" look ahead and go back, without and with the second
derivative.

Compute: the alternation makes one gradient an update, of one view and of mixtures in turn, the look
ahead both and more. "map-long" is the alternation with as many updates as cost what "map-exact"
costs; operations are counted by the compiler, those of an alternation as the mean over its phases.
"mixed" is the control: mixtures without episodes. The learning rate is halved `halvings` times, as
in the paper, in every arm: an alternation at a constant rate ends with what its last phase taught
and has forgotten the other (here .88 before and .13 after ten updates).

Appearances are analytic maps (`vessel_sets.views`). "mixed-nets" and "map-nets" take those of three
networks trained on vessels alone (`vessel_looks`), as the paper does; the networks are trained once
for each set of sites, on the people that train, and are not counted as compute.

DEVIATIONS: cross-entropy and soft Dice (the released Dice is of argmax and has no
gradient); terms are means, not sums, so that sizes do not matter; pictures that are told apart are
four of a group; a small U-Net on small pictures.

results.json: the common schema of `study.results` in the roles of `left_out_sites`; by_site.<arm>;
updates.<arm>.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from experiments import left_out, vessel_episodes, vessel_looks, vessel_sets
from experiments.vessel_episodes import TERMS, Task
from medjax import cli, data, rng, study
from medjax.train import RunDirectory
from medjax.types import Source

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(vessel_episodes.Settings):
  """Networks that outline vessels in appearances they have never seen."""

  num_seeds: int = 2
  num_pictures: int = 40  # simulated pictures a site
  arms: tuple[str, ...] = ("erm", "mixed", "decorrelated", "episodes", "map", "map-first")
  num_steps: int = 200  # updates
  look_steps: int = 200  # updates of each network that makes up an appearance
  eval_every: int = 100
  train_on: tuple[str, ...] = ("known",)  # sites that train; () leaves each out in turn
  choose: Literal["best", "last"] = "last"  # weights: best on validation people of sources, or last
  resample: bool = False  # sites come equally often

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- arms

_TERMS: dict[str, tuple[str, ...]] = {
  "episodes": (), "episodes-dec": ("decorrelation",), "map": TERMS, "map-long": TERMS,
  "map-nets": TERMS,
}  # fmt: skip
"""The arms that alternate, and the terms of their second phase."""
ARMS = study.arms(
  study.Arm("erm", "the pictures as they are", Task.plain),
  study.Arm("mixed", "mixtures of views, no episodes", Task.mixed),
  study.Arm("decorrelated", "mixtures, cosines apart", lambda t: t.mixed("decorrelation")),
  study.Arm("episodes", "one view, then mixtures, in turn", lambda t: t.episodes("alternate")),
  study.Arm("episodes-dec", "the same, cosines apart",
            lambda t: t.episodes("alternate", "decorrelation")),
  study.Arm("map", "the same, features near the anchor", lambda t: t.episodes("alternate", *TERMS)),
  study.Arm("map-first", "look ahead, first order", lambda t: t.episodes("first_order", *TERMS)),
  study.Arm("map-exact", "look ahead, exact", lambda t: t.episodes("exact", *TERMS)),
  study.Arm("map-long", "the alternation for what the exact one costs",
            lambda t: t.episodes("alternate", *TERMS, num_steps=t.long_steps)),
  study.Arm("mixed-nets", "mixtures of what networks make up", lambda t: t.mixed(views="looks")),
  study.Arm("map-nets", "all terms on what networks make up",
            lambda t: t.episodes("alternate", *TERMS, views="looks")),
)  # fmt: skip

# --- questions, written down before the run

_SPREAD = (("subject", 0.1), ("seed", 0.03))


def _ask(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
  return study.Question(text, reference, arms, "dice", "unseen", expects, _SPREAD)


QUESTIONS = (
  _ask("Do mixtures of views help on appearances unseen?", "erm", ("mixed",), "better"),
  _ask("Does decorrelation help?", "mixed", ("decorrelated",), "better"),
  _ask("Do episodes help by themselves?", "mixed", ("episodes",), "better"),
  _ask("Do episodes add to decorrelation?", "decorrelated", ("episodes-dec",), "better"),
  _ask("Does similarity add to both?", "episodes-dec", ("map",), "better"),
  _ask("Is MAP above mixtures alone?", "mixed", ("map",), "better"),
  _ask("Is a meta-gradient better than the alternation?", "map", ("map-first", "map-exact"),
       "open"),
  _ask("Does the second derivative matter?", "map-first", ("map-exact",), "open"),
  _ask("Is the exact meta-gradient better than the alternation at equal compute?", "map-long",
       ("map-exact",), "open"),
  _ask("Are appearances by networks better than analytic ones?", "mixed", ("mixed-nets",), "open"),
  _ask("The same under all terms?", "map", ("map-nets",), "open"),
)  # fmt: skip
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=tuple(ARMS), num_seeds=5, num_steps=400),
  "folders": Config(size=96, num_steps=1000, batch_size=8, widths=(8, 16, 32), train_on=()),
  "retina": Config(
    size=96, num_seeds=2, arms=("erm", "mixed", "decorrelated", "map"),
    train_on=("retina", "retina_drive"),
    known="Published Dice on angiographies: none .73, all terms .79; other sites in other sizes.",
  ),
}  # fmt: skip

# --- data and the run


def load(config: Config, options: cli.RunOptions) -> dict[str, Source]:
  """The sites by name."""
  if options.preset in ("demo", "evidence"):
    study.paths_of(options.data, 0)
    number, size, seed = config.num_pictures, config.size, options.seed
    return {a: vessel_sets.tree(number, size, seed, a) for a in vessel_sets.APPEARANCES}
  paths = tuple(path.resolve() for path in study.paths_of(options.data, None))
  return vessel_sets.folders(paths, config.size)


def held(whole: Source, rows: Sequence[int]) -> dict[str, np.ndarray]:
  """Pictures, their views and vessels."""
  cases = data.stack(whole, rows)
  return {
    "image": cases.image,
    "views": np.stack([vessel_sets.views(image) for image in cases.image]),
    "label": cases.label,
    "domain": cases.domain,
    "index": cases.index,
  }


def prepared(
  config: Config, seed: int, task: Task, turn: study.Turn, directory: RunDirectory
) -> study.Turn:
  """The turn with what networks make up, where an arm wants it."""
  del task
  if not {"mixed-nets", "map-nets"} & set(config.arms):
    return turn
  key = rng.stream(jax.random.key(seed), "looks")
  return vessel_looks.prepared(
    config.widths, config.learning_rate, config.look_steps, config.batch_size, key, turn, directory
  )


def updates_of(task: Task, arm: str) -> int:
  return task.long_steps if arm == "map-long" else task.config.num_steps


def flops_of(task: Task, arm: str) -> float:
  """Operations of an update."""
  if arm in _TERMS:
    return task.alternation_flops(*_TERMS[arm])
  return study.flops(ARMS[arm].make(task), *task.shapes)


def build(config: Config, options: cli.RunOptions) -> None:
  frame = left_out.LeftOutFrame(
    "Vessels in unseen appearances",
    ARMS,
    QUESTIONS,
    metrics=("dice",),
    labels={"loss": "loss", "alignment": "cosine of the gradients of both views"},
    prepare=functools.partial(prepared, config, options.seed),
    updates=updates_of,
    flops=flops_of,
    more=lambda trained: {"updates": {arm: own[0].num_updates for arm, own in trained.items()}},
  )
  task = Task(config)
  left_out.run(
    frame, config, options, load(config, options), lambda whole: task, config.arms, held=held
  )


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
