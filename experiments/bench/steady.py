"""Does a training stay fed, and does memory stay flat: from a large set on the disk, and for long.

  python -m experiments.bench.steady demo      a small set and few steps, about a minute
  python -m experiments.bench.steady feeding   100,000 pictures as ArrayRecord, read by each way
  python -m experiments.bench.steady long      10,000 steps and 200 predictions of volumes

Pictures are generated: label maps of a few hundred anatomies under noise of their own. Every way of
reading feeds the same plain step of a U-Net; grain joins where it is installed (extra `test`).

results.json holds what is exact: cases, bytes_on_disk, steps, predictions. timing.json holds, by
way of reading, examples_per_s without a step, step_s, busy (the share of the time in which the
device was not waiting for a batch) and grown_MiB (resident memory at the end less that after a
tenth of the steps); for `long` the same of steps and predictions.
"""

import dataclasses
import gc
import importlib
import importlib.util
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from medjax import cli, data, inference, losses, methods, nets, train
from medjax.data.sets.prepared import Prepared, prepare
from medjax.train.progress import counted
from medjax.types import Array, Batch, Example, Key, Params, Step, Stream

_CLASSES = 4
_ANATOMIES = 256


@dataclasses.dataclass(frozen=True)
class Config:
  cases: int = 500
  """Pictures of the set on the disk; 0 leaves it out."""
  shape: tuple[int, int] = (64, 64)
  """Pixels per axis."""
  widths: tuple[int, ...] = (16, 32, 64)
  """Channels of the U-Net's levels."""
  batch_size: int = 8
  """Pictures a step."""
  feed_steps: int = 20
  """Steps that every way of reading feeds."""
  workers: int = 2
  """Threads that read ahead."""
  long_steps: int = 200
  """Steps of a training from memory; 0 leaves it out."""
  predictions: int = 10
  """Volumes of random shapes that are predicted after it."""


PRESETS = {
  "demo": Config(),
  "feeding": Config(cases=100_000, feed_steps=150, long_steps=0, predictions=0),
  "long": Config(cases=0, shape=(16, 16), widths=(4, 8), long_steps=10_000, predictions=200),
}


class Generated:
  """A Source of `num` pictures; picture i is anatomy i modulo 256 under noise of its own."""

  class_names: tuple[str, ...] = tuple(f"class {k}" for k in range(_CLASSES))
  channel_names: tuple[str, ...] = ("image",)

  def __init__(self, num: int, shape: tuple[int, int]):
    self._anatomy = data.ProceduralAnatomy(_ANATOMIES, shape, _CLASSES, seed=0, with_image=True)
    self._held: dict[int, Example] = {}
    self.subjects = tuple(f"person {i}" for i in range(num))
    self.domains = ("",) * num
    self.names = tuple(f"case{i:06d}" for i in range(num))

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    which = index % _ANATOMIES
    if which not in self._held:
      self._held[which] = self._anatomy[which]
    example = self._held[which]
    assert example.image is not None
    noise = np.random.default_rng(index).normal(0, 0.05, example.image.shape)
    return example.replace(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=(example.image + noise).astype(np.float32),
    )

  def manifest(self) -> dict[str, Any]:
    return {
      "kind": "generated",
      "num": len(self),
      "class_names": list(self.class_names),
      "channel_names": list(self.channel_names),
    }


def plain(config: Config) -> tuple[Step, Params, Any]:
  """The supervised step of a U-Net, its first parameters, and the model."""
  model = nets.from_linen(nets.UNet(_CLASSES, config.widths, norm="group"))
  params, _ = model.init(jax.random.key(0), np.zeros((*config.shape, 1), np.float32))

  def loss_fn(params: Params, example: Batch, key: Key) -> Array:
    del key
    return losses.cross_entropy(model.apply(params, example.image)[0], example.label)

  return methods.supervised(loss_fn, optax.adam(1e-3)), params, model


def resident() -> float:
  """Resident memory of this process in MiB, Linux's own count."""
  gc.collect()
  text = pathlib.Path("/proc/self/status").read_text()
  return int(text.split("VmRSS:")[1].split()[0]) / 1024


