"""Low-rank updates of the matrices of any parameter tree (Hu et al., "LoRA", 2022).

  W' = W + (alpha / rank) D U,   D: [in, rank] normal,   U: [rank, out] zero at the start

A kernel of a convolution, [*space, in, out], is the matrix [*space * in, out].
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from medjax import check, rng, tree
from medjax.types import Key, Params, PyTree


def low_rank(
  key: Key, params: Params, rule: Callable[[str], bool], *, rank: int = 4
) -> dict[str, dict[str, jax.Array]]:
  """Factors for the chosen matrices; with them the network computes what it computed before.

  >>> params = {"query": {"kernel": jnp.ones((6, 8)), "bias": jnp.ones(8)}}
  >>> factors = low_rank(jax.random.key(0), params, lambda name: name.endswith("kernel"), rank=2)
  >>> {name: {k: x.shape for k, x in own.items()} for name, own in factors.items()}
  {'query/kernel': {'down': (6, 2), 'up': (2, 8)}}
  >>> bool((with_low_rank(params, factors)["query"]["kernel"] == params["query"]["kernel"]).all())
  True

  Args:
    key: for the first factors.
    params: parameters, or their shapes.
    rule: path of a leaf, such as "encoder/block0/attention/query/kernel" -> whether it is updated.
    rank: columns of the factors.
  Returns:
    {path: {"down": [in, rank], "up": [rank, out]}}.
  Raises:
    InputError: no leaf is chosen, or one that is no matrix.
  """
  check.positive("rank", rank)
  chosen = {name: leaf for name, leaf in tree.named_leaves(params).items() if rule(name)}
  names = ", ".join(list(tree.named_leaves(params))[:10])
  check.require(chosen, "a rule that chooses a matrix", f"none of {names}, ...", "correct the rule")
  factors = {}
  for name, leaf in chosen.items():
    check.require(
      len(leaf.shape) >= 2,
      "matrices or kernels for low-rank updates",
      f"{name} of shape {tuple(leaf.shape)}",
      "train it itself, or leave it out of the rule",
    )
    rows = math.prod(leaf.shape[:-1])
    down = jax.random.normal(rng.stream(key, name), (rows, rank), leaf.dtype) / math.sqrt(rows)
    factors[name] = {"down": down, "up": jnp.zeros((rank, leaf.shape[-1]), leaf.dtype)}
  return factors


def with_low_rank(
  params: Params, factors: dict[str, dict[str, jax.Array]], *, alpha: float | int | None = None
) -> Params:
  """The parameters with their updates added.

  Args:
    params: a whole tree.
    factors: of `low_rank`.
    alpha: scale of the update times the rank; None: the rank, so that the scale is 1.
  Raises:
    InputError: a factor whose leaf is not there.
  """
  missing = sorted(set(factors) - set(tree.named_leaves(params)))
  check.require(
    not missing, "the parameters that the factors belong to", f"no {missing}", "load their network"
  )

  def updated(name: str, leaf: PyTree) -> PyTree:
    if name not in factors:
      return leaf
    down, up = factors[name]["down"], factors[name]["up"]
    scale = 1.0 if alpha is None else alpha / down.shape[1]
    return leaf + (scale * (down @ up)).reshape(leaf.shape).astype(leaf.dtype)

  return tree.map_named(updated, params)
