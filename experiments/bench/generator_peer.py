"""Learn2Synth's generator beside cornucopia's, from a label map to an image, in one process.

  python -m experiments.bench.generator_peer [ROUNDS] [SIDE,SIDE[,SIDE] ...]   wants extra `bench`

Both draw affine and elastic deformation, an intensity for each class, gamma and blur, and rescale
by quantiles, with the ranges of `synth.learn2synth_base`. Two threads on both sides, float32, a
procedural anatomy of six classes. Rows: cornucopia 0.5.1 as the released code of Learn2Synth sets
it, in 2D alone, which also smooths the texture of each class and does not integrate its elastic
field; cornucopia without that smoothing and with seven steps of integration, the same operations as
medjax's; and medjax. The first round, which compiles, is not counted.

Prints one JSON object: shape -> row -> {median_s, low_s, high_s, ratio, cpu_ratio}; ratios are to
cornucopia of the same operations, of seconds and of processor time.
"""

import functools
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.gramian_bench import summary
from experiments.bench.origins import origin
from medjax import data, synth

NUM_CLASSES = 6
SHAPES = ("256,256", "128,128,128")
SAME = "cornucopia, the same operations"


def calls(label: np.ndarray) -> dict[str, Callable[[], Any]]:
  """Row -> one image of the label map."""
  torch, peer = importlib.import_module("torch"), importlib.import_module("cornucopia")
  torch.set_num_threads(2)
  generator = synth.learn2synth_base(synth.identity(NUM_CLASSES))
  ours = jax.jit(lambda key, y: synth.generate(generator, key, y)[0])
  given, tensor = jnp.asarray(label), torch.from_numpy(np.asarray(label, np.int64))[None]
  keys = iter(range(1_000_000))
  released: Any = functools.partial(
    peer.SynthFromLabelTransform, order=1, resolution=False, snr=False, bias=False
  )
  whole, same = released(), released(gmm_fwhm=False, elastic_steps=7)
  rows: dict[str, Callable[[], Any]] = {SAME: lambda: same(tensor)["image"]}
  if label.ndim == 2:  # half a minute a volume
    rows["cornucopia, as released"] = lambda: whole(tensor)["image"]
  rows["medjax"] = lambda: ours(jax.random.key(next(keys)), given).block_until_ready()
  return rows


def measured(rounds: int, shapes: list[str]) -> dict[str, Any]:
  report: dict[str, Any] = {}
  for shape in shapes:
    size = tuple(map(int, shape.split(",")))
    label = np.asarray(data.ProceduralAnatomy(1, size, NUM_CLASSES, seed=0)[0].label)
    own = calls(label)
    seconds: dict[str, list[float]] = {name: [] for name in own}
    busy: dict[str, list[float]] = {name: [] for name in own}
    for repeat in range(-1, rounds):
      for name, call in own.items():
        began, used = time.perf_counter(), time.process_time()
        made = np.asarray(call())
        if made.size != label.size or not np.isfinite(made).all():
          raise ValueError(f"{name}: an image of shape {made.shape} for {label.shape}")
        if repeat >= 0:
          seconds[name].append(time.perf_counter() - began)
          busy[name].append(time.process_time() - used)
    report[shape] = {
      name: {
        **summary(seconds[name], seconds[SAME]),
        "cpu_ratio": statistics.median(busy[name]) / statistics.median(busy[SAME]),
      }
      for name in own
    }
  return report


def main(rounds: int, shapes: list[str]) -> None:
  head = origin("generator_peer", rounds, *shapes, peers=("torch", "cornucopia"))
  record = head | {"rounds": rounds, "shapes": measured(rounds, shapes)}
  print(json.dumps(record, indent=1))


if __name__ == "__main__":
  words = sys.argv[1:]
  main(int(words[0]) if words else 7, words[1:] or list(SHAPES))