def feeding(config: Config, folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
  """Writes the set, then reads it in every way."""
  began = time.perf_counter()
  target = prepare(
    Generated(config.cases, config.shape),
    folder,
    name="generated",
    progress=_seldom,
  )
  written = time.perf_counter() - began
  source = Prepared(target)
  read = data.read_batches(source, None, config.batch_size, seed=0)
  ways: dict[str, Callable[[], Any]] = {
    "in turn": lambda: read,
    "ahead": lambda: data.ahead(read, workers=config.workers),
  }
  if importlib.util.find_spec("grain"):
    ways["grain"] = lambda: _grain(source, config)
  step, params, _ = plain(config)
  timing = {"write": {"examples_per_s": config.cases / written}}
  for name, make in ways.items():
    timing[name] = _fed(make(), step, params, config)
    print(f"{name}: {timing[name]}", flush=True)
  size = sum(path.stat().st_size for path in target.iterdir())
  return {"cases": len(source), "bytes_on_disk": size, "steps": config.feed_steps}, timing


def _watched(stream: Stream, num_steps: int) -> tuple[Stream, list[float]]:
  """The stream, and the memory of the process a tenth of the way through and at the last step."""
  marks, memory = {max(num_steps // 10, 1), num_steps - 1}, []

  def watched(t: int) -> Any:
    if t in marks:
      memory.append(resident())
    return stream(t)

  return watched, memory


def _fed(stream: Stream, step: Step, params: Params, config: Config) -> dict[str, float]:
  """Speed of the stream alone, then of a training that it feeds."""
  num = max(config.feed_steps // 3, 2)
  stream(0)
  began = time.perf_counter()
  for t in range(1, num):
    stream(t)
  alone = (num - 1) * config.batch_size / (time.perf_counter() - began)
  watched, memory = _watched(stream, config.feed_steps)
  fit = train.fit(
    step,
    watched,
    params,
    jax.random.key(0),
    num_steps=config.feed_steps,
    log_every=max(config.feed_steps // 10, 1),
    progress=False,
  )
  close = getattr(stream, "close", None)
  if close is not None:
    close()
  return {
    "examples_per_s": alone,
    "step_s": fit.timing.seconds_per_step,
    "busy": fit.timing.busy_fraction,
    "grown_MiB": memory[-1] - memory[0],
  }


def _grain(source: Prepared, config: Config) -> Stream:
  """The same records through grain's threads; a batch of step t is its element t."""
  grain = importlib.import_module("grain")
  records = grain.MapDataset.source(source).seed(0).shuffle().repeat()
  batches = records.map(lambda example: (example.image, example.label)).batch(config.batch_size)
  options = grain.ReadOptions(num_threads=config.workers, prefetch_buffer_size=4 * config.workers)
  elements = iter(batches.to_iter_dataset(options))

  def stream(step: int) -> Batch:
    del step  # an iterator knows only the next one
    image, label = next(elements)
    size = len(image)
    index = np.arange(size, dtype=np.int32)
    return Batch(image, label, 0 * index, index, index, np.ones(size, np.float32), index)

  return stream


def long(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
  """Many steps from memory, then many predictions of volumes of random shapes."""
  step, params, model = plain(config)
  store = data.stack(data.ProceduralAnatomy(32, config.shape, _CLASSES, seed=0, with_image=True))
  watched, memory = _watched(data.batches(store, config.batch_size, seed=0), config.long_steps)
  fit = train.fit(
    step,
    watched,
    params,
    jax.random.key(0),
    num_steps=config.long_steps,
    log_every=max(config.long_steps // 20, 1),
    progress=False,
  )
  predictor = inference.Predictor(model, config.shape, axis=0)
  random, seen = np.random.default_rng(0), []
  for number in range(config.predictions):
    shape = (int(random.integers(2, 5)), *random.integers(12, 40, 2).tolist(), 1)
    predictor(fit.state.params, random.random(shape).astype(np.float32))
    if number in (config.predictions // 10, config.predictions - 1):
      seen.append(resident())
  timing = {
    "steps": {"step_s": fit.timing.seconds_per_step, "grown_MiB": memory[-1] - memory[0]},
    "predictions": {"grown_MiB": seen[-1] - seen[0] if seen else 0.0},
  }
  print(timing, flush=True)
  return {"steps": config.long_steps, "predictions": config.predictions}, timing


def _seldom(names: Any) -> Any:
  """A line now and then: there may be a hundred thousand cases."""
  every = max(len(names) // 10, 1)
  marks = iter(counted(names[::every], "tenths written"))
  for number, name in enumerate(names):
    if number % every == 0:
      next(marks)
    yield name


def build(config: Config, options: cli.RunOptions) -> None:
  with options.directory(config) as directory:
    if directory.finished:
      return
    results, timing = {}, {}
    if config.cases:
      results["feeding"], timing["feeding"] = feeding(config, directory.path / "set")
    if config.long_steps:
      results["long"], timing["long"] = long(config)
    directory.write_json("timing", timing)
    directory.write_json("results", results)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
