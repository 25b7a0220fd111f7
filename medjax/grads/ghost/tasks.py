"""Gradients of several tasks, each a mean over the batch: inner products and weighted sums.

  <G_k, G_l> = sum_{t,s} <a_t, a_s> <b_kt, b_ls>       for G_k = sum_t a_t (outer) b_kt
  sum_k w_k G_k = sum_t a_t (outer) sum_k w_k b_kt

where t runs over the examples and over the rows of each. All tasks read the same operands a: one
forward pass serves them, and the cotangents b come from one backward pass a task. Where a site is a
matrix product or a lookup that is cheaper so, the gradients of the tasks are never formed; at the
others they are formed. A weighted sum is that of the gradients where these were formed; elsewhere
it is formed as one gradient, from the sum of the cotangents.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax.grads.ghost import engine, products, rules
from medjax.grads.ghost.program import GhostSite, Program
from medjax.tree import at_least_float32
from medjax.types import Leaf

_CANCELLATION = 2e-3
"""Of the size of its terms: a squared norm above it has lost less than three digits to rounding."""
_SLICE = 16
"""Rows of a matrix of parameters whose gradients are formed at a time."""


class Tasks(NamedTuple):
  """What a forward pass, and a backward pass a task, gave.

  Attributes:
    gramian: [tasks, tasks] inner products on the leaves that count; NaN where a task is not finite.
    is_finite: [tasks] whether all that its gradients are made of is finite, heads included.
    values: [examples, tasks] losses.
    weighted_sum: `weighted_sum(weights) -> leaves`, with weights [tasks] for each leaf; a task of
      weight 0 adds exactly 0, whatever its gradient.
  """

  gramian: Leaf
  is_finite: Leaf
  values: Any
  weighted_sum: Callable[[Sequence[jax.Array]], list[jax.Array]]


def pays(
  program: Program,
  how: engine.GhostPlan,
  leaves: Sequence[Leaf],
  shape: tuple[int, int],
  counts: Sequence[bool],
) -> bool:
  """Whether at some site the gradients of the tasks need not be formed; else nothing is saved.

  Args:
    program, how, leaves, counts: as for `run`.
    shape: numbers of examples and tasks.
  """
  return any(
    _by_pairs(site, rule, own, how, shape) and counts[site.cuts[0].leaf]
    for site, rule, own in zip(program.sites.values(), how.rules, program.cuts(leaves), strict=True)
  )


def run(
  program: Program,
  how: engine.GhostPlan,
  leaves: Sequence[Leaf],
  examples: Sequence[Leaf],
  share: jax.Array,
  counts: Sequence[bool],
) -> Tasks:
  """One forward pass over a batch, and one backward pass for each task.

  Args:
    program: of a loss of one example whose last leaf but one is a number for each task. Beside the
      loss it returns (losses times these numbers, losses), both a tuple with an entry a task.
    how: its plan.
    leaves: of the parameters.
    examples: leaves [examples, ...] of batch and keys, without those numbers.
    share: [examples, tasks] part of each example in the mean of each task, 0 or more.
    counts: whether a leaf counts in the inner products.
  """
  constants, cuts = program.constants(leaves), program.cuts(leaves)
  _, pull_cuts = jax.vjp(lambda *x: program.cuts(x), *map(at_least_float32, leaves))
  operands, values, cotangents = _backward(program, constants, examples, share)
  sites, num_tasks = tuple(program.sites.values()), share.shape[1]
  total = jnp.zeros((num_tasks, num_tasks), jnp.float32)
  is_finite, pairs = jnp.ones(num_tasks, bool), []
  formed: list[
    tuple[Leaf, ...] | None
  ] = []  # gradients of the tasks by site, None where not formed
  for site, rule, own, a, b in zip(sites, how.rules, cuts, operands, cotangents, strict=True):
    # An example that is not finite spoils the tasks that it takes part in, and no other.
    is_whole = _finite(a)
    is_finite &= ~(~is_whole[:, None] & (share > 0)).any(0)
    a = jax.tree.map(lambda x, whole=is_whole: _cleared(x, whole), a)
    b = jax.tree.map(lambda x: _cleared(x, share > 0), b)
    for x in jax.tree.leaves(b):
      is_finite &= jnp.isfinite(x).all([axis for axis in range(x.ndim) if axis != 1])
    pairs.append((a, b))
    if not any(counts[cut.leaf] for cut in site.cuts):
      formed.append(None)
      continue
    if _by_pairs(site, rule, own, how, share.shape):
      total = total + _from_pairs(rule, a, b)
      formed.append(None)
      continue
    found = _formed(site, own, a, b, constants)
    formed.append(found)
    for g, cut in zip(found, site.cuts, strict=True):
      if counts[cut.leaf] and cut.leaf not in how.added:
        total = total + products.of_rows(g)
  added = engine.added_gradients(sites, formed, how.added, cuts, pull_cuts)
  total = total + sum(products.of_rows(g) for leaf, g in added.items() if counts[leaf])

  def weighted_sum(weights: Sequence[jax.Array]) -> list[jax.Array]:
    sums = []
    for site, own, (a, b), found in zip(sites, cuts, pairs, formed, strict=True):
      each = [weights[cut.leaf] for cut in site.cuts]
      if found is None:
        # Cuts of one weight are pulled at once: all of them, but for a site of trunk and head.
        pulled = {id(w): _pulled(site, own, a, _summed(b, w, 1), constants) for w in each}
        sums.append(tuple(at_least_float32(pulled[id(w)][c]) for c, w in enumerate(each)))
      else:
        sums.append(
          tuple(_summed(at_least_float32(g), w, 0) for g, w in zip(found, each, strict=True))
        )
    return list(pull_cuts(tuple(sums)))

  lost = ~is_finite[:, None] | ~is_finite[None]
  return Tasks(jnp.where(lost, jnp.nan, total), is_finite, jnp.stack(values, 1), weighted_sum)


def _backward(
  program: Program, constants: Any, examples: Sequence[Leaf], share: jax.Array
) -> tuple[Any, Any, Any]:
  """Operands [example, ...], losses a task [example], cotangents [example, task, ...]."""

  def one(*example: Any) -> tuple[Any, Any, Any]:
    *batch, key, own = example
    taps = program.taps()

    def forward(taps: Any) -> tuple[Any, Any]:
      _, seen = program.forward(constants, (*batch, own, key), taps)
      return seen.aux[0], seen

    _, linear, seen = jax.linearize(forward, taps, has_aux=True)
    # Each task is transposed by itself: with zeros for the others, what is not finite in one loss
    # would reach them as 0 times NaN.
    found = [
      jax.linear_transpose(lambda taps, number=number: linear(taps)[number], taps)(
        jnp.ones((), scaled.dtype)
      )[0]
      for number, scaled in enumerate(seen.aux[0])
    ]
    return seen.operands, seen.aux[1], jax.tree.map(lambda *x: jnp.stack(x), *found)

  return jax.vmap(one)(*examples, share)


def _summed(values: Any, weights: jax.Array, axis: int) -> Any:
  """Weighted sums over the tasks, which stand along `axis`; a weight of 0 adds 0 even to NaN."""

  def one(x: jax.Array) -> jax.Array:
    column = jnp.expand_dims(weights, [i for i in range(x.ndim) if i != axis])
    wide = at_least_float32(x)
    return (jnp.where(column == 0, 0, wide) * column).sum(axis).astype(x.dtype)

  return jax.tree.map(one, values)


def _pulled(
  site: GhostSite, cuts: Sequence[Leaf], a: Any, b: Any, constants: Any
) -> tuple[Leaf, ...]:
  """[*cut] of each cut: the sum over the examples, for cotangents [example, ...]."""

  def results(cuts: Sequence[Leaf]) -> Any:
    return jax.vmap(lambda x: site.run(cuts, x, constants))(a)

  return jax.vjp(results, tuple(cuts))[1](b)[0]


def _formed(
  site: GhostSite, cuts: Sequence[Leaf], a: Any, b: Any, constants: Any
) -> tuple[Leaf, ...]:
  """[task, *cut] of each cut: sums over the examples, one task after the other."""
  num_tasks = jax.tree.leaves(b)[0].shape[1]
  rows = [
    _pulled(site, cuts, a, jax.tree.map(lambda x, k=k: x[:, k], b), constants)
    for k in range(num_tasks)
  ]
  return tuple(jnp.stack(own) for own in zip(*rows, strict=True))


def _by_pairs(
  site: GhostSite,
  rule: rules.GhostRule,
  cuts: Sequence[Leaf],
  how: engine.GhostPlan,
  shape: tuple[int, ...],
) -> bool:
  """Whether a site gives products of pairs: a rule for them, no tied leaf, and a gain."""
  is_apart = all(cut.leaf not in how.added for cut in site.cuts)
  return is_apart and rule.pairs is not None and _pays(site, rule, cuts, shape)


def _pays(
  site: GhostSite, rule: rules.GhostRule, cuts: Sequence[Leaf], shape: tuple[int, ...]
) -> bool:
  """Whether pairs need fewer numbers and multiplications than the gradients of the tasks."""
  if not engine.is_float32(site, cuts):
    return False
  a, b = products.shapes_of_pairs(site, rule)
  (blocks, rows, width_out), (size, tasks) = b.shape, shape
  width_in = a.shape[2] if len(a.shape) == 3 else 1
  weight, terms = math.prod(cuts[0].shape), size * rows
  pairs = blocks * terms * (terms * (width_in + tasks * width_out) + tasks**2 * width_out)
  formed = tasks * (terms * blocks * width_in * width_out + tasks * weight)
  return blocks * terms**2 < tasks * weight and pairs < formed


def _from_pairs(rule: rules.GhostRule, a: Any, b: Any) -> jax.Array:
  """Products of the pairs, unless the terms of some task cancel: then of gradients, in slices."""
  pairs = rule.pairs
  assert pairs is not None
  factors = jax.vmap(lambda x, y: pairs(x, jax.tree.map(lambda z: z[0], y))[0])(a, b)
  slopes = jax.vmap(lambda x, y: jax.vmap(lambda z: pairs(x, z)[1])(y))(a, b)
  size, tasks, blocks, rows, width = slopes.shape
  if jnp.issubdtype(factors.dtype, jnp.integer):
    row = factors.reshape(-1)  # the first term that reads the same row of the table stands for it
    factors = jax.nn.one_hot(jnp.argmax(row[:, None] == row[None], axis=1), len(row))[None]
  else:
    factors = factors.swapaxes(0, 1).reshape(blocks, size * rows, -1)
  slopes = slopes.transpose(2, 1, 0, 3, 4).reshape(blocks, tasks, size * rows, width)
  scale, unit = _largest(factors, None), _largest(slopes, (0, 2, 3))
  factors, slopes = factors / scale, slopes / unit.reshape(1, -1, 1, 1)
  between = jnp.matmul(factors, factors.swapaxes(1, 2), precision=rules.HIGHEST)
  seen = jnp.einsum("cts,cksw->cktw", between, slopes, precision=rules.HIGHEST)
  found = jnp.einsum("cktw,cltw->kl", slopes, seen, precision=rules.HIGHEST)
  lengths = [jnp.sqrt(jnp.square(x).sum(-1)) for x in (factors[:, None], slopes)]
  terms = (lengths[0] * lengths[1]).sum(-1)  # [block, task]
  cancels = jnp.diagonal(found) < _CANCELLATION * jnp.square(terms).sum(0)
  found = jax.lax.cond(jnp.any(cancels), lambda: _in_slices(factors, slopes), lambda: found)
  return found * (unit[:, None] * scale) * (unit[None] * scale)


def _in_slices(factors: jax.Array, slopes: jax.Array) -> jax.Array:
  """[task, task] products of gradients of which a few rows are formed at a time.

  Args:
    factors: [block, term, in].
    slopes: [block, task, term, out].
  """
  blocks, terms, width = factors.shape
  spare = -width % _SLICE
  parts = jnp.pad(factors, ((0, 0), (0, 0), (0, spare))).reshape(blocks, terms, -1, _SLICE)

  def add(total: jax.Array, part: jax.Array) -> tuple[jax.Array, None]:
    g = jnp.einsum("cts,cktw->cksw", part, slopes, precision=rules.HIGHEST)
    return total + jnp.einsum("cksw,clsw->kl", g, g, precision=rules.HIGHEST), None

  start = jnp.zeros((slopes.shape[1],) * 2, slopes.dtype)
  return jax.lax.scan(add, start, jnp.moveaxis(parts, 2, 0))[0]


def _largest(x: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
  """Largest magnitude, 1 where all are 0."""
  found = jnp.abs(x).max(axes)
  return jnp.where(found == 0, 1.0, found)


def _finite(operands: Sequence[Leaf]) -> jax.Array:
  """[example] whether all its numbers are finite."""
  leaves = jax.tree.leaves(operands)
  each = [jnp.isfinite(x).reshape(len(x), -1).all(1) for x in leaves if _is_number(x)]
  return jnp.stack([jnp.ones(len(leaves[0]), bool), *each]).all(0)


def _is_number(x: jax.Array) -> bool:
  return jnp.issubdtype(x.dtype, jnp.inexact)


def _cleared(x: jax.Array, is_kept: jax.Array) -> jax.Array:
  """Zero where it is not kept: 0 times NaN would be NaN."""
  if not _is_number(x):
    return x
  return jnp.where(is_kept.reshape(*is_kept.shape, *[1] * (x.ndim - is_kept.ndim)), x, 0)
