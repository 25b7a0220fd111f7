"""Scores of the transfer study: tables as published, and the planned comparisons.

Of every test case at target and source. A pair enters tables and comparisons under an optimiser
only if the source's network loses at least `threshold` of the setting's last score against the
oracle there: where there is no gap, nothing is to be transferred. Where the target's findings are
others than the source's, the source's network has nothing to say there, and all pairs enter.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.site_transfer.config import BASELINES, CONTROLS, Config, Optimiser
from experiments.site_transfer.setting import Setting
from medjax import metrics, study

ROLES = ("target", "source")
NO_TRANSFER, ORACLE, SOURCE_MODEL = "no transfer", "oracle", "source model"
_LEVELS = ("pair", "seed", "subject")


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
    return np.array(
      [np.mean([study.mean(row, metric) for row in found[name]]) for name in sorted(found)]
    )

  def has(self, optimiser: str, arm: str, size: float) -> bool:
    return any(key[:3] == (optimiser, arm, size) for key in self._cells)

  def cube(
    self, optimiser: str, arm: str, size: float, role: str, pairs: Sequence[str], metric: str
  ) -> np.ndarray:
    """[pair, seed, person]; pairs test other people, so the person axis holds places.

    Sites with fewer people than the largest repeat theirs in turn, moved to the mean of all: every
    pair keeps the mean that the tables show.
    """
    cells = [
      [self.people(optimiser, arm, size, role, p, s, metric) for s in self.seeds] for p in pairs
    ]
    most = max((len(cell) for row in cells for cell in row), default=0)
    return np.array([[_repeated(cell, most) for cell in row] for row in cells])

  def published(
    self, optimiser: str, arm: str, size: float, role: str, pairs: Sequence[str], metric: str
  ) -> dict[str, float]:
    """Mean over pairs for each seed, then mean and deviation over seeds; NaN if not scored."""
    is_scored = pairs and (optimiser, arm, size, role) in {key[:4] for key in self._cells}
    by_seed = [
      np.mean([self.people(optimiser, arm, size, role, p, s, metric).mean() for p in pairs])
      for s in self.seeds
    ] if is_scored else [np.nan]  # fmt: skip
    spread = float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else float("nan")
    return {"mean": float(np.mean(by_seed)), "std": spread}


def _repeated(values: np.ndarray, size: int) -> np.ndarray:
  found = np.resize(values, size)
  return found + (values.mean() - found.mean()) if size % len(values) else found


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
        role: {m: tables.published(optimiser, arm, size, role, pairs, m) for m in setting.metrics}
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
      pair.name: {role: len(pair.parts[f"{role} test"]) for role in ROLES} for pair in setting.pairs
    },
    **_findings(setting),
    "optimisers": found,
    "questions": with_compute(questions(config, setting, tables, gaps), flops),
  }


def with_compute(
  rows: Sequence[Mapping[str, Any]], flops: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
  """The rows with "compute", the operations of the arm's update over those of its reference's.

  All arms make equal numbers of updates; only where the ratio is 1 to 5 % is that equal compute.
  The source's own network makes no update here, and has no ratio.
  """
  found = []
  for row in rows:
    own = flops[row["optimiser"]]
    ratio = own[row["arm"]] / own[row["reference"]] if row["reference"] in own else None
    found.append({**row, "compute": ratio})
  return found


def _sizes(config: Config, setting: Setting, seeds: Sequence[int]) -> list[dict[str, Any]]:
  """Units and images of every size; images are a range where people differ."""
  rows: list[dict[str, Any]] = []
  for size in config.target_sizes:
    slices = [len(p.target_rows(size, seed)) for p in setting.pairs for seed in seeds]
    unit = setting.pairs[0].unit
    rows.append({unit: size, "least_slices": min(slices), "most_slices": max(slices)})
  return rows


def _findings(setting: Setting) -> dict[str, Any]:
  """Which findings have an AUROC: both outcomes among the people tested."""
  if setting.labels == "masks":
    return {}
  tested = {one.site: one for p in setting.pairs for one in (*p.source_test, *p.target_test)}
  names = setting.class_names
  return {
    "findings": {
      site: {
        "scored": [names[k] for k in films.scored],
        "left_out": [names[k] for k in films.columns if k not in films.scored],
      }
      for site, films in tested.items()
    }
  }


def _gaps(
  config: Config, setting: Setting, tables: Tables, optimiser: Optimiser
) -> dict[str, dict[str, Any]]:
  """What there is to gain at every pair, in the setting's last score."""
  found = {}
  for pair in setting.pairs:
    low, high = (
      tables.published(optimiser, arm, 0, "target", [pair.name], setting.metrics[-1])["mean"]
      for arm in (NO_TRANSFER, ORACLE)
    )
    is_in = pair.has_new_head or bool(high - low >= config.threshold)
    found[pair.name] = {NO_TRANSFER: low, ORACLE: high, "gap": high - low, "in_table": is_in}
  return found


def questions(
  config: Config,
  setting: Setting,
  tables: Tables,
  gaps: Mapping[Any, Mapping[str, Mapping[str, Any]]],
) -> list[dict[str, Any]]:
  """Planned comparisons under every optimiser and at every size, Holm within each.

  "few": MMTL against each of the four baselines at the target. "source": MMTL against the
  source's network at the source. "history": OCTL against fine-tuning and against every control.
  """
  rows: list[dict[str, Any]] = []
  each = functools.partial(study.ask_each, margin=config.margin, levels=_LEVELS)
  for optimiser in config.optimisers:
    pairs = [name for name, gap in gaps[optimiser].items() if gap["in_table"]]
    for size in config.target_sizes if pairs else ():
      present: list[str] = [
        arm for arm in config.arms_of(optimiser) if tables.has(optimiser, arm, size)
      ]

      def cube(arm, role, metric, size=size, optimiser=optimiser, pairs=pairs):
        return tables.cube(optimiser, arm, size, role, pairs, metric)

      for metric in setting.metrics:
        about = {"optimiser": optimiser, "size": size, "metric": metric, "pairs": len(pairs)}
        target: dict[str, np.ndarray] = {arm: cube(arm, "target", metric) for arm in present}
        baselines = [arm for arm in BASELINES if arm in present]
        if "mmtl" in present and baselines:
          rows += each("mmtl", baselines, target, question="few", **about)
          kept = {
            SOURCE_MODEL: cube(NO_TRANSFER, "source", metric, size=0),
            "mmtl": cube("mmtl", "source", metric),
          }
          compared = metrics.compare(
            kept, reference=SOURCE_MODEL, margin=config.margin, levels=_LEVELS
          )
          rows += [{"question": "source", **about, **row._asdict()} for row in compared.values()]
        against = [arm for arm in ("fine-tune", *CONTROLS) if arm in present]
        if "octl" in present and against:
          rows += each("octl", against, target, question="history", **about)
  return rows
