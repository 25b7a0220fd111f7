"""What the replay study measured: the matrix R of every arm, its summaries, and tests of claims."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.ms_replay import private
from experiments.ms_replay.config import Config
from experiments.ms_replay.courses import MULTI, SINGLE, Course
from experiments.ms_replay.hospitals import Setting, split
from experiments.ms_replay.jobs import Stage
from medjax import metrics, study
from medjax.privacy.vault import NOT_PRIVATE

METRICS = ("dice", "soft_dice")
FINE_TUNING = "fine-tuning"
_SUMMARIES = ("acc", "bwt", "fwt_untrained", "fwt_single", "forgetting")


class Trained(NamedTuple):
  """All trainings of a run.

  Attributes:
    courses: of each arm.
    singles: by (seed, centre).
    multi: of each seed.
    untrained: [seed, centre] mean Dice of first weights.
    orders: of the centres.
    flops: arm -> operations of an update.
  """

  courses: dict[str, list[Course]]
  singles: dict[tuple[int, int], Stage]
  multi: list[Stage]
  untrained: np.ndarray
  orders: list[tuple[int, ...]]
  flops: dict[str, float]


def results(config: Config, setting: Setting, trained: Trained) -> dict[str, Any]:
  """results.json: fixed keys, no times."""
  num_test = {c: len(_of(trained.multi[0], c)) for c in setting.centres}
  spent = costs(trained)
  return {
    "data": {
      "title": setting.title,
      "centres": setting.centres,
      "num_train": setting.num_train,
      "num_test": num_test,
      "left_out_of_claims": [c for c, n in num_test.items() if n < config.min_test],
    },
    "orders": [[setting.centres[c] for c in order] for order in trained.orders],
    "metrics": METRICS,
    "arms": {arm: _arm(config, setting, trained, arm) for arm in trained.courses},
    "references": {
      MULTI: [[_mean(stage, c) for c in setting.centres] for stage in trained.multi],
      SINGLE: _singles(setting, trained),
      "untrained": trained.untrained,
    },
    "costs": spent,
    "claims": claims(config, setting, trained, num_test, spent),
    "privacy": _privacy(config, setting, trained),
  }


def _privacy(config: Config, setting: Setting, trained: Trained) -> dict[str, Any]:
  """What private replay costs, and which trainings are without; {} if there is no such arm."""
  if "replay-private" not in config.arms:
    return {}
  others = [arm for arm in config.arms if arm != "replay-private"]
  courses = trained.courses["replay-private"]
  cost = private.cost(
    config.private_epsilon,
    config.private_delta,
    [[setting.centres[c] for c in course.order] for course in courses],
    num_people=sum(setting.num_train.values()),
    note=NOT_PRIVATE if config.secrets == "seed" else "",
  )
  return {
    **cost,
    "statements": {stage.name: stage.statement for stage in courses[0].stages},
    "unprotected": [*others, SINGLE, MULTI],
  }


def costs(trained: Trained) -> dict[str, dict[str, float]]:
  """Arm -> updates and operations of a whole course; its first centre is trained plainly."""
  found = {}
  for arm, courses in trained.courses.items():
    stages, own = courses[0].stages, trained.flops[arm]
    at_first = own if arm == "replay-private" else trained.flops[SINGLE]
    later = sum(stage.num_steps for stage in stages[1:])
    total = at_first * stages[0].num_steps + own * later
    found[arm] = _cost(own, stages[0].num_steps + later, total)
  own, updates = trained.flops[MULTI], trained.multi[0].num_steps
  return {**found, MULTI: _cost(own, updates, own * updates)}


def _cost(flops_an_update: float, updates: int, flops: float) -> dict[str, float]:
  return {"flops_an_update": flops_an_update, "updates": updates, "flops": flops}


def cases(setting: Setting, trained: Trained) -> list[dict[str, Any]]:
  """Rows of cases.csv: every test person after every training, the mean over the person's scans.

  "through" is the centre that was trained on last, "domain" that of the person; "role" says whether
  the network had been trained on people of that centre.
  """
  found: list[dict[str, Any]] = []

  def add(arm: str, seed: int, order: str, stage: Stage, known: Sequence[str]) -> None:
    for centre, parts in split(setting, seed).items():
      people = dict.fromkeys(setting.subjects[row] for row in parts["test"])
      figures = zip(people, *(_of(stage, centre, metric) for metric in METRICS), strict=True)
      for person, *values in figures:
        about = {"arm": arm, "seed": seed, "order": order, "through": known[-1]}
        role = "seen" if centre in known else "unseen"
        case = {"case": person, "subject": person, "domain": centre, "role": role}
        named = zip(METRICS, values, strict=True)
        found.append({**about, **case, **{f"{m}/lesion": float(value) for m, value in named}})

  for arm, courses in trained.courses.items():
    for course in courses:
      names = [setting.centres[c] for c in course.order]
      for k, stage in enumerate(course.stages):
        add(arm, course.seed, ".".join(map(str, course.order)), stage, names[: k + 1])
  for (seed, c), stage in trained.singles.items():
    add(SINGLE, seed, "", stage, [setting.centres[c]])
  for stage in trained.multi:
    add(MULTI, int(stage.name.rpartition("-")[2]), "", stage, setting.centres)
  return found


def matrix(course: Course, setting: Setting, metric: str = "dice") -> np.ndarray:
  """[trained through, tested on] of one course, both axes in the order of training."""
  names = [setting.centres[c] for c in course.order]
  return np.array([[_mean(stage, c, metric) for c in names] for stage in course.stages])


def whole_matrix(
  courses: Sequence[Course], setting: Setting, num_seeds: int, orders: Sequence[tuple[int, ...]]
) -> np.ndarray:
  """R [seed, order, trained through, tested on, metric]; NaN for pairs that were not trained."""
  num, first = len(setting.centres), min(c.seed for c in courses)
  r = np.full((num_seeds, len(orders), num, num, len(METRICS)), np.nan)
  for course in courses:
    place = course.seed - first, orders.index(course.order)
    r[place] = np.stack([matrix(course, setting, metric) for metric in METRICS], -1)
  return r


def _arm(config: Config, setting: Setting, trained: Trained, arm: str) -> dict[str, Any]:
  courses = trained.courses[arm]
  rows = [_summary(config, setting, trained, course) for course in courses]
  fixed = [row for row, c in zip(rows, courses, strict=True) if c.order == trained.orders[0]]
  first = min(course.seed for course in courses)
  shuffled = [row for row, c in zip(rows, courses, strict=True) if c.seed == first]
  transfers = [metrics.transfer_summary(matrix(c, setting)) for c in courses]
  return {
    "r": whole_matrix(courses, setting, config.num_seeds, trained.orders),
    "fixed_order": {k: _spread([row[k] for row in fixed]) for k in _SUMMARIES},
    "orders": {k: _spread([row[k] for row in shuffled]) for k in _SUMMARIES},
    "bwt_of_centre": dict(
      zip(
        [setting.centres[c] for c in trained.orders[0]],
        np.mean(
          [
            t.bwt_of_centre
            for t, c in zip(transfers, courses, strict=True)
            if c.order == trained.orders[0]
          ],
          0,
        ).tolist(),
        strict=False,
      )
    ),
    "mean_all_centres": np.mean([t.mean_all_centres for t in transfers], 0),
    "zero_shot": np.mean([t.zero_shot for t in transfers], 0),
    "steps": int(sum(stage.num_steps for stage in courses[0].stages)),
  }


def _summary(
  config: Config, setting: Setting, trained: Trained, course: Course
) -> dict[str, float]:
  """ACC, BWT, both FWT and forgetting of one course."""
  r = matrix(course, setting)
  first = min(c.seed for own in trained.courses.values() for c in own)
  untrained = trained.untrained[course.seed - first][list(course.order)]
  plain = metrics.transfer_summary(r, baseline=untrained, divide_by=config.divide_by)
  fwt_single = np.nan
  if all((course.seed, c) in trained.singles for c in course.order):
    single = [_mean(trained.singles[course.seed, c], setting.centres[c]) for c in course.order]
    fwt_single = metrics.transfer_summary(r, baseline=single, divide_by=config.divide_by).fwt
  values = plain.acc, plain.bwt, plain.fwt, fwt_single, plain.forgetting
  return {k: float(v) for k, v in zip(_SUMMARIES, values, strict=True)}


def claims(
  config: Config,
  setting: Setting,
  trained: Trained,
  num_test: Mapping[str, int],
  spent: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
  """Tests of the paper's statements over the centres with enough people; {} if there is none.

  Replay above fine-tuning, replay reaches multi-domain training: paired comparisons of the Dice of
  every test person after the last centre. Backward transfer: its interval over seeds and people.
  """
  kept = [c for c in setting.centres if num_test[c] >= config.min_test]
  if not kept:
    return {}
  found: dict[str, Any] = {}
  seeds = sorted({c.seed for own in trained.courses.values() for c in own})
  multi = dict(zip(seeds, trained.multi, strict=True))
  for design, level in (("fixed_order", "seed"), ("orders", "order")):
    chosen = {arm: _chosen(own, design, trained.orders) for arm, own in trained.courses.items()}
    number = len(next(iter(chosen.values())))
    if design == "orders" and number < 2:
      continue
    levels = (level, "subject")
    last = {
      arm: np.stack([_people(course.stages[-1], kept) for course in own])
      for arm, own in chosen.items()
    }
    own = next(iter(chosen.values()))
    last[MULTI] = np.stack([_people(multi[course.seed], kept) for course in own])
    compared = {
      f"against {reference}": study.against(
        reference,
        {"": last},
        margin=config.margin,
        costs={arm: cost["flops"] for arm, cost in spent.items()},
        levels=levels,
        equal="equal updates" if config.num_steps else "equal epochs",
      )
      for reference in (FINE_TUNING, MULTI)
      if reference in last
    }
    found[design] = {
      **compared,
      "bwt": {arm: _bwt(config, setting, own, kept, levels) for arm, own in chosen.items()},
    }
  return found


def _bwt(
  config: Config, setting: Setting, courses: Sequence[Course], kept: Sequence[str], levels: tuple
) -> dict[str, Any]:
  """Mean change of earlier centres' people since their own training, with its 95 % interval.

  People can be paired over seeds only where the last centre is the same; else courses are averaged.
  """
  changes = []
  for course in courses:
    names = [setting.centres[c] for c in course.order]
    parts = [
      _of(course.stages[-1], name) - _of(course.stages[k], name)
      for k, name in enumerate(names[:-1])
      if name in kept
    ]
    if parts:
      changes.append(_joined(parts))
  if not changes:
    return {}
  is_paired = len({course.order for course in courses}) == 1
  table = np.stack(changes) if is_paired else np.array([change.mean() for change in changes])
  own_levels = levels if is_paired else levels[:1]
  interval = metrics.mean_interval(table, levels=own_levels)
  low, high = interval.low, interval.high
  return {
    "mean": interval.mean,
    "low": low,
    "high": high,
    "covers": interval.covers,
    "below_zero": bool(high < 0),
    "above_zero": bool(low > 0),
    "equivalent_to_zero": bool(
      levels[0] in interval.covers and -config.equivalence < low and high < config.equivalence
    ),
  }


def _chosen(
  courses: Sequence[Course], design: str, orders: Sequence[tuple[int, ...]]
) -> list[Course]:
  """Courses of a design: all seeds in the first order, or all orders of the first seed."""
  if design == "fixed_order":
    return [course for course in courses if course.order == orders[0]]
  first = min(course.seed for course in courses)
  return [course for course in courses if course.seed == first]


def _people(stage: Stage, centres: Sequence[str]) -> np.ndarray:
  return _joined([_of(stage, centre) for centre in centres])


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
  """[person] of several centres, weighted so that the mean is the mean of the centres' means."""
  even = sum(len(part) for part in parts) / len(parts)
  return np.concatenate([part * (even / len(part)) for part in parts])


def _of(stage: Stage, centre: str, metric: str = "dice") -> np.ndarray:
  return stage.scores[centre][metric]


def _mean(stage: Stage, centre: str, metric: str = "dice") -> float:
  return float(_of(stage, centre, metric).mean())


def _singles(setting: Setting, trained: Trained) -> list[list[list[float]]]:
  """[seed, trained on, tested on] mean Dice, NaN for trainings that no design needs."""
  seeds = sorted({seed for seed, _ in trained.singles})
  nothing = [float("nan")] * len(setting.centres)
  return [
    [
      [_mean(trained.singles[seed, c], name) for name in setting.centres]
      if (seed, c) in trained.singles
      else nothing
      for c in range(len(setting.centres))
    ]
    for seed in seeds
  ]


def _spread(values: Sequence[float]) -> dict[str, float]:
  return {
    "mean": float(np.mean(values)),
    "std": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
    "num": len(values),
  }
