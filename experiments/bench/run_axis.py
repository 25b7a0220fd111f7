"""Trainings along the run axis in every mode, and what their input costs, in one process.

  python -m experiments.bench.run_axis [SIDE] [BATCH] [RUNS] [ROUNDS]   5 min at 64 16 4 3

The released 2D U-Net of MMTL (GroupNorm), Adam, images of a pool on the device. A round trains all
runs for 6 steps in every mode of `fit_many`, one mode after the other; a mode's time is what a
step of ALL runs takes (medians between waits for the device; compilation, which every fit repeats,
is not in it). "sharded" is there with several devices only; on a CPU
XLA_FLAGS=--xla_force_host_platform_device_count=2 makes two.

Prints one JSON object. modes.<mode>: {median_s, low_s, high_s, ratio to sequential}. input.<kind>:
{median_s, share of a step of one run}: "pooled" batches are gathered on the device by rows that
the host draws, "copied" ones are put together on the host.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import data, losses, methods, nets, train
from medjax.nets.sum_unet import SumUNet
from medjax.train import runs
from medjax.types import Batch, Key, Params, Step, Stream

_POOL = 256  # images
_STEPS = 6
_CALLS = 50


def problem(side: int) -> tuple[Step, Callable[[int], Params], Batch]:
  """The Step, initial parameters by seed, and the pool, on the host."""
  model = nets.from_linen(SumUNet(num_outputs=2, norm="group"))
  random = np.random.default_rng(0)
  image = random.random((_POOL, side, side, 1)).astype(np.float32)
  index = np.arange(_POOL, dtype=np.int32)
  label = (image[..., 0] > 0.5).astype(np.int32)
  pool = Batch(image, label, np.zeros_like(index), index, index, np.ones(_POOL, np.float32))

  def loss_fn(params: Params, example: Batch, key: Key) -> jax.Array:
    del key
    return losses.cross_entropy(model.apply(params, example.image)[0], example.label)

  step = methods.supervised(loss_fn, optax.adam(1e-3))
  return step, lambda seed: model.init(jax.random.key(seed), image[0])[0], pool


def seconds_of_modes(
  step: Step, start: Callable[[int], Params], pool: Batch, batch_size: int, num: int, rounds: int
) -> dict[str, np.ndarray]:
  """[round] seconds that a step of all runs takes, by mode."""
  modes = [mode for mode in get_args(runs.Mode) if mode != "sharded" or jax.device_count() > 1]
  pool = jax.tree.map(jnp.asarray, pool)
  found: dict[str, list[float]] = {mode: [] for mode in modes}
  for _ in range(rounds):
    for mode in modes:
      fits = train.fit_many(
        step,
        [data.pooled(pool, data.rows(_POOL, batch_size, seed)) for seed in range(num)],
        [start(seed) for seed in range(num)],
        [jax.random.key(seed) for seed in range(num)],
        num_steps=_STEPS,
        mode=mode,
        log_every=2,
        progress=False,
      )
      own = fits if mode == "sequential" else fits[:1]  # the others are one fit of all runs
      found[mode].append(sum(fit.timing.seconds_per_step for fit in own))
  return {mode: np.array(seconds) for mode, seconds in found.items()}


def seconds_of_input(pool: Batch, batch_size: int) -> dict[str, float]:
  """Median seconds until a batch lies on the device."""
  rows = data.rows(_POOL, batch_size, 0)
  streams: dict[str, Stream] = {
    "pooled": data.pooled(jax.tree.map(jnp.asarray, pool), rows),
    "copied": lambda step: jax.device_put(jax.tree.map(lambda x: x[rows(step)], pool)),
  }
  found = {}
  for kind, stream in streams.items():
    seconds = []
    for call in range(_CALLS):
      began = time.perf_counter()
      jax.block_until_ready(stream(call))
      seconds.append(time.perf_counter() - began)
    found[kind] = float(np.median(seconds[2:]))
  return found


def main(arguments: Sequence[str]) -> None:
  side, batch_size, num, rounds = [int(x) for x in arguments] + [64, 16, 4, 3][len(arguments) :]
  step, start, pool = problem(side)
  seconds = seconds_of_modes(step, start, pool, batch_size, num, rounds)
  modes: dict[str, Any] = {}
  for mode, own in seconds.items():
    low, median, high = np.percentile(own, [10, 50, 90])
    ratio = np.median(own / seconds["sequential"])
    modes[mode] = {"median_s": median, "low_s": low, "high_s": high, "ratio": float(ratio)}
  one = modes["sequential"]["median_s"] / num
  inputs = {
    kind: {"median_s": s, "share": s / one}
    for kind, s in seconds_of_input(pool, batch_size).items()
  }
  device = {"kind": jax.devices()[0].device_kind, "count": jax.device_count()}
  print(json.dumps({"device": device, "modes": modes, "input": inputs}, indent=2))


if __name__ == "__main__":
  main(sys.argv[1:])
