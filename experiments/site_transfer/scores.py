"""Scores of the transfer study: tables as published, and the planned comparisons.

Dice and surface Dice of every test case at target and source. A pair enters tables and comparisons
under an optimiser only if the source's network loses at least `threshold` of Dice against the
oracle there: where there is no gap, nothing is to be transferred.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.lscl.scores import Picture
from experiments.site_transfer.hospitals import Setting
from experiments.site_transfer.training import BASELINES, CONTROLS, Config, Optimiser, Trained
from experiments.slice_stacks import Stack
from medjax import data, metrics
from medjax.types import PyTree

METRICS = ("surface_dice", "dice")
ROLES = ("target", "source")
NO_TRANSFER, ORACLE, SOURCE_MODEL = "no transfer", "oracle", "source model"
_CHUNK = 16  # slices a call
_LEVELS = ("pair", "seed", "subject")


class Scored(NamedTuple):
  """Networks on test cases.

  Attributes:
    rows: of cases.csv.
    pictures: two target cases.
  """

  rows: list[dict[str, Any]]
  pictures: list[Picture]


class Scorer:
  """Predicts and measures; one program for all networks of one `apply`."""

  def __init__(self, config: Config, setting: Setting):
    self._config, self._setting = config, setting
    self._programs: dict[Any, Callable[[PyTree, np.ndarray], jax.Array]] = {}

  def __call__(self, trained: Trained, stacks: Sequence[Stack], about: Mapping[str, Any]) -> Scored:
    """Rows and pictures; `about` goes before the figures of each row."""
    rows, pictures = [], []
    names = self._setting.class_names
    for stack in stacks:
      prediction = self.predict(trained, stack)
      found = {
        "surface_dice": metrics.surface_dice(
          prediction,
          stack.truth,
          num_classes=len(names),
          spacing=stack.spacing,
          tolerance_mm=self._config.tolerance_mm,
        ),
        "dice": metrics.dice(prediction, stack.truth, num_classes=len(names)),
      }
      figures = {
        f"{metric}/{name}": float(value)
        for metric, values in found.items()
        for name, value in zip(names[1:], np.asarray(values), strict=True)
      }
      case = {"case": stack.name, "subject": f"{stack.site}/{stack.subject}", "domain": stack.site}
      rows.append({**about, **case, **figures})
      if len(pictures) < 2:
        pictures.append(_picture(stack, prediction, mean(rows[-1], "dice")))
    return Scored(rows, pictures)

  def predict(self, trained: Trained, stack: Stack) -> np.ndarray:
    """Class ids on the case's grid."""
    program = self._programs.setdefault(trained.apply, jax.jit(jax.vmap(trained.apply, (None, 0))))
    spare = -len(stack.image) % _CHUNK
    images = np.pad(stack.image, [(0, spare), (0, 0), (0, 0), (0, 0)])
    parts = [program(trained.params, images[i : i + _CHUNK]) for i in range(0, len(images), _CHUNK)]
    planes = np.concatenate([np.asarray(p) for p in parts])[: len(stack.image)].argmax(-1)
    space = stack.truth.shape
    grid = [data.fit_to_shape(plane.astype(np.int32), space[:2]) for plane in planes]
    return np.stack(grid, axis=-1).reshape(space)


def mean(row: Mapping[str, Any], metric: str) -> float:
  """Over structures in truth or prediction; a case with none counts as right."""
  found = [v for k, v in row.items() if k.startswith(f"{metric}/") and np.isfinite(v)]
  return float(np.mean(found)) if found else 1.0


class Tables:
  """The rows of all networks, asked by arm."""

  def __init__(self, rows: Iterable[Mapping[str, Any]]):
    self._cells: dict[tuple, dict[str, list[Mapping[str, Any]]]] = {}
    for row in rows:
      key = (row["optimiser"], row["arm"], row["size"], row["role"], row["pair"], row["seed"])
      self._cells.setdefault(key, {}).setdefault(row["subject"], []).append(row)
    self.seeds = sorted({key[5] for key in self._cells})

  def people(
    self, optimiser: str, arm: str, size: float, role: str, pair: str, seed: int, metric: str
  ) -> np.ndarray:
    """[person] mean over the cases of each."""
    found = self._cells[optimiser, arm, size, role, pair, seed]
    return np.array([np.mean([mean(row, metric) for row in found[name]]) for name in sorted(found)])

  def has(self, optimiser: str, arm: str, size: float) -> bool:
    return any(key[:3] == (optimiser, arm, size) for key in self._cells)

  def cube(
    self, optimiser: str, arm: str, size: float, role: str, pairs: Sequence[str], metric: str
  ) -> np.ndarray:
    """[pair, seed, person]; pairs test other people, so the person axis holds places.

    Sites with fewer people than the largest repeat theirs in turn.
    """
    cells = [
      [self.people(optimiser, arm, size, role, p, s, metric) for s in self.seeds] for p in pairs
    ]
    most = max((len(cell) for row in cells for cell in row), default=0)
    return np.array([[np.resize(cell, most) for cell in row] for row in cells])

  def published(
    self, optimiser: str, arm: str, size: float, role: str, pairs: Sequence[str], metric: str
  ) -> dict[str, float]:
    """Mean over pairs for each seed, then mean and deviation over seeds."""
    by_seed = [
      np.mean([self.people(optimiser, arm, size, role, p, s, metric).mean() for p in pairs])
      for s in self.seeds
    ] if pairs else [np.nan]  # fmt: skip
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan")
    return {"mean": float(np.mean(by_seed)), "std": spread}


