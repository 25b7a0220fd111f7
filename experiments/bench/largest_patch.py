"""The largest patch and the largest batch of a 3D U-Net whose training step fits a memory.

  python -m experiments.bench.largest_patch demo                      1/4 GiB, a small network
  python -m experiments.bench.largest_patch evidence                  16 GiB, a U-Net 32 to 256
  python -m experiments.bench.largest_patch evidence --gibibytes 0    what this device has

Nothing is run. The plain step (Adam, Dice and cross-entropy) is compiled for the device that is
there, and its compiler says how much memory the step needs at its fullest moment, with weights,
moments and the batch. That is what this device's compiler plans: another device has another figure.

Rows: float32, bfloat16, and both where what lies inside a block is computed again in the backward
pass (`nets.Precision`). For each, the largest cube of one example, in steps of `stride` voxels, and
the largest batch of cubes of `patch` voxels a side.

results.json: limit_bytes; rows: row -> {side, side_bytes, batch, batch_bytes}, 0 where nothing
fits.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from medjax import check, cli, losses, methods, nets, programs, study
from medjax.train.report import Report
from medjax.types import Batch, Key, Params

_GIBIBYTE = 2**30

ROWS = {
  "float32": nets.Precision(),
  "bfloat16": nets.Precision("bfloat16"),
  "float32, blocks again": nets.Precision(remat=True),
  "bfloat16, blocks again": nets.Precision("bfloat16", remat=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
  gibibytes: float = 0.25
  """Memory to fit; 0 takes what the device names as its limit."""
  widths: tuple[int, ...] = (8, 16, 32)
  """Channels of the U-Net's levels."""
  num_classes: int = 4
  """Classes, background included."""
  patch: int = 32
  """Voxels a side of the patches whose batch is sought."""
  stride: int = 16
  """Voxels by which the side of the cube grows."""
  largest: int = 1024
  """The search ends at this side and at this batch."""
  rows: tuple[str, ...] = tuple(ROWS)
  """Networks to look at."""

  def __post_init__(self):
    study.chosen("rows", self.rows, ROWS)
    check.in_interval("gibibytes", self.gibibytes, 0.0, float("inf"))
    down = 2 ** (len(self.widths) - 1)
    check.require(
      self.patch % down == 0 and self.stride % down == 0,
      f"patch and stride that {down} divides, by which {len(self.widths)} levels shrink an image",
      f"{self.patch} and {self.stride}",
      "change them, or the number of widths",
    )


PRESETS = {
  "demo": Config(rows=("float32", "float32, blocks again"), largest=64),
  "evidence": Config(gibibytes=16.0, widths=(32, 64, 128, 256), patch=128),
}


def largest(bytes_of: Callable[[int], int], most: int, end: int, power: int) -> dict[int, int]:
  """Sizes that were asked for, each with its bytes; the largest one that fits is among them.

  >>> asked = largest(lambda n: 50 + 3 * n**3, 500, 1000, 3)
  >>> sorted(asked), max(n for n, size in asked.items() if size <= 500)
  ([1, 2, 5, 6], 5)

  Args:
    bytes_of: a size n from 1 to `end` -> bytes; grows with n. Each call compiles.
    most: bytes to fit.
    end: the search ends there.
    power: the bytes are about a + b n^power: through the two sizes nearest to the limit this gives
      the next size to ask for.
  """
  asked = {1: bytes_of(1)}
  low, high = (1, end + 1) if asked[1] <= most else (0, 1)
  while high - low > 1:
    near = sorted(asked, key=lambda n: abs(asked[n] - most))[:2]
    x, y = [n**power for n in near], [asked[n] for n in near]
    if len(near) < 2:
      x, y = [0, *x], [0, *y]
    slope = (y[1] - y[0]) / (x[1] - x[0])
    guess = int(max(x[0] + (most - y[0]) / max(slope, 1e-9), 0) ** (1 / power) + 1e-9)
    guess = min(max(guess, low + 1), high - 1)
    asked[guess] = bytes_of(guess)
    low, high = (guess, high) if asked[guess] <= most else (low, guess)
  return asked


def step_bytes(config: Config, precision: nets.Precision, side: int, batch_size: int) -> int:
  """Bytes of a training step at its fullest moment, as the compiler plans it."""
  model = nets.from_linen(precision.of(nets.UNet(config.num_classes, config.widths)))

  both = losses.weighted_sum((1.0, losses.soft_dice), (1.0, losses.cross_entropy))

  def loss_fn(params: Params, example: Batch, key: Key) -> jax.Array:
    del key
    return both(model.apply(params, example.image, train=True)[0], example.label)

  space = (batch_size, side, side, side)
  image = jax.ShapeDtypeStruct((*space, 1), "float32")
  label, number = (jax.ShapeDtypeStruct(shape, "int32") for shape in (space, (batch_size,)))
  weight = jax.ShapeDtypeStruct((batch_size,), "float32")
  batch = Batch(image, label, domain=number, subject=number, index=number, weight=weight)
  params: Any = jax.eval_shape(lambda x: model.init(jax.random.key(0), x[0])[0], image)
  step = methods.supervised(loss_fn, optax.adam(1e-3))
  return programs.peak_bytes(programs.lowered(step, params, batch).compile())


def cube_bytes(config: Config, precision: nets.Precision, strides: int) -> int:
  """The same of one cube of so many strides a side."""
  return step_bytes(config, precision, strides * config.stride, 1)


def limit(gibibytes: float) -> int:
  """Bytes to fit."""
  if gibibytes:
    return int(gibibytes * _GIBIBYTE)
  device = jax.devices()[0]
  named = (device.memory_stats() or {}).get("bytes_limit", 0)
  check.require(
    named, "a device that names its memory", f"{device.device_kind}", "pass --gibibytes"
  )
  return int(named)


def build(config: Config, options: cli.RunOptions) -> None:
  most = limit(config.gibibytes)
  with options.directory(config) as directory:
    if directory.finished:
      return
    rows: dict[str, dict[str, int]] = {}
    for name in config.rows:
      precision = ROWS[name]
      cubes = largest(
        functools.partial(cube_bytes, config, precision), most, config.largest // config.stride, 3
      )
      batches = largest(
        functools.partial(step_bytes, config, precision, config.patch), most, config.largest, 1
      )
      cube, batch = (
        max((n for n, size in asked.items() if size <= most), default=0)
        for asked in (cubes, batches)
      )
      rows[name] = {
        "side": cube * config.stride,
        "side_bytes": cubes.get(cube, 0),
        "batch": batch,
        "batch_bytes": batches.get(batch, 0),
      }
      print(f"{name}: {rows[name]}", flush=True)
      jax.clear_caches()
    text = f"A training step of the U-Net {config.widths} within {most / _GIBIBYTE:g} GiB."
    report = Report("The largest patch and batch", text)
    report.section("What fits").table(
      ["network", "cube, voxels a side", "GiB", f"batch of {config.patch}^3", "GiB"],
      [
        [
          name, own["side"], own["side_bytes"] / _GIBIBYTE, own["batch"],
          own["batch_bytes"] / _GIBIBYTE,
        ]
        for name, own in rows.items()
      ],
    )  # fmt: skip
    report.what_ran(directory.config).write(directory.path / "report.html")
    directory.write_json("results", {"limit_bytes": most, "rows": rows})


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
