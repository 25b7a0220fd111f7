"""How near cheap hypergradients come to the exact one through 64 steps, and what each costs.

  python -m experiments.bench.hyper_quality [PAGE.html] [SEEDS]   10 minutes of one core at 4 seeds

A small convolutional network learns to segment blobs on images that another small network, theta,
changes; the outer loss is that on images of another texture. The network is first trained for 30 or
300 updates of Adam. Then every estimator starts from the same weights, moments and batches, and is
compared with the derivative of the outer loss through the next 64 updates, moments included.

Rows: "last K of 64" takes all 64 updates and differentiates through the last K; "K steps" stops
after K updates, so that its outer loss is that of an earlier network; "constant moments" and "as
SGD" are the whole 64 under a simpler optimiser; "differences" is one step by central differences;
"implicit" solves for a converged network. Prints one JSON object: rows.<name>: plain_steps
(operations of its compiled program over those of a plain step), temporary_mib, and for each stage
the cosine with the exact one and the ratio of lengths: means and standard deviations over seeds.
With a path it also writes a page with the picture of quality against cost.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import grads, losses, programs, rng, tree
from medjax.train import Report
from medjax.types import Array, Key, Params, PyTree

STEPS = 64
STAGES = (30, 300)
_SIDE, _CLASSES, _BATCH, _OUTER = 24, 3, 4, 16
_TX = optax.adam(3e-3, eps_root=1e-16)
_KEY = jax.random.key(0)
# 64 unrolled steps compile for minutes; how fast they run is not measured here.
_QUICKLY: dict[str, bool | str] = {
  "xla_backend_optimization_level": "0",
  "xla_llvm_disable_expensive_passes": True,
}


class Estimator(NamedTuple):
  """Attributes:
  name: of the row.
  before: plain updates that it takes first.
  taken: updates through which it differentiates.
  options: further arguments of `grads.hypergradient`.
  """

  name: str
  before: int
  taken: int
  options: dict[str, Any]


_FULL: dict[str, Any] = {"carry": "full"}
EXACT = Estimator("exact", 0, STEPS, _FULL)
LAST = tuple(Estimator(f"last {k} of {STEPS}", STEPS - k, k, _FULL) for k in (1, 4, 16, 32))
FIRST = tuple(Estimator(f"{k} step{'s' * (k > 1)}", 0, k, _FULL) for k in (1, 4, 16))
OTHERS = (
  Estimator("constant moments", 0, STEPS, {}),
  Estimator("as SGD", 0, STEPS, {"surrogate": "sgd"}),
  Estimator("differences", 0, 1, {"method": "fd"}),
  Estimator("implicit", STEPS - 1, 1, {"method": "implicit", "iterations": 10}),
)


class Convolutions(nn.Module):
  """Three convolutions; per example, any size."""

  num_outputs: int
  width: int = 8

  @nn.compact
  def __call__(self, image: Array) -> Array:
    x = nn.elu(nn.Conv(self.width, (3, 3))(image))
    x = nn.elu(nn.Conv(self.width, (3, 3))(x))
    return nn.Conv(self.num_outputs, (3, 3))(x)


NETWORK, CHANGES = Convolutions(_CLASSES), Convolutions(1, 4)


def inner_loss(params: Params, theta: PyTree, example: Any, key: Key) -> Array:
  """On an image that theta changes; a noise channel lets it draw textures."""
  del key  # the noise comes with the example, so that all estimators see the same
  seen = jnp.concatenate([example["image"], example["noise"]], -1)
  change: Any = CHANGES.apply({"params": theta}, seen)
  logits: Any = NETWORK.apply({"params": params}, example["image"] + 0.3 * change)
  return losses.soft_dice(logits, example["label"]) + losses.cross_entropy(logits, example["label"])


def outer_loss(params: Params, example: Any, key: Key) -> Array:
  """On a real image."""
  del key
  logits: Any = NETWORK.apply({"params": params}, example["image"])
  return losses.soft_dice(logits, example["label"]) + losses.cross_entropy(logits, example["label"])


def examples(random: np.random.Generator, count: int, *, is_real: bool) -> dict[str, np.ndarray]:
  """Smooth blobs of three classes; real ones have stripes, noise and another contrast."""
  spectrum = np.fft.fft2(random.normal(size=(count, _SIDE, _SIDE)))
  rates = np.hypot(np.fft.fftfreq(_SIDE)[:, None], np.fft.fftfreq(_SIDE)[None])
  field = np.fft.ifft2(spectrum * np.exp(-((rates * 8) ** 2))).real
  field /= field.std((1, 2), keepdims=True)
  label = (field > -0.4).astype(np.int32) + (field > 0.6)
  image = np.array([0.2, 0.5, 0.8])[label]
  if is_real:
    stripes = 0.1 * np.sin(np.arange(_SIDE) * 1.7)[None, None]
    image = image**1.3 + stripes + random.normal(0, 0.1, image.shape)
  noise = random.normal(size=image.shape)
  return {
    "image": image[..., None].astype(np.float32),
    "noise": noise[..., None].astype(np.float32),
    "label": label,
  }


def batches_of(own: dict[str, np.ndarray], count: int) -> PyTree:
  """[count, batch, ...] leaves."""
  return jax.tree.map(lambda x: jnp.asarray(x).reshape(count, -1, *x.shape[1:]), own)


@jax.jit
def plain(params: Params, state: PyTree, theta: PyTree, batch: PyTree) -> Any:
  """One update of the network."""
  mean = lambda p: jax.vmap(inner_loss, (None, None, 0, None))(p, theta, batch, _KEY).mean()  # noqa: E731
  updates, state = _TX.update(jax.grad(mean)(params), state, params)
  return optax.apply_updates(params, updates), state


def starts(seed: int) -> tuple[list[Any], PyTree, PyTree]:
  """(theta, weights, moments) at every stage, then 64 inner batches and an outer one."""
  random, key = np.random.default_rng(seed), jax.random.key(seed)
  own, other = rng.streams(key, "network", "theta")
  blank = jnp.zeros((_SIDE, _SIDE, 1))
  params = NETWORK.init(own, blank)["params"]
  theta = CHANGES.init(other, jnp.concatenate([blank, blank], -1))["params"]
  state, found = _TX.init(params), []
  for number in range(STAGES[-1]):
    batch = jax.tree.map(jnp.asarray, examples(random, _BATCH, is_real=False))
    params, state = plain(params, state, theta, batch)
    if number + 1 in STAGES:
      found.append((theta, params, state))
  inner = batches_of(examples(random, STEPS * _BATCH, is_real=False), STEPS)
  return found, inner, jax.tree.map(jnp.asarray, examples(random, _OUTER, is_real=True))


def compiled(taken: int, options: dict[str, Any], start: Any, inner: PyTree, outer: PyTree) -> Any:
  """The program of an estimator for arguments of these shapes."""
  compute = grads.hypergradient(inner_loss, outer_loss, _TX, steps=taken, **options)
  own = jax.tree.map(lambda x: x[:taken], inner)
  lowered = jax.jit(lambda *given: compute(*given).grad).lower(*start, own, outer, _KEY)
  return lowered.compile(compiler_options=_QUICKLY)


def ahead(start: Any, inner: PyTree, count: int) -> Any:
  """(theta, weights, moments) `count` updates later."""
  theta, params, state = start
  for number in range(count):
    params, state = plain(params, state, theta, jax.tree.map(lambda x, n=number: x[n], inner))
  return theta, params, state


def compare(found: PyTree, exact: PyTree) -> tuple[float, float]:
  """Cosine, and ratio of lengths."""
  a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(g)]) for g in (found, exact))
  lengths = np.linalg.norm(a), np.linalg.norm(b)
  return float(a @ b / max(lengths[0] * lengths[1], 1e-300)), float(lengths[0] / lengths[1])


def measure(num_seeds: int) -> dict[str, dict[str, Any]]:
  """The rows of the table."""
  cases = [starts(seed) for seed in range(num_seeds)]
  (first, *_), inner, outer = cases[0]
  batch = jax.tree.map(lambda x: x[0], inner)
  theta, params, state = first
  unit = programs.flops(plain.lower(params, state, theta, batch).compile())
  exact: list[Any] = []
  rows: dict[str, dict[str, Any]] = {}
  for one in (EXACT, *LAST, *FIRST, *OTHERS):
    program = compiled(one.taken, one.options, first, inner, outer)
    rows[one.name] = row = {
      "plain_steps": one.before + programs.flops(program) / unit,
      "temporary_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
    }
    found = [
      [
        program(
          *ahead(start, batches, one.before),
          jax.tree.map(lambda x, k=one: x[k.before : k.before + k.taken], batches),
          own,
          _KEY,
        )
        for start in stages
      ]
      for stages, batches, own in cases
    ]
    exact = exact or found
    for place, stage in enumerate(STAGES):
      figures = np.array([compare(a[place], b[place]) for a, b in zip(found, exact, strict=True)])
      means, spread = figures.mean(0), figures.std(0, ddof=1) if num_seeds > 1 else (np.nan,) * 2
      row[f"after {stage}"] = {
        "cosine": float(means[0]), "cosine_sd": float(spread[0]),
        "length": float(means[1]), "length_sd": float(spread[1]),
      }  # fmt: skip
  return rows


def page(rows: dict[str, dict[str, Any]], num_seeds: int) -> Report:
  """Quality against cost as a picture, and the table."""
  report = Report(
    f"Hypergradients through {STEPS} steps: quality against cost",
    f"Cosine with the exact derivative, mean over {num_seeds} seeds; 1 is exact, 0 says nothing.",
  )
  pick: Callable[[Sequence[Estimator], str, str], tuple[list[float], list[float]]]
  pick = lambda own, cost, stage: (  # noqa: E731
    [rows[one.name][cost] for one in own],
    [rows[one.name][stage]["cosine"] for one in own],
  )
  for cost, text in (("plain_steps", "operations, plain steps"), ("temporary_mib", "MiB")):
    series = {}
    for stage in (f"after {n}" for n in STAGES):
      series[f"{stage}: last K of {STEPS}"] = pick((*LAST, EXACT), cost, stage)
      series[f"{stage}: K steps"] = pick((*FIRST, EXACT), cost, stage)
    report.curves(series, text, "cosine")
  header = ["estimator", "operations, plain steps", "temporary memory, MiB"]
  header += [f"{what}, after {n}" for n in STAGES for what in ("cosine", "length")]
  report.table(
    header,
    [
      [
        name,
        own["plain_steps"],
        own["temporary_mib"],
        *(own[f"after {n}"][what] for n in STAGES for what in ("cosine", "length")),
      ]
      for name, own in rows.items()
    ],
    "length: over that of the exact one.",
  )
  return report


def main(arguments: Sequence[str]) -> None:
  paths = [x for x in arguments if not x.isdigit()]
  num_seeds = int(next((x for x in arguments if x.isdigit()), 4))
  rows = measure(num_seeds)
  theta = CHANGES.init(jax.random.key(0), jnp.zeros((_SIDE, _SIDE, 2)))["params"]
  about = {"device": jax.devices()[0].device_kind, "seeds": num_seeds, "numbers": tree.size(theta)}
  print(json.dumps({**about, "rows": rows}, indent=2))
  for path in paths:
    page(rows, num_seeds).write(path)


if __name__ == "__main__":
  main(sys.argv[1:])