def results(
  config: Config,
  setting: Setting,
  rows: Sequence[Mapping[str, Any]],
  flops: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
  """results.json: fixed keys, no times; `flops` of an update by optimiser and arm."""
  tables = Tables(rows)
  gaps = {optimiser: _gaps(config, setting, tables, optimiser) for optimiser in config.optimisers}
  found: dict[str, Any] = {}
  for optimiser in config.optimisers:
    pairs = [name for name, gap in gaps[optimiser].items() if gap["in_table"]]

    def figures(arm: str, size: float, roles: Sequence[str], optimiser=optimiser, pairs=pairs):
      return {
        role: {m: tables.published(optimiser, arm, size, role, pairs, m) for m in METRICS}
        for role in roles
      }

    found[optimiser] = {
      "pairs": gaps[optimiser],
      "bounds": {
        NO_TRANSFER: figures(NO_TRANSFER, 0, ROLES),
        ORACLE: figures(ORACLE, 0, ("target",)),
      },
      "sizes": {
        f"{size:g}": {
          arm: {**figures(arm, size, ROLES), "flops_an_update": flops[optimiser][arm]}
          for arm in config.arms_of(optimiser)
        }
        for size in config.target_sizes
      },
    }
  return {
    "sizes": _sizes(config, setting, tables.seeds),
    "test_people": {
      pair.name: {
        "target": len({s.subject for s in pair.target_test}),
        "source": len({(s.site, s.subject) for s in pair.source_test}),
      }
      for pair in setting.pairs
    },
    "optimisers": found,
    "questions": questions(config, tables, gaps),
  }


def _sizes(config: Config, setting: Setting, seeds: Sequence[int]) -> list[dict[str, Any]]:
  """People and slices of every size; slices are a range where people differ."""
  rows = []
  for size in config.target_sizes:
    slices = [len(p.target_rows(size, seed)) for p in setting.pairs for seed in seeds]
    rows.append({"people": size, "least_slices": min(slices), "most_slices": max(slices)})
  return rows


def _gaps(
  config: Config, setting: Setting, tables: Tables, optimiser: Optimiser
) -> dict[str, dict[str, Any]]:
  """What there is to gain at every pair, in Dice."""
  found = {}
  for pair in setting.pairs:
    low, high = (
      tables.published(optimiser, arm, 0, "target", [pair.name], "dice")["mean"]
      for arm in (NO_TRANSFER, ORACLE)
    )
    is_in = bool(high - low >= config.threshold)
    found[pair.name] = {NO_TRANSFER: low, ORACLE: high, "gap": high - low, "in_table": is_in}
  return found


def questions(
  config: Config, tables: Tables, gaps: Mapping[Any, Mapping[str, Mapping[str, Any]]]
) -> list[dict[str, Any]]:
  """Planned comparisons under every optimiser and at every size, Holm within each.

  "few": MMTL against the best of the four baselines at the target. "source": MMTL against the
  source's network at the source. "history": OCTL against fine-tuning and against every control.
  """
  rows = []
  for optimiser in config.optimisers:
    pairs = [name for name, gap in gaps[optimiser].items() if gap["in_table"]]
    for size in config.target_sizes if pairs else ():
      present: list[str] = [
        arm for arm in config.arms_of(optimiser) if tables.has(optimiser, arm, size)
      ]

      def cube(arm, role, metric, size=size, optimiser=optimiser, pairs=pairs):
        return tables.cube(optimiser, arm, size, role, pairs, metric)

      for metric in METRICS:
        about = {"optimiser": optimiser, "size": size, "metric": metric, "pairs": len(pairs)}
        target: dict[str, np.ndarray] = {arm: cube(arm, "target", metric) for arm in present}
        baselines = [arm for arm in BASELINES if arm in present]
        if "mmtl" in present and baselines:
          best = max(baselines, key=lambda arm: float(target[arm].mean()))
          asked = {best: target[best], "mmtl": target["mmtl"]}
          rows += _asked(config, "few", about, asked, best)
          kept = {
            SOURCE_MODEL: cube(NO_TRANSFER, "source", metric, size=0),
            "mmtl": cube("mmtl", "source", metric),
          }
          rows += _asked(config, "source", about, kept, SOURCE_MODEL)
        against = [arm for arm in ("fine-tune", *CONTROLS) if arm in present]
        if "octl" in present and against:
          # Verdicts are OCTL's: every control is the reference of a comparison of its own.
          asked = {arm: target["octl"] - target[arm] for arm in against}
          asked["nothing"] = np.zeros_like(target["octl"])
          rows += _asked(config, "history", about, asked, "nothing", swap="octl")
  return rows


def _asked(
  config: Config,
  question: str,
  about: Mapping[str, Any],
  scores: Mapping[str, np.ndarray],
  reference: str,
  *,
  swap: str = "",
) -> list[dict[str, Any]]:
  """Rows of the comparison; with `swap` each arm's scores are already that arm's gain over it."""
  found = metrics.compare(scores, reference=reference, margin=config.margin, levels=_LEVELS)
  rows = []
  for arm, comparison in found.items():
    row = comparison._asdict()
    if swap:
      row |= {"arm": swap, "reference": arm}
      del row["mean"], row["reference_mean"]
    rows.append({"question": question, **about, **row})
  return rows


def _picture(stack: Stack, prediction: np.ndarray, dice: float) -> Picture:
  """The slice with most foreground, on the case's grid."""
  truth, best = stack.truth, 0
  if truth.ndim == 3:
    best = int((truth > 0).sum((0, 1)).argmax())
    truth, prediction = truth[..., best], prediction[..., best]
  image = stack.image[best]
  image = image if image.shape[-1] == 3 else image[..., :1]
  shown = np.stack([data.fit_to_shape(c, truth.shape) for c in np.moveaxis(image, 2, 0)], -1)
  shown = shown if shown.shape[-1] == 3 else shown[..., 0]
  return Picture(stack.name, stack.site, shown, truth, prediction, dice)
