"""Random losses, types, sizes and chunks for `clipped_sum`, and what float64 says about them.

The gradients themselves are JAX's, one example at a time; norms, factors and the sum over examples
are NumPy's in float64. `python -m tests.grads.clipping_cases 500` tries as many cases.
"""

import functools
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import grads

KEY = jax.random.key(0)
NUM = 5


def dense(p, x, key):
  del key
  return jnp.sum(jnp.sin(x["rows"][0] @ p["w"]) * x["size"])


def rows(p, x, key):
  del key
  return jnp.sum((x["rows"] @ p["w"]) * x["size"] * x["rows"][:, :1])


def convolution(p, x, key):
  del key
  image = x["rows"].reshape(1, 3, 4, 2)
  numbers = ("NHWC", "HWIO", "NHWC")
  out = jax.lax.conv_general_dilated(image, p["k"], (1, 1), "SAME", dimension_numbers=numbers)
  return jnp.sum(jnp.tanh(out) * x["size"])


def lookup(p, x, key):
  del key
  return jnp.sum(jnp.take(p["table"], x["code"], axis=0) * x["size"] * p["b"][None, :1])


def tied(p, x, key):
  del key
  return jnp.sum(jnp.tanh(x["rows"] @ p["w"][:, :8]) @ p["w"][:, :8].T * x["size"])


def looped(p, x, key):
  del key
  step = lambda h, row: (jnp.tanh(h + row @ p["w"]), None)  # noqa: E731
  return jnp.sum(jax.lax.scan(step, p["b"], x["rows"])[0] * x["size"])


LOSSES = (dense, rows, convolution, lookup, tied, looped)
FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)
INDICES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32)


class Case(NamedTuple):
  loss: object
  dtype: object
  index: object
  num_rows: int
  log_sizes: tuple[int, ...]
  log_bound: int
  chunk: int | None
  method: str
  is_closed_over: bool
  seed: int


def draw(random: np.random.Generator) -> Case:
  """Sizes of examples from 1e-20 to 1e20; float16 and bfloat16 parameters keep to ordinary ones."""
  dtype = FLOATS[random.integers(3)]
  index = INDICES[random.integers(len(INDICES))]
  most = 3 if dtype == jnp.float16 else 20
  return Case(
    loss=LOSSES[random.integers(len(LOSSES))],
    dtype=dtype,
    index=index,
    num_rows=127 if index == np.int8 else int(random.choice([200, 255, 256, 257, 300])),
    log_sizes=tuple(int(k) for k in random.integers(-most, most + 1, NUM)),
    log_bound=int(random.integers(-min(most, 18), min(most, 18) + 1)),
    chunk=[None, 1, 2, 3][random.integers(4)],
    method=["ghost", "ghost", "vmap"][random.integers(3)],
    is_closed_over=bool(random.integers(2)),
    seed=int(random.integers(2**31)),
  )


def excess(case: Case) -> tuple[float, float]:
  """How far the worst example is above the bound, and how far the sum is off; both relative to C.

  Gradients that float32 cannot hold, or whose norm it cannot hold, are to add nothing.
  """
  random = np.random.default_rng(case.seed)
  normal = lambda *shape: jnp.asarray(random.standard_normal(shape), case.dtype)  # noqa: E731
  params = {
    "w": normal(8, 40),
    "k": normal(3, 3, 2, 24),
    "table": normal(case.num_rows, 40),
    "b": normal(40),
  }
  most = min(case.num_rows, np.iinfo(case.index).max)
  batch = {
    "rows": jnp.asarray(random.standard_normal((NUM, 3, 8)), case.dtype),
    "size": jnp.asarray(10.0 ** np.asarray(case.log_sizes, np.float64), jnp.float32),
    "code": jnp.asarray(random.integers(0, most, (NUM, 4)), case.index),
  }
  bound = 10.0**case.log_bound
  clipped = grads.clipped_sum(case.loss, bound, chunk=case.chunk, method=case.method)

  def given(params, batch, weights):
    return clipped(params, batch, KEY, weights=weights).grads

  # What a function closes over XLA knows as it compiles, and folds and rewrites differently.
  run = jax.jit(functools.partial(given, params, batch) if case.is_closed_over else given)
  first = () if case.is_closed_over else (params, batch)
  formed = jax.jit(grads.per_sample(case.loss))(params, batch, KEY).grads
  formed = [np.asarray(g.astype(jnp.float32), np.float64).reshape(NUM, -1) for g in _leaves(formed)]
  formed = np.concatenate(formed, axis=1)
  norms = np.linalg.norm(formed, axis=1)
  is_there = np.isfinite(norms) & (norms < np.finfo(np.float32).max)
  shares = np.where(is_there, np.minimum(1, bound / np.where(norms > 0, norms, 1)), 0)
  # A factor below the normal numbers of float32 is 0.
  shares = np.where(shares < np.finfo(np.float32).tiny, 0, shares)
  want = shares @ np.where(is_there[:, None], formed, 0)

  def total(weights):
    found = run(*first, jnp.asarray(weights, jnp.float32))
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in _leaves(found)])

  alone = [np.linalg.norm(total(np.eye(NUM)[i])) / bound for i in range(NUM)]
  return max(alone) - 1, float(np.linalg.norm(total(np.ones(NUM)) - want) / bound)


def _leaves(tree):
  return jax.tree.leaves(tree)


def tolerance(case: Case) -> float:
  """Of the sum: narrow gradients of several sites are added in float32 here, by vmap in theirs."""
  return 1e-4 if case.dtype == jnp.float32 else {jnp.bfloat16: 2e-2, jnp.float16: 2e-3}[case.dtype]


if __name__ == "__main__":
  source = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
  for number in range(int(sys.argv[1])):
    case = draw(source)
    above, off = excess(case)
    bad = not (above <= 1e-5 and off <= tolerance(case) * NUM)
    if bad:
      print(f"{number}: {above:+.1e} above the bound, sum off by {off:.1e}: {case}", flush=True)
  print(f"{sys.argv[1]} cases tried")
