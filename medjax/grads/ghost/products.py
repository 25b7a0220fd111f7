"""Inner products between the gradients of all examples of a batch, without the gradients.

  <G_i, G_j> = sum_{t,s} <a_it, a_js> <b_it, b_js>        for G_i = sum_t a_it (outer) b_it

Where a site is a matrix product or a lookup that is cheaper so, its gradients are not formed,
unless terms of an example cancel. The others are formed site by site, each gone before the next.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.grads.ghost import engine, lengths, rules
from medjax.grads.ghost.program import GhostSite, Program
from medjax.tree import at_least_float32
from medjax.types import Leaf

_CANCELLATION = 0.05
"""Of the size of its terms: a squared norm above it has lost at most two digits to rounding."""


def gramian(
  program: Program, how: engine.GhostPlan, leaves: Sequence[Leaf], examples: Sequence[Leaf]
) -> jax.Array:
  """[examples, examples] inner products, from one forward and one backward pass.

  Args:
    program: of the loss of one example.
    how: its plan.
    leaves: of the parameters.
    examples: leaves [examples, ...] of batch and keys.
  """
  constants, cuts = program.constants(leaves), program.cuts(leaves)
  _, pull_cuts = jax.vjp(lambda *x: program.cuts(x), *map(at_least_float32, leaves))
  seen, cotangents = engine.backward(program, constants, examples)
  sites = tuple(program.sites.values())
  size = examples[0].shape[0]
  total = jnp.zeros((size, size), jnp.float32)
  kept: list[tuple[Leaf, ...] | None] = []
  for site, rule, own, a, b in zip(sites, how.rules, cuts, seen.operands, cotangents, strict=True):
    is_added = [cut.leaf in how.added for cut in site.cuts]
    if not any(is_added) and rule.pairs is not None and _pays(site, rule, size, own):
      total = total + _from_pairs(rule, own, a, b)
      kept.append(None)
      continue
    found = _formed(rule, own, a, b)
    total = total + sum(of_rows(g) for g, later in zip(found, is_added, strict=True) if not later)
    kept.append(found if any(is_added) else None)
  added = engine.added_gradients(sites, kept, how.added, cuts, pull_cuts)
  return total + sum(map(of_rows, added.values()))


def of_rows(x: jax.Array) -> jax.Array:
  """[rows, rows] inner products of x[row]."""
  rows = lengths.flat(x)
  return jnp.matmul(rows, rows.T, precision=rules.HIGHEST)


def _formed(rule: rules.GhostRule, cuts: Sequence[Leaf], a: Any, b: Any) -> tuple[Leaf, ...]:
  return jax.vmap(lambda x, y: rule.gradient(cuts, x, y))(a, b)


def _pays(site: GhostSite, rule: rules.GhostRule, size: int, cuts: Sequence[Leaf]) -> bool:
  """Whether products of pairs need fewer numbers and multiplications than the gradients."""
  if not engine.is_float32(site, cuts):
    return False
  a, b = shapes_of_pairs(site, rule)
  blocks, rows, width_out = b.shape
  width_in = a.shape[2] if len(a.shape) == 3 else 1
  weight = math.prod(cuts[0].shape)
  pairs = blocks * (size * rows) ** 2
  return pairs < size * weight and pairs * (width_in + width_out) < size**2 * weight + (
    size * rows * blocks * width_in * width_out
  )


def shapes_of_pairs(site: GhostSite, rule: rules.GhostRule) -> tuple[Any, Any]:
  """What `rule.pairs` gives of one example."""
  avals = dict(zip(site.operation.inputs, site.operation.input_avals, strict=True))
  operands = [jax.ShapeDtypeStruct(avals[i].shape, avals[i].dtype) for i in site.examples]
  results = [site.operation.avals[i] for i in site.outputs]
  given = [jax.ShapeDtypeStruct(r.shape, r.dtype) for r in results]
  assert rule.pairs is not None
  return jax.eval_shape(rule.pairs, operands, given)


def _from_pairs(
  rule: rules.GhostRule, cuts: Sequence[Leaf], operands: Sequence[Leaf], cotangents: Sequence[Leaf]
) -> jax.Array:
  """Products of the pairs, unless some example's terms cancel: then of the gradients."""
  assert rule.pairs is not None
  unit = jnp.float32(1)
  for x in (*operands, *cotangents):
    if jnp.issubdtype(x.dtype, jnp.inexact):
      unit = unit * lengths.magnitude(lengths.flat(x))
  scaled = [tuple(map(engine.at_size_one, values)) for values in (operands, cotangents)]
  a, b = jax.vmap(rule.pairs)(*scaled)
  size, blocks, rows, _ = b.shape
  between_b = _between(b)
  if jnp.issubdtype(a.dtype, jnp.integer):
    own = a.reshape(-1)
    between_a = (own[:, None] == own[None]).astype(jnp.float32)[None]
    length_a = jnp.ones((size, blocks, rows), jnp.float32)
  else:
    between_a = _between(a)
    length_a = jnp.sqrt(jnp.square(a).sum(-1))
  terms = (between_a * between_b).reshape(blocks, size, rows, size, rows)
  products = terms.sum((0, 2, 4))
  scale = (length_a * jnp.sqrt(jnp.square(b).sum(-1))).sum(-1) ** 2
  cancels = jnp.diagonal(products) < _CANCELLATION * scale.sum(-1)
  pairs = products * unit[:, None] * unit[None]
  if rows == 1:  # one term: nothing cancels
    return pairs

  def formed() -> jax.Array:
    return of_rows(_formed(rule, cuts, operands, cotangents)[0])

  return jax.lax.cond(jnp.any(cancels), formed, lambda: pairs)


def _between(x: jax.Array) -> jax.Array:
  """[block, example and row, example and row] from [example, block, row, width]."""
  flat = x.swapaxes(0, 1).reshape(x.shape[1], -1, x.shape[3])
  return jnp.matmul(flat, flat.swapaxes(1, 2), precision=rules.HIGHEST)
