"""How time and memory grow with batch, image, inner steps, runs, clients, classes and prompts.

  python -m experiments.bench.growth demo       two sizes an axis
  python -m experiments.bench.growth evidence   four sizes an axis, about 10 minutes on 2 CPU cores

One size of a step is doubled at a time, all else kept. The exponent p of cost = c size^p is the
slope of a line through (log size, log cost) by least squares; its error is the standard error of
that slope, NaN for two sizes. A plain step should grow with p = 1 in the examples and in the pixels
of an image (p = 2 in its side); a small p says that something else is paid for at these sizes.

results.json: axis -> {sizes, temporary_bytes, flops, exponent_bytes, exponent_flops}. timing.json:
axis -> {seconds, exponent, error}. report.html has the picture.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.throughput import (
  core_programs,
  device_programs,
  method_programs,
  prompt_programs,
  round_programs,
)
from experiments.throughput.config import Config as Shapes
from experiments.throughput.measuring import Program, measure
from experiments.throughput.peaks import Peaks
from medjax import cli
from medjax.train.report import Report

_UNKNOWN = Peaks(math.nan, math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Config:
  doublings: int = 1
  """How often each size is doubled."""
  side: int = 32
  """Pixels of an image's side where it is not the axis."""
  widths: tuple[int, ...] = (8, 16)
  """Channels of the U-Net's levels."""
  num_rounds: int = 3
  """Timed rounds."""
  only: tuple[str, ...] = ()
  """Axes to measure; all if none is given."""


PRESETS = {
  "demo": Config(),
  "evidence": Config(doublings=3, side=64, widths=(16, 32, 64), num_rounds=9),
}


def axes(config: Config) -> dict[str, tuple[int, Callable[[int], Program]]]:
  """Name of an axis -> (its first size, a program of a size)."""
  side, widths = (config.side, config.side), config.widths

  def pictures(batch: int, shape: tuple[int, int], classes: int = 4) -> Any:
    shapes = Shapes(batch_size=batch, num_classes=classes)
    return core_programs.images(shapes, shape)

  def plain(batch: int, shape: tuple[int, int], classes: int = 4) -> Program:
    return device_programs.number_types(pictures(batch, shape, classes), widths, classes)[0]

  def named(programs: Sequence[Program], part: str) -> Program:
    return next(program for program in programs if part in program.name)

  return {
    "batch": (2, lambda n: plain(n, side)),
    "side of the image": (config.side, lambda n: plain(2, (n, n))),
    "classes": (4, lambda n: plain(2, side, n)),
    "inner steps K": (
      1,
      lambda n: device_programs.inner_steps(pictures(2, side), widths, 4, (n,))[1],
    ),
    "runs at once R": (
      2,
      lambda n: named(device_programs.runs_at_once(pictures(2, side), widths, 4, n), "vmap"),
    ),
    "private batch": (2, lambda n: named(method_programs.unet(n, side, widths), "private")),
    "clients": (2, lambda n: round_programs.unet(1, side, widths, n, (1,))[1]),
    "prompts": (4, lambda n: prompt_programs.segmenter("mini", 1, n)[2]),
  }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> tuple[float, float]:
  """Slope of log cost over log size, and its standard error.

  >>> [round(x, 6) for x in exponent([1, 2, 4], [3.0, 12.0, 48.0])]
  [2.0, 0.0]
  """
  x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float))
  x = x - x.mean()
  slope = float(x @ y / (x @ x))
  rest = y - y.mean() - slope * x
  free = len(x) - 2
  error = math.sqrt(float(rest @ rest) / free / float(x @ x)) if free > 0 else math.nan
  return slope, error


def build(config: Config, options: cli.RunOptions) -> None:
  with options.directory(config) as directory:
    if directory.finished:
      return
    results, timing, curves, rows = {}, {}, {}, []
    for name, (first, make) in axes(config).items():
      if config.only and name not in config.only:
        continue
      sizes = [first * 2**i for i in range(config.doublings + 1)]
      programs = [make(size)._replace(name=str(size)) for size in sizes]
      found = measure(programs, config.num_rounds, _UNKNOWN, cached=False)
      seconds = [float(np.median(found[str(size)].times)) for size in sizes]
      counts = [found[str(size)].counts for size in sizes]
      slope, error = exponent(sizes, seconds)
      memory = [count.temporary_bytes for count in counts]
      flops = [count.flops for count in counts]
      results[name] = {
        "sizes": sizes,
        "temporary_bytes": memory,
        "flops": flops,
        "exponent_bytes": exponent(sizes, memory)[0],
        "exponent_flops": exponent(sizes, flops)[0],
      }
      timing[name] = {"seconds": seconds, "exponent": slope, "error": error}
      curves[name] = (list(range(len(sizes))), [s / seconds[0] for s in seconds])
      rows.append([
        name, f"{sizes[0]} to {sizes[-1]}", 1e3 * seconds[0], 1e3 * seconds[-1], slope, error,
        results[name]["exponent_bytes"], results[name]["exponent_flops"],
      ])  # fmt: skip
      print(f"{name}: time^{slope:.2f}, memory^{results[name]['exponent_bytes']:.2f}", flush=True)
      jax.clear_caches()
    report = Report("How costs grow", "One size is doubled at a time; all else is kept.")
    report.section("Exponents").table(
      ["axis", "sizes", "first, ms", "last, ms", "time", "error", "memory", "operations"],
      rows,
      "Exponents p of cost = c size^p. Memory is that beside arguments and results.",
    )
    report.curves(curves, "doublings of the size", "times the first", log_y=True)
    report.what_ran(directory.config).write(directory.path / "report.html")
    directory.write_json("timing", timing)
    about = {name: directory.config[name] for name in ("versions", "commit", "devices")}
    directory.write_json("record", {**about, "results": results, "timing": timing})
    directory.write_json("results", results)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
