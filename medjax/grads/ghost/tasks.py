"""Inner products between the gradients of several tasks, each a mean over the batch.

  <G_k, G_l> = sum_{t,s} <a_t, a_s> <b_kt, b_ls>       for G_k = sum_t a_t (outer) b_kt

where t runs over the examples and over the rows of each. All tasks read the same operands a: one
forward pass serves them, and the cotangents b come from one backward pass a task. Where a site is a
matrix product or a lookup that is cheaper so, the gradients of the tasks are never formed; at the
others they are formed one site after the other.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.grads.ghost import engine, products, rules
from medjax.grads.ghost.program import GhostSite, Program
from medjax.tree import at_least_float32

_CANCELLATION = 2e-3
"""Of the size of its terms: a squared norm above it has lost less than three digits to rounding."""
_SLICE = 16
"""Rows of a matrix of parameters whose gradients are formed at a time."""


def gramian(
  program: Program,
  how: engine.GhostPlan,
  leaves: Sequence[Any],
  examples: Sequence[Any],
  share: jax.Array,
) -> tuple[jax.Array, Any]:
  """[tasks, tasks] inner products, and what the loss returned beside, [examples, ...].

  Args:
    program: of a loss of one example that is the product of its last leaf but one, numbers of the
      tasks, with the losses of all tasks.
    how: its plan.
    leaves: of the parameters.
    examples: leaves [examples, ...] of batch and keys, without those numbers.
    share: [examples, tasks] part of each example in the mean of each task, 0 or more.
  """
  constants, cuts = program.constants(leaves), program.cuts(leaves)
  _, pull_cuts = jax.vjp(lambda *x: program.cuts(x), *map(at_least_float32, leaves))
  operands, aux, cotangents = _backward(program, constants, examples, share)
  sites, num_tasks = tuple(program.sites.values()), share.shape[1]
  total = jnp.zeros((num_tasks, num_tasks), jnp.float32)
  is_spoiled, kept = jnp.zeros(num_tasks, bool), []
  for site, rule, own, a, b in zip(sites, how.rules, cuts, operands, cotangents, strict=True):
    # An example that is not finite spoils the tasks that it takes part in, and no other.
    is_whole = _finite(a)
    is_spoiled |= (~is_whole[:, None] & (share > 0)).any(0)
    a = jax.tree.map(lambda x, whole=is_whole: _cleared(x, whole), a)
    b = jax.tree.map(lambda x: _cleared(x, share > 0), b)
    is_added = [cut.leaf in how.added for cut in site.cuts]
    if not any(is_added) and rule.pairs is not None and _pays(site, rule, own, share.shape):
      total = total + _from_pairs(rule, a, b)
      kept.append(None)
      continue
    found = _formed(site, own, a, b, constants)
    total = total + sum(
      products.of_rows(g) for g, later in zip(found, is_added, strict=True) if not later
    )
    kept.append(found if any(is_added) else None)
  added = engine.added_gradients(sites, kept, how.added, cuts, pull_cuts)
  total = total + sum(map(products.of_rows, added.values()))
  return jnp.where(is_spoiled[:, None] | is_spoiled[None], jnp.nan, total), aux


def _backward(
  program: Program, constants: Any, examples: Sequence[Any], share: jax.Array
) -> tuple[Any, Any, Any]:
  """Operands [example, ...], aux [example, ...], cotangents [example, task, ...]."""

  def one(*example: Any) -> tuple[Any, Any, Any]:
    *batch, key, own = example

    def of_task(numbers: jax.Array) -> tuple[Any, Any, Any]:
      loss, pull, seen = jax.vjp(
        lambda taps: program.forward(constants, (*batch, numbers, key), taps),
        program.taps(),
        has_aux=True,
      )
      return seen.operands, seen.aux, pull(jnp.ones_like(loss))[0]

    # The numbers of the tasks enter behind all sites: what comes before is the same for all tasks,
    # so that `vmap` computes it once.
    return jax.vmap(of_task, out_axes=(None, None, 0))(jnp.diag(own))

  return jax.vmap(one)(*examples, share)


def _formed(
  site: GhostSite, cuts: Sequence[Any], a: Any, b: Any, constants: Any
) -> tuple[Any, ...]:
  """[task, *cut] of each cut: sums over the examples, one task after the other."""

  def results(cuts: Sequence[Any]) -> Any:
    return jax.vmap(lambda x: site.run(cuts, x, constants))(a)

  _, pull = jax.vjp(results, tuple(cuts))
  num_tasks = jax.tree.leaves(b)[0].shape[1]
  rows = [pull(jax.tree.map(lambda x, k=k: x[:, k], b))[0] for k in range(num_tasks)]
  return tuple(jnp.stack(own) for own in zip(*rows, strict=True))


def _pays(
  site: GhostSite, rule: rules.GhostRule, cuts: Sequence[Any], shape: tuple[int, ...]
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


def _finite(operands: Any) -> jax.Array:
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
