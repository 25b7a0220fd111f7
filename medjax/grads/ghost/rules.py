"""How each site gives the squared norm of its gradient: the cheapest exact way that is known.

  gradient   the gradient of every example is formed, measured and kept for the weighted sum
  pair       operand a and cotangent b are kept; |sum_t a_t b_t^T|^2 = <A A^T, B B^T>
             (Goodfellow 2015 for one t; Li et al. 2022, Bu et al. 2023 for many). The terms may
             cancel: with the sum comes (sum_t |a_t| |b_t|)^2, to which its rounding is relative
  leaf       gradients of several sites that share parameters are added per example, then measured

Gradients of operations without a special form come from `jax.vjp` of the operation itself, so that
a site of any kind is exact.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax.grads.ghost import convolution
from medjax.grads.ghost.program import GhostSite
from medjax.types import Leaf

HIGHEST = jax.lax.Precision.HIGHEST
_PRODUCTS_A_NUMBER = 32
"""Multiplications that take as long as to write a number to memory and read it twice (measured on a
CPU; accelerators do more)."""


class GhostRule(NamedTuple):
  """What is done at a site.

  Attributes:
    name: for people: "dense", "convolution", "lookup", "scan", ...
    gradient: `gradient(cuts, operands, cotangents) -> per-cut gradients` of one example.
    pair_norm: `pair_norm(operands, cotangents) -> (squared norm, scale)` of one example; rounding
      is that of numbers as large as `scale`, 0 if it is of the squared norm itself. None if there
      is none or it would not pay.
    pairs: `pairs(operands, cotangents) -> (a, b)` of one example, whose gradient is the sum
      over blocks and rows of a (outer) b: a [block, row, in] or, for a lookup, numbers of table
      rows [1, row], -1 for none; b [block, row, out]. None if there is no such form.
  """

  name: str
  gradient: Callable[[Sequence[Leaf], Sequence[Leaf], Sequence[Leaf]], tuple[Leaf, ...]]
  pair_norm: Callable[[Sequence[Leaf], Sequence[Leaf]], tuple[jax.Array, jax.Array]] | None
  pairs: Callable[[Sequence[Leaf], Sequence[Leaf]], tuple[jax.Array, jax.Array]] | None = None


def choose(site: GhostSite, cuts: Sequence[Leaf], constants: Mapping[int, Leaf]) -> GhostRule:
  """The rule of a site whose cuts have the shapes of `cuts`."""
  name = site.operation.primitive.name
  if site.is_plain and name == "dot_general":
    return _dense(site, cuts[0].shape, constants)
  if site.is_plain and name == "gather" and _is_lookup(site, cuts[0].shape):
    return _lookup(site, cuts[0].shape, constants)
  if (
    site.is_plain
    and convolution.is_supported(site.operation)
    and site.operation.inputs[1] == site.cuts[0].value
  ):
    return _convolution(site, tuple(cuts[0].shape), constants)
  return GhostRule(name, _by_vjp(site, constants), None)


def _by_vjp(site: GhostSite, constants: Mapping[int, Leaf]) -> Callable[..., tuple[Leaf, ...]]:
  def gradient(cuts: Sequence[Leaf], operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    _, pull = jax.vjp(lambda c: site.run(c, operands, constants), tuple(cuts))
    return pull(tuple(cotangents))[0]

  return gradient


def _convolution(
  site: GhostSite, kernel: tuple[int, ...], constants: Mapping[int, Leaf]
) -> GhostRule:
  operation = site.operation

  def gradient(cuts: Sequence[Leaf], operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    del cuts
    return (convolution.kernel_gradient(operation, kernel, operands[0], cotangents[0]),)

  def pair_norm(operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    return convolution.pair_norm(operation, kernel, operands[0], cotangents[0])

  image, result = operation.input_avals[0].shape, operation.avals[0].shape
  cost = convolution.pair_norm_cost(operation, image, kernel, result)
  pays = convolution.has_pair_norm(operation) and _pays(cost, kernel)
  return GhostRule("convolution", gradient, pair_norm if pays else None)


def _pays(multiplications: int, weight: Sequence[int]) -> bool:
  """Whether a norm from pairs costs less than to write one gradient and read it twice."""
  return multiplications < _PRODUCTS_A_NUMBER * math.prod(weight)


def _is_lookup(site: GhostSite, table: tuple[int, ...]) -> bool:
  """Whether a gather takes whole rows of its first operand."""
  operation = site.operation
  numbers = operation.params["dimension_numbers"]
  return (
    operation.inputs[0] == site.cuts[0].value
    and tuple(numbers.start_index_map) == tuple(numbers.collapsed_slice_dims) == (0,)
    and not numbers.operand_batching_dims
    and tuple(operation.params["slice_sizes"]) == (1, *table[1:])
  )


def _lookup(site: GhostSite, table: tuple[int, ...], constants: Mapping[int, Leaf]) -> GhostRule:
  """Rows of a table by index: those of equal index are added, so their products count crosswise."""
  operation = site.operation
  offsets = operation.params["dimension_numbers"].offset_dims

  def rows_read(index: jax.Array) -> jax.Array:
    """Number of the row that each index reads, -1 for none.

    The operation itself is asked, with a table of row numbers: indices of any type, beyond the
    table and in any mode then mean here what they mean there.
    """
    numbers = jnp.arange(table[0], dtype=jnp.int32).reshape(-1, *(1,) * (len(table) - 1))
    narrow = {**operation.params, "slice_sizes": (1,) * len(table), "fill_value": -1}
    return operation._replace(params=narrow).run([numbers, index])[0]

  def rows_and_cotangents(operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    b = cotangents[0]
    leading = [axis for axis in range(b.ndim) if axis not in offsets]
    row = rows_read(operands[0]).reshape(-1)
    b = b.transpose(*leading, *offsets).reshape(row.size, -1).astype(jnp.float32)
    # Where no row was read a constant was, which has no gradient.
    return row[None], jnp.where((row >= 0)[:, None], b, 0.0)[None]

  def pair_norm(operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    (row,), (b,) = rows_and_cotangents(operands, cotangents)
    is_same = row[:, None] == row[None, :]
    products = jnp.matmul(b, b.T, precision=HIGHEST)
    scale = jnp.sum(jnp.sqrt(jnp.diagonal(products))) ** 2
    return jnp.sum(jnp.where(is_same, products, 0.0)), scale

  count = math.prod(operation.avals[0].shape) // max(math.prod(table[1:]), 1)
  pays = _pays(count**2 * math.prod(table[1:]), table)
  gradient = _by_vjp(site, constants)
  return GhostRule("lookup", gradient, pair_norm if pays else None, rows_and_cotangents)


def _dense(site: GhostSite, weight: tuple[int, ...], constants: Mapping[int, Leaf]) -> GhostRule:
  """A matrix product with the parameters on either side."""
  operation = site.operation
  side = 0 if operation.inputs[0] == site.cuts[0].value else 1
  (contract, batch) = operation.params["dimension_numbers"]
  mine, other = contract[side], contract[1 - side]
  mine_batch, other_batch = batch[side], batch[1 - side]
  num_batch = len(mine_batch)
  columns = [i for i in range(len(weight)) if i not in (*mine, *mine_batch)]
  size_in = math.prod(weight[i] for i in mine)
  size_out = math.prod(weight[i] for i in columns)
  result = operation.avals[0].shape
  blocks = math.prod(result[:num_batch])
  rows = math.prod(result) // max(blocks * size_out, 1)

  def matrices(operand: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[block, row, in] and [block, row, out]."""
    free = [i for i in range(operand.ndim) if i not in (*other, *other_batch)]
    a = operand.transpose(*other_batch, *free, *other).reshape(blocks, rows, size_in)
    # results are [batch, free of the left, free of the right]
    if side == 1:
      b = cotangent.reshape(blocks, rows, size_out)
    else:
      b = cotangent.reshape(blocks, size_out, rows).swapaxes(1, 2)
    return a.astype(jnp.float32), b.astype(jnp.float32)

  def pairs(operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    return matrices(operands[0], cotangents[0])

  def pair_norm(operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    a, b = matrices(operands[0], cotangents[0])
    lengths = (a * a).sum(2) * (b * b).sum(2)  # [block, row]
    if rows == 1:
      return lengths.sum(), jnp.zeros(())
    between = [jnp.matmul(x, x.swapaxes(1, 2), precision=HIGHEST) for x in (a, b)]
    return jnp.sum(between[0] * between[1]), (jnp.sqrt(lengths).sum(1) ** 2).sum()

  pays = _pays(blocks * rows**2 * (size_in + size_out), weight)
  return GhostRule("dense", _by_vjp(site, constants), pair_norm if pays else None, pairs)
