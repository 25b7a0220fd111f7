"""Distance transforms by medjax, SciPy and edt in one process, and forms of the min-plus product.

  python -m experiments.bench.distance_bench [SIDE] [ROUNDS]   a minute at 128; edt is optional

Rows of each case: SciPy's `distance_transform_edt` (one thread), `edt` (as many threads as cores),
`distance_transform`, and `distance_at` the surface of a second mask. Cases: one smooth blob of a
tenth of SIDE^3 at spacings (1, 1, 1) and (1.25, 1.25, 10) mm, and 16 blobs of (2 SIDE)^2 under
vmap, a loop for the others. Prints one JSON object: case -> row -> {wall_ms, low_ms, high_ms,
cpu_ms, ratio}: medians over interleaved rounds, 10th and 90th percentile, processor time of all
threads, and the ratio of wall times to SciPy's, the median over rounds.

`programs` are rows for `experiments.throughput`: which implementation of `kernels.min_plus` wins.
"""

import functools
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments.throughput.measuring import Program
from kernels.min_plus import min_plus, reference
from medjax.ops.distance_transform import distance_at, distance_transform

SPACINGS = ((1.0, 1.0, 1.0), (1.25, 1.25, 10.0))


def programs(side: int) -> list[Program]:
  """One axis of side^3: the definition first, then the implementations of this backend."""
  index = jnp.arange(side, dtype=jnp.float32)
  table = (index[:, None] - index[None]) ** 2
  values = 100 * jax.random.uniform(jax.random.key(0), (side, side, side))
  rows = [Program("definition", reference.min_plus, (table, values), 1)]
  for implementation in ("xla", *(("pallas_gpu",) if jax.default_backend() == "gpu" else ())):
    fn = functools.partial(min_plus, implementation=implementation)
    rows.append(Program(implementation, fn, (table, values), 1))
  return rows


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
  """An ellipsoid with random waves on its level function."""
  rng = np.random.default_rng(seed)
  grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"), axis=-1)
  level = ((grid / 0.5) ** 2).sum(-1)
  for _ in range(6):
    wave, phase = 4 * rng.normal(size=len(shape)), rng.uniform(0, 2 * np.pi)
    level += 0.5 * np.sin(grid @ wave + phase) / 6
  return level < 1


def volume(side: int, spacing: tuple[float, ...]) -> dict[str, Callable[[], Any]]:
  """One volume; SciPy and edt measure to the nearest False."""
  mask, other = blob((side,) * 3, seed=1), blob((side,) * 3, seed=2)
  outside = ~mask
  surface = jnp.asarray(np.flatnonzero(other & ~ndimage.binary_erosion(other)))
  on_device, lengths = jnp.asarray(mask), jnp.asarray(spacing)
  return {
    "scipy": lambda: ndimage.distance_transform_edt(outside, sampling=spacing),
    **_edt(lambda edt: edt(outside, anisotropy=spacing, parallel=os.cpu_count())),
    "distance_transform": lambda: distance_transform(on_device, spacing=lengths),
    "distance_at": lambda: distance_at(on_device, surface, spacing=lengths),
  }


def slices(side: int, spacing: tuple[float, ...]) -> dict[str, Callable[[], Any]]:
  """16 images; medjax takes them together."""
  masks = np.stack([blob((side,) * 2, seed) for seed in range(16)])
  outside, on_device, lengths = ~masks, jnp.asarray(masks), jnp.asarray(spacing)
  batched = jax.jit(jax.vmap(lambda mask: distance_transform(mask, spacing=lengths)))
  return {
    "scipy": lambda: [ndimage.distance_transform_edt(m, sampling=spacing) for m in outside],
    **_edt(lambda edt: [edt(m, anisotropy=spacing, parallel=os.cpu_count()) for m in outside]),
    "distance_transform": lambda: batched(on_device),
  }


def _edt(call: Callable[[Any], Any]) -> dict[str, Callable[[], Any]]:
  if importlib.util.find_spec("edt") is None:
    return {}
  module = importlib.import_module("edt")
  return {"edt": lambda: call(module.edt)}


def measure(
  functions: dict[str, Callable[[], Any]], num_rounds: int
) -> dict[str, dict[str, float]]:
  """All in turn, so that other work of the machine falls on all."""
  seconds = np.zeros((len(functions), num_rounds, 2))
  for repeat in range(-2, num_rounds):  # two rounds to warm up
    for row, function in enumerate(functions.values()):
      start = time.perf_counter(), time.process_time()
      jax.block_until_ready(function())
      if repeat >= 0:
        seconds[row, repeat] = time.perf_counter() - start[0], time.process_time() - start[1]
  found = {}
  for name, (wall, cpu) in zip(functions, 1e3 * seconds.transpose(0, 2, 1), strict=True):
    low, median, high = np.percentile(wall, [10, 50, 90])
    figures = {"wall_ms": median, "low_ms": low, "high_ms": high, "cpu_ms": np.median(cpu)}
    figures["ratio"] = np.median(wall / (1e3 * seconds[0, :, 0]))
    found[name] = {key: round(float(value), 3) for key, value in figures.items()}
  return found


def main(arguments: Sequence[str]) -> None:
  side, num_rounds = [int(x) for x in arguments] + [128, 15][len(arguments) :]
  cases = {f"{side}^3, spacing {s}": volume(side, s) for s in SPACINGS}
  cases[f"16 x {2 * side}^2"] = slices(2 * side, (1.25, 0.8))
  table = {title: measure(functions, num_rounds) for title, functions in cases.items()}
  print(json.dumps({"device": jax.devices()[0].device_kind, **table}, indent=2))


if __name__ == "__main__":
  main(sys.argv[1:])
