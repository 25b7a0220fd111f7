"""The same surface metrics by MONAI and by medjax, of one pair of masks, as ratios in one process.

  python -m experiments.bench.monai_peer [SIDE] [ROUNDS]   needs monai (and torch)

Two overlapping smooth blobs fill a tenth of SIDE^3 each (128: about 120,000 voxels), at spacings
(1, 1, 1) and (1.25, 1.25, 10) mm. Rows: each of Hausdorff distance, HD95 (max_directed), ASSD and
surface Dice at 2 mm called alone, their sum, and "report", all metrics of `segmentation_report`,
which measures the surfaces once. Every call starts from the label maps on the host. Prints one JSON
object: spacing -> row -> {value, medjax_s, monai_s, ratio}, medians, and the device of medjax.
"""

import importlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from medjax.metrics import report
from medjax.metrics.surface_distance import assd, hausdorff, hd95
from medjax.metrics.surface_overlap import surface_dice

SPACINGS = ((1.0, 1.0, 1.0), (1.25, 1.25, 10.0))
TOLERANCE_MM = 2.0


def blobs(side: int) -> list[np.ndarray]:
  """Two label maps with class 1: ellipsoids with random waves on their level functions."""
  grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij"), axis=-1)
  maps = []
  for seed, centre, radii in (
    (1, (0.0, 0.02, 0.0), (0.49, 0.51, 0.47)),
    (2, (0.02, 0.0, 0.01), (0.49, 0.5, 0.48)),
  ):
    rng = np.random.default_rng(seed)
    level = (((grid - centre) / radii) ** 2).sum(-1)
    for _ in range(6):
      wave, phase = 4 * rng.normal(size=3), rng.uniform(0, 2 * np.pi)
      level += 0.5 * np.sin(grid @ wave + phase) / 6
    maps.append((level < 1).astype(np.int32))
  return maps


def ours(maps: list[np.ndarray], spacing: Any) -> dict[str, Callable[[], Any]]:
  settings = {"num_classes": 2, "spacing": spacing}
  return {
    "hausdorff": lambda: hausdorff(*maps, **settings),
    "hd95 max_directed": lambda: hd95(*maps, variant="max_directed", **settings),
    "assd": lambda: assd(*maps, **settings),
    "surface dice": lambda: surface_dice(*maps, tolerance_mm=TOLERANCE_MM, **settings),
  }


def theirs(maps: list[np.ndarray], spacing: Any) -> dict[str, Callable[[], Any]]:
  torch, metrics = map(importlib.import_module, ("torch", "monai.metrics"))
  both = [torch.tensor(m == 1)[None, None] for m in maps]
  settings = {"include_background": True, "spacing": spacing}
  distance = metrics.compute_hausdorff_distance
  limit = {"class_thresholds": [TOLERANCE_MM]}
  return {
    "hausdorff": lambda: distance(*both, **settings),
    "hd95 max_directed": lambda: distance(*both, percentile=95, **settings),
    "assd": lambda: metrics.compute_average_surface_distance(*both, symmetric=True, **settings),
    "surface dice": lambda: metrics.compute_surface_dice(*both, **limit, **settings),
  }


def rows(maps: list[np.ndarray], spacing: Any, rounds: int) -> dict[str, dict[str, float]]:
  """Both in turn, so that other work of the machine falls on both."""
  functions = {("medjax", k): f for k, f in ours(maps, spacing).items()}
  functions |= {("monai", k): f for k, f in theirs(maps, spacing).items()}
  functions["medjax", "report"] = lambda: report.segmentation_report(
    maps[:1], maps[1:], num_classes=2, spacing=spacing, tolerance_mm=TOLERANCE_MM
  )
  times: dict[tuple[str, str], list[float]] = {name: [] for name in functions}
  values = {}
  for repeat in range(-1, rounds):
    for name, function in functions.items():
      began = time.perf_counter()
      values[name] = jax.block_until_ready(function())
      if repeat >= 0:
        times[name].append(time.perf_counter() - began)
  metrics = [name for library, name in functions if library == "monai"]
  for library in ("medjax", "monai"):
    times[library, "sum"] = np.sum([times[library, name] for name in metrics], axis=0).tolist()
  times["monai", "report"] = times["monai", "sum"]
  table = {}
  for name in (*metrics, "sum", "report"):
    pair = times["medjax", name], times["monai", name]
    table[name] = {
      "medjax_s": statistics.median(pair[0]),
      "monai_s": statistics.median(pair[1]),
      "ratio": statistics.median(a / b for a, b in zip(*pair, strict=True)),
    }
    if name in metrics:
      both = [float(values[library, name][0]) for library in ("medjax", "monai")]
      assert abs(both[0] - both[1]) <= 1e-4 * both[1], (name, both)
      table[name]["value"] = both[0]
  return table


def main(side: int = 128, rounds: int = 7) -> None:
  warnings.simplefilter("ignore")  # MONAI's own deprecations
  monai = importlib.import_module("monai")
  maps = blobs(side)
  found = {str(spacing): rows(maps, spacing, rounds) for spacing in SPACINGS}
  about = {"monai": monai.__version__, "jax": jax.__version__, "device": str(jax.devices()[0])}
  about |= {"voxels": [int(m.sum()) for m in maps], "rounds": rounds}
  print(json.dumps(about | {"rows": found}))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
