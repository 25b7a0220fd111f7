"""UniverSeg: from how many labelled people on does a trained network beat one that reads them?

Kim et al., "Empirical Analysis of a Segmentation Foundation Model in Prostate Imaging" (2023): a
network that was trained on many tasks segments a new one from a support of labelled slices, without
an update; nnU-Net is trained on the same slices. Claims: reading wins with one labelled person and
training overtakes it at two to five; in volumes a support that may show empty slices is better.

  python -m experiments.universeg demo        simulated abdomens, trained on made-up tasks; about 15
                                              minutes
  python -m experiments.universeg evidence    the same with 3 seeds, a longer training and every
                                              arm; about 25 minutes
  python -m experiments.universeg medscribble --data ACDC --data WBC --maps BRAINS
                                              pictures of nnU-Net folders, each with one structure,
                                              1 and 2 labelled; about 25 minutes
  python -m experiments.universeg zones --data ZONES
                                              a folder of label maps, such as zones of prostates,
                                              under images by the generator; about 20 minutes
  python -m experiments.universeg folder --data FOLDER
                                              your nnU-Net folder, pictures or volumes; about 20
                                              minutes
  python -m experiments.universeg paper --data FOLDER
                                              the released widths at 128 x 128 with supports of 64;
                                              wants an accelerator

Times are for 2 CPU cores. `--maps FOLDER` adds a folder of label maps, NIfTI or PNG, to the
training tasks. Published 2D Dice of the prostate gland with 1, 2, 5 and 10 labelled people: nnU-Net
.592 .714 .810 .817, UniverSeg .711 .769 .780 .802; 3D Dice with empty slices and without, 10
labelled: .778 and .543.

DEVIATIONS: the released weights cannot be had here; the same network, smaller, is trained on label
maps under images by `synth.generate_alike`: random shapes, procedural anatomies, your `--maps`. The
trained network is a U-Net without folds, ensembles and mirroring at test time. "trusted" is no part
of the paper: weights of the support by gradients on the support.

results.json: the common schema of `study.results`; roles are numbers of labelled people;
structures: arm -> role -> structure -> mean Dice; ceiling: Dice of the truth brought to the
network's grid and back. timing.json, seconds: arm -> role -> of a tested
case, U-Nets with their training.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import support_readers, support_tasks
from experiments.support_readers import Task
from experiments.support_tasks import Fold, LabelledVolumes
from medjax import check, cli, inference, study
from medjax.train import Report

_SHOTS = (1, 2, 5, 10)  # labelled people that questions were asked for


@dataclasses.dataclass(frozen=True)
class Config(support_readers.Settings):
  """A network that reads labelled slices, against networks that are trained on them."""

  arms: tuple[str, ...] = ("unet", "inclusive", "agnostic", "random", "shuffled")  # compared
  shots: tuple[int, ...] = _SHOTS  # labelled people
  num_seeds: int = 1
  num_slices: int = 8  # of a simulated abdomen
  num_people: int = 18  # simulated; label maps of the preset "zones"
  subject: str = ""  # regular expression with one group that finds the person in a case name
  maps: tuple[str, ...] = ()  # folders of label maps to train on beside the made-up ones
  num_maps: int = 400  # random shapes to train on

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(self.shots, "one number of labelled people or more", "none", "see --shots")
    for num in self.shots:
      check.one_of("shots", num, _SHOTS)


# --- arms

_MADE: Callable[..., Any] = functools.partial
ARMS = study.arms(
  study.Arm("unet", "trained on the labelled slices, with augmentation", Task.unet),
  study.Arm("unet-plain", "the same without augmentation", _MADE(Task.unet, augments=False)),
  study.Arm(
    "inclusive", "reads slices near in z that show the structure", _MADE(Task.read, inclusive=True)
  ),
  study.Arm("agnostic", "reads slices near in z, empty ones too", Task.read),
  study.Arm("random", "the same, wherever in z", _MADE(Task.read, weigh=inference.anywhere)),
  study.Arm("ensemble", "agnostic, five supports averaged", _MADE(Task.read, draws=5)),
  study.Arm("trusted", "agnostic, weights by gradients", _MADE(Task.read, trusts=True)),
  study.Arm(
    "shuffled", "agnostic, masks of other slices: the control", _MADE(Task.read, shuffles=True)
  ),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.08), ("seed", 0.03))


def _role(num: int) -> str:
  return f"{num} labelled"


def _asked(num: int) -> tuple[study.Question, ...]:
  wins: Any = {1: "better", 10: "worse"}.get(num, "open")
  questions: tuple[tuple[str, str, tuple[str, ...], str, Any], ...] = (
    ("Does reading beat training, in slices?", "unet", ("inclusive",), "slice_dice", wins),
    ("Does reading beat training, in volumes?", "unet", ("agnostic",), "dice", wins),
    ("Are volumes better read with empty slices?", "inclusive", ("agnostic",), "dice", "better"),
    ("Are the masks of the support read?", "shuffled", ("agnostic",), "dice", "better"),
    ("Does nearness in z matter?", "random", ("agnostic",), "dice", "open"),
    ("Do more draws, or trust, help?", "agnostic", ("ensemble", "trusted"), "dice", "open"),
    ("Does augmentation help the U-Net?", "unet-plain", ("unet",), "dice", "open"),
  )  # fmt: skip
  return tuple(
    study.Question(f"{text} ({num} labelled)", against, arms, metric, _role(num), expects, _SPREAD)
    for text, against, arms, metric, expects in questions
  )


QUESTIONS = tuple(question for num in _SHOTS for question in _asked(num))
_PICTURES: dict[str, Any] = {"size": 48, "shots": (1, 2), "num_updates": 1000}
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=tuple(ARMS), num_seeds=3, num_updates=1800, num_people=20),
  "medscribble": Config(
    arms=("unet", "unet-plain", "agnostic", "trusted", "shuffled"), **_PICTURES
  ),
  "zones": Config(size=48, num_people=18, num_updates=1000, shots=(1, 5)),
  "folder": Config(size=64, num_updates=1000, shots=(1, 2)),
  "paper": Config(
    size=128,
    widths=(64, 64, 64, 64),
    num_support=64,
    num_shown=64,
    num_updates=50_000,
    learning_rate=1e-4,
    unet_widths=(32, 64, 128, 256),
    unet_updates=5000,
  ),
}

# --- the run and its page


def load(config: Config, options: cli.RunOptions) -> tuple[str, list[LabelledVolumes]]:
  """Title and the kinds of volumes that are tested."""
  size = config.size
  if options.preset in ("demo", "evidence"):
    study.paths_of(options.data, 0)
    volumes = support_tasks.simulated(config.num_people, size, config.num_slices, options.seed)
    return "simulated abdomens", [volumes]
  if options.preset == "zones":
    (path,) = study.paths_of(options.data, 1)
    volumes = support_tasks.of_maps(path, config.num_people, size, options.seed)
    return f"label maps of {path.resolve().name}, images by the generator", [volumes]
  several = len(options.data) > 1
  paths = [path.resolve() for path in study.paths_of(options.data, None if several else 1)]
  found = [
    support_tasks.folder(p, size, config.subject, f"{p.name} " if several else "") for p in paths
  ]
  return " and ".join(p.name for p in paths), found


def build(config: Config, options: cli.RunOptions) -> None:
  title, kinds = load(config, options)
  is_simulated = options.preset in ("demo", "evidence", "zones")
  single = 1 if is_simulated else 0
  folds = [
    fold
    for volumes in kinds
    for fold in support_tasks.folds(volumes, max(config.shots), options.seed, num_folds=single)
  ]
  for fold in folds:
    support_readers.check_shown(fold, min(config.shots))
  families = support_tasks.families(config.size, config.num_maps, options.seed, config.maps)
  turns = [
    study.Turn(
      fold.turn, None, (), {},
      study.people_by_part(
        [case.subject for case in fold.volumes.cases], {"labelled": fold.pool, "test": fold.test}
      ),
    )
    for fold in folds
  ]  # fmt: skip
  num_people = sum(len(turn.people["test"]) for turn in turns)
  tested = {_role(num): num_people for num in config.shots}
  design = study.design(config, options.seed, QUESTIONS, config.arms, turns, tested=tested)
  record = {"tested": [volumes.manifest for volumes in kinds], "maps": list(config.maps)}
  with options.directory(config, record) as directory:
    if directory.finished:
      return
    design.begin(directory)
    trained: dict[str, list[study.Trained]] = {"reader": [], "unet": []}
    rows: list[dict[str, Any]] = []
    seconds: dict[str, dict[str, float]] = {}
    for seed in design.seeds:
      task = Task(config, seed, directory)
      trained["reader"].append(task.meta_train(families))
      for arm in config.arms:
        for num in config.shots:
          for fold in folds:
            about = {"arm": arm, "seed": seed, "role": _role(num)}
            make = functools.partial(_scored, ARMS[arm].make, task, fold, num, about)
            name = f"{arm}-{fold.turn}-{num}-{seed}"
            one = study.kept(directory, name, task.params, make)
            rows += one.rows
            seconds.setdefault(arm, {})[_role(num)] = one.seconds
      trained["unet"] += task.trained
    found = design.results(
      rows,
      ("dice", "slice_dice"),
      is_simulated=is_simulated,
      structures=structures(rows),
      ceiling=float(np.mean([support_tasks.ceiling(volumes) for volumes in kinds])),
    )
    report = page(title, found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows, times={"seconds": seconds})


def _scored(
  make: Callable[..., list[np.ndarray]], task: Task, fold: Fold, num: int, about: dict[str, Any]
) -> study.Scored:
  began = time.perf_counter()
  said = make(task, fold, num)
  seconds = (time.perf_counter() - began) / len(fold.test)
  return study.Scored(support_tasks.scored(said, fold, about), seconds=seconds)


def structures(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
  """Arm -> role -> structure of a kind -> mean Dice over people and seeds."""
  found: dict[str, dict[str, dict[str, list[float]]]] = {}
  for row in rows:
    own = found.setdefault(row["arm"], {}).setdefault(row["role"], {})
    for name, value in row.items():
      if name.startswith("dice/") and value == value:
        own.setdefault(f"{row['domain']}{name[5:]}", []).append(value)
  return {
    arm: {role: {k: float(np.mean(v)) for k, v in own.items()} for role, own in roles.items()}
    for arm, roles in found.items()
  }


def page(title: str, found: dict[str, Any], trained: dict[str, list[study.Trained]]) -> Report:
  """Dice by number of labelled people and by structure, verdicts and curves."""
  report = study.page.start(f"Reading labelled slices of {title}", found)
  roles = list(found["test_cases"])
  for metric, what in (("dice", "the whole volume"), ("slice_dice", "slices with the structure")):
    report.section(f"Dice in {what}")
    report.table(
      ["arm", *roles],
      [[a, *(own[role][metric]["mean"] for role in roles)] for a, own in found["arms"].items()],
      "Means over structures, people and seeds. The truth brought to the network's grid and back"
      f" has a Dice of {found['ceiling']:.3f} in volumes.",
    )
  names = list(
    dict.fromkeys(k for own in found["structures"].values() for r in own.values() for k in r)
  )
  report.table(
    ["arm", "role", *names],
    [
      [arm, role, *(own.get(name, np.nan) for name in names)]
      for arm, roles in found["structures"].items()
      for role, own in roles.items()
    ],
    "Dice of each structure.",
  )
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  caption = "First training of each kind."
  study.page.trainings(report, found, trained, {"loss": "loss"}, caption=caption)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
