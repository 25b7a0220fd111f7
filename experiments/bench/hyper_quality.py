"""How near cheap hypergradients come to the exact one through 64 steps, and what each costs.

  python -m experiments.bench.hyper_quality demo       through 8 steps, one seed
  python -m experiments.bench.hyper_quality evidence   through 64 steps, 3 seeds; 5 minutes

A small convolutional network learns to segment blobs on images that another small network, theta,
changes; the outer loss is that on images of another texture. The network is first trained for 30 or
300 updates of Adam. Then every estimator starts from the same weights, moments and batches, and is
compared with the derivative of the outer loss through the next 64 updates, moments included.

Rows: "last K of 64" takes all 64 updates and differentiates through the last K; "K steps" stops
after K updates, so that its outer loss is that of an earlier network; "constant moments" and "as
SGD" are the whole 64 under a simpler optimiser; "differences" is one step by central differences;
"implicit" solves for a converged network.

Gradients are computed step by step, from compiled losses, since one program of 64 unrolled steps
compiles for minutes. Cost is that of whole programs of at most 16 steps. Operations and memory are
linear in the steps, so that those of 32 and 64 lie on the line through 4 and 16.

results.json: rows.<name>: plain_steps (operations over those of a plain step), temporary_mib,
is_on_line (cost taken from the line), and for each stage the cosine with the exact one and the
ratio of lengths: means and standard deviations over seeds; numbers: of theta; off_program: how far,
of its length, the gradient of 4 steps step by step is from that of the whole program. report.html
has the picture of quality against cost.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import cli, grads, losses, programs, rng, tree
from medjax.train import Report
from medjax.types import Array, Key, Params, PyTree

_SIDE, _CLASSES, _BATCH, _OUTER = 24, 3, 4, 16
_TX = optax.adam(3e-3, eps_root=1e-16)
_KEY = jax.random.key(0)
# Unrolled steps compile for long; how fast they run is not measured here.
_QUICKLY: dict[str, bool | str] = {
  "xla_backend_optimization_level": "0",
  "xla_llvm_disable_expensive_passes": True,
}


@dataclasses.dataclass(frozen=True)
class Config:
  steps: int = 64
  """Updates that the exact hypergradient goes through; above 4."""
  stages: tuple[int, ...] = (30, 300)
  """Updates of the network before."""
  num_seeds: int = 3
  """Seeds, each with its own networks and images."""


PRESETS = {"demo": Config(steps=8, stages=(30,), num_seeds=1), "evidence": Config()}


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


class Estimators(NamedTuple):
  """Those of one number of steps, in the order of the docstring."""

  exact: Estimator
  last: tuple[Estimator, ...]
  first: tuple[Estimator, ...]
  others: tuple[Estimator, ...]


def estimators(steps: int) -> Estimators:
  full: dict[str, Any] = {"carry": "full"}
  fewer = [k for k in (1, 4, 16, 32) if k < steps]
  return Estimators(
    Estimator("exact", 0, steps, full),
    tuple(Estimator(f"last {k} of {steps}", steps - k, k, full) for k in fewer),
    tuple(Estimator(f"{k} step{'s' * (k > 1)}", 0, k, full) for k in fewer if k <= 16),
    (
      Estimator("constant moments", 0, steps, {}),
      Estimator("as SGD", 0, steps, {"surrogate": "sgd"}),
      Estimator("differences", 0, 1, {"method": "fd"}),
      Estimator("implicit", steps - 1, 1, {"method": "implicit", "iterations": 10}),
    ),
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


def starts(config: Config, seed: int) -> tuple[list[Any], PyTree, PyTree]:
  """(theta, weights, moments) at every stage, then an inner batch a step and an outer one."""
  random, key = np.random.default_rng(seed), jax.random.key(seed)
  own, other = rng.streams(key, "network", "theta")
  blank = jnp.zeros((_SIDE, _SIDE, 1))
  params = NETWORK.init(own, blank)["params"]
  theta = CHANGES.init(other, jnp.concatenate([blank, blank], -1))["params"]
  state, found = _TX.init(params), []
  for number in range(max(config.stages)):
    batch = jax.tree.map(jnp.asarray, examples(random, _BATCH, is_real=False))
    params, state = plain(params, state, theta, batch)
    if number + 1 in config.stages:
      found.append((theta, params, state))
  inner = batches_of(examples(random, config.steps * _BATCH, is_real=False), config.steps)
  return found, inner, jax.tree.map(jnp.asarray, examples(random, _OUTER, is_real=True))


def gradient(one: Estimator, start: Any, inner: PyTree, outer: PyTree) -> PyTree:
  """What an estimator finds, step by step; no program holds more than one loss or one update."""
  tx = optax.GradientTransformation(_TX.init, jax.jit(_TX.update))
  compute = grads.hypergradient(
    jax.jit(inner_loss), jax.jit(outer_loss), tx, steps=one.taken, **one.options
  )
  own = jax.tree.map(lambda x: x[one.before : one.before + one.taken], inner)
  theta, params, state = ahead(start, inner, one.before)
  return compute(theta, params, state, own, outer, _KEY).grad


def program(taken: int, options: dict[str, Any], start: Any, inner: PyTree, outer: PyTree) -> Any:
  """The whole program of an estimator for arguments of these shapes."""
  compute = grads.hypergradient(inner_loss, outer_loss, _TX, steps=taken, **options)
  own = jax.tree.map(lambda x: x[:taken], inner)
  lowered = jax.jit(lambda *given: compute(*given).grad).lower(*start, own, outer, _KEY)
  return lowered.compile(compiler_options=_QUICKLY)


def costs(one: Estimator, whole: Callable[[int], Any]) -> tuple[float, float]:
  """Operations and bytes of an estimator, beyond 16 steps on the line through 4 and 16."""

  def of(count: int) -> np.ndarray:
    found = whole(count)
    return np.array([programs.flops(found), found.memory_analysis().temp_size_in_bytes])

  if one.taken <= 16:
    return tuple(of(one.taken))
  low, high = of(4), of(16)
  return tuple(high + (high - low) * (one.taken - 16) / 12)


def ahead(start: Any, inner: PyTree, count: int) -> Any:
  """(theta, weights, moments) `count` updates later."""
  theta, params, state = start
  for number in range(count):
    params, state = plain(params, state, theta, jax.tree.map(lambda x, n=number: x[n], inner))
  return theta, params, state


def ravel(tree_of: PyTree) -> np.ndarray:
  """All leaves as one vector."""
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree_of)])


def compare(found: PyTree, exact: PyTree) -> tuple[float, float]:
  """Cosine, and ratio of lengths."""
  a, b = ravel(found), ravel(exact)
  lengths = np.linalg.norm(a), np.linalg.norm(b)
  return float(a @ b / max(lengths[0] * lengths[1], 1e-300)), float(lengths[0] / lengths[1])


def measure(config: Config) -> tuple[dict[str, dict[str, Any]], float]:
  """The rows of the table, and how far step by step is from the whole program."""
  every, stages_of = estimators(config.steps), sorted(config.stages)
  cases = [starts(config, seed) for seed in range(config.num_seeds)]
  (first, *_), inner, outer = cases[0]
  batch = jax.tree.map(lambda x: x[0], inner)
  theta, params, state = first
  unit = programs.flops(plain.lower(params, state, theta, batch).compile())
  built: dict[tuple[int, str], Any] = {}

  def whole(count: int, options: dict[str, Any]) -> Any:
    known = count, json.dumps(options)
    if known not in built:
      built[known] = program(count, options, first, inner, outer)
    return built[known]

  exact: list[Any] = []
  rows: dict[str, dict[str, Any]] = {}
  for one in (every.exact, *every.last, *every.first, *every.others):
    operations, size = costs(one, lambda count, options=one.options: whole(count, options))
    row: dict[str, Any] = {
      "plain_steps": one.before + operations / unit,
      "temporary_mib": size / 2**20,
      "is_on_line": one.taken > 16,
    }
    rows[one.name] = row
    found = [
      [gradient(one, start, batches, own) for start in stages] for stages, batches, own in cases
    ]
    exact = exact or found
    for place, stage in enumerate(stages_of):
      figures = np.array([compare(a[place], b[place]) for a, b in zip(found, exact, strict=True)])
      means, spread = figures.mean(0), figures.std(0, ddof=1) if len(cases) > 1 else (np.nan,) * 2
      row[f"after {stage}"] = {
        "cosine": float(means[0]), "cosine_sd": float(spread[0]),
        "length": float(means[1]), "length_sd": float(spread[1]),
      }  # fmt: skip
  four = every.first[1]
  at_once = whole(four.taken, four.options)(
    *first, jax.tree.map(lambda x: x[: four.taken], inner), outer, _KEY
  )
  a, b = (ravel(g) for g in (gradient(four, first, inner, outer), at_once))
  return rows, float(np.linalg.norm(a - b) / np.linalg.norm(b))


def page(config: Config, rows: dict[str, dict[str, Any]]) -> Report:
  """Quality against cost as a picture, and the table."""
  report = Report(
    f"Hypergradients through {config.steps} steps: quality against cost",
    f"Cosine with the exact derivative, mean over {config.num_seeds} seeds; 1 is exact, 0 says"
    " nothing.",
  )
  every, stages = estimators(config.steps), sorted(config.stages)
  pick: Callable[[Sequence[Estimator], str, str], tuple[list[float], list[float]]]
  pick = lambda own, cost, stage: (  # noqa: E731
    [rows[one.name][cost] for one in own],
    [rows[one.name][stage]["cosine"] for one in own],
  )
  for cost, text in (("plain_steps", "operations, plain steps"), ("temporary_mib", "MiB")):
    series = {}
    for stage in (f"after {n}" for n in stages):
      series[f"{stage}: last K of {config.steps}"] = pick((*every.last, every.exact), cost, stage)
      series[f"{stage}: K steps"] = pick((*every.first, every.exact), cost, stage)
    report.curves(series, text, "cosine")
  header = ["estimator", "operations, plain steps", "temporary memory, MiB"]
  header += [f"{what}, after {n}" for n in stages for what in ("cosine", "length")]
  report.table(
    header,
    [
      [
        name,
        own["plain_steps"],
        own["temporary_mib"],
        *(own[f"after {n}"][what] for n in stages for what in ("cosine", "length")),
      ]
      for name, own in rows.items()
    ],
    "length: over that of the exact one.",
  )
  return report


def build(config: Config, options: cli.RunOptions) -> None:
  with options.directory(config) as directory:
    if directory.finished:
      return
    rows, off_program = measure(config)
    theta = CHANGES.init(jax.random.key(0), jnp.zeros((_SIDE, _SIDE, 2)))["params"]
    page(config, rows).what_ran(directory.config).write(directory.path / "report.html")
    results = {"numbers": tree.size(theta), "off_program": off_program, "rows": rows}
    directory.write_json("timing", {})
    directory.write_json("results", results)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
