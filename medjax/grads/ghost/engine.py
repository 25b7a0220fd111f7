"""Per-example norms and weighted sums of one chunk of examples, from one backward pass.

taps at the sites  ->  losses, operands a, cotangents b; no weight gradient is formed on the way
rules              ->  |g_i| per leaf, <g_i, r>
weights w_i        ->  sum_i w_i g_i, from kept gradients or from the pairs (a_i, w_i b_i)

Norms, products and sums are float32 or wider whatever the type of the parameters: a sum of many
gradients that is rounded to bfloat16 moves by more than one of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.devices import on_this_device
from medjax.grads.ghost import convolution, lengths, looped, rules
from medjax.grads.ghost.program import GhostSite, Operation, Program
from medjax.tree import at_least_float32
from medjax.types import Leaf

_ROUNDING = 8 * float(jnp.finfo(jnp.float32).eps)
_CANCELLATION = 1e-3  # of the scale of its terms: above it a pair norm is exact to about 1e-5
_LOWEST_SQUARE = 2.0**-40  # of scaled pairs: above it nothing is lost to squares that underflow
_UNITS = (2.0**-100, 2.0**100)  # between them a scaled norm is multiplied back safely


class Chunk(NamedTuple):
  """What one backward pass over a chunk gave; arrays have the examples first.

  Attributes:
    losses: [chunk].
    aux: what the loss returned beside.
    norms: [chunk, leaf].
    dots: [chunk] inner products with the direction, None without one.
    weighted_sum: `weighted_sum(weights [chunk, leaf]) -> leaves`; an example whose norms are not
      all finite adds exactly 0.
  """

  losses: Leaf
  aux: Any
  norms: Leaf
  dots: Leaf
  weighted_sum: Callable[[jax.Array], list[jax.Array]]


class GhostPlan(NamedTuple):
  """What is done with every site and leaf; decided from shapes.

  Attributes:
    rules: one a site.
    added: leaves whose sites overlap: their gradients are added before they are measured.
    keeps_pair: of each site, whether it keeps operand and cotangent instead of gradients.
  """

  rules: tuple[rules.GhostRule, ...]
  added: frozenset[int]
  keeps_pair: tuple[bool, ...]


class _Found(NamedTuple):
  """What a site gave: gradients of its cuts, or of a pair the norm [chunk] alone; dots [chunk]."""

  norm: Leaf | None
  gradients: tuple[Leaf, ...] | None
  dots: Leaf
  weighted_sum: Callable[[list[jax.Array], jax.Array], tuple[Leaf, ...]]


def plan(program: Program, leaves: Sequence[Leaf]) -> GhostPlan:
  """Chooses the rules."""
  constants, cuts = program.constants(leaves), program.cuts(leaves)
  sites = program.sites.values()
  chosen = tuple(rules.choose(s, own, constants) for s, own in zip(sites, cuts, strict=True))
  added = frozenset(_overlapping(program))
  keeps = tuple(
    rule.pair_norm is not None and site.cuts[0].leaf not in added and is_float32(site, own)
    for rule, site, own in zip(chosen, sites, cuts, strict=True)
  )
  return GhostPlan(chosen, added, keeps)


def run(
  program: Program,
  how: GhostPlan,
  leaves: Sequence[Leaf],
  examples: Sequence[Leaf],
  direction: Sequence[Leaf] | None = None,
  *,
  in_loop: bool = False,
) -> Chunk:
  """One forward and one backward pass over a chunk.

  Args:
    program: program of the loss of one example.
    how: its plan.
    leaves: leaves of the parameters.
    examples: leaves [chunk, ...] of batch and keys.
    direction: leaves like the parameters.
    in_loop: whether this is the body of a loop, see `looped`.
  """
  constants, cuts = program.constants(leaves), program.cuts(leaves)
  # Cuts only move numbers, so that sums of gradients go back through them in a wider type.
  _, pull_cuts = jax.vjp(lambda *x: program.cuts(x), *map(at_least_float32, leaves))
  toward = None
  if direction is not None:
    toward = program.cuts(list(map(at_least_float32, direction)))

  seen, cotangents = backward(program, constants, examples, in_loop=in_loop)
  sites = tuple(program.sites.values())
  found = []
  for s, (site, rule) in enumerate(zip(sites, how.rules, strict=True)):
    measure = _form_gradients
    if how.keeps_pair[s]:
      measure = functools.partial(_keep_pair, in_loop=in_loop)
    aim = None if toward is None else toward[s]
    found.append(measure(site, rule, cuts[s], aim, seen.operands[s], cotangents[s], constants))

  parts: list[list[jax.Array]] = [[] for _ in leaves]
  formed: list[tuple[int, jax.Array]] = []  # (leaf, gradients whose lengths are to be taken)
  for site, part in zip(sites, found, strict=True):
    if part.norm is not None:
      parts[site.cuts[0].leaf].append(part.norm)
    for cut, gradient in zip(site.cuts, part.gradients or (), strict=False):
      if cut.leaf not in how.added:
        formed.append((cut.leaf, gradient))
  gradients = [part.gradients for part in found]
  formed += added_gradients(sites, gradients, how.added, cuts, pull_cuts).items()
  if formed:
    norms = lengths.of_each([gradient for _, gradient in formed])
    for (leaf, _), norm in zip(formed, norms, strict=True):
      parts[leaf].append(norm)
  nothing = jnp.zeros(examples[0].shape[0], jnp.float32)
  whole = [own[0] if len(own) == 1 else lengths.joint([nothing, *own]) for own in parts]
  table = jnp.stack(whole, axis=1)
  is_finite = jnp.isfinite(table).all(axis=1)

  def weighted_sum(weights: jax.Array) -> list[jax.Array]:
    weights = jnp.where(is_finite[:, None], at_least_float32(weights), 0.0)
    sums = tuple(
      part.weighted_sum([weights[:, cut.leaf] for cut in site.cuts], is_finite)
      for site, part in zip(sites, found, strict=True)
    )
    return list(pull_cuts(sums))

  dots = None
  if direction is not None:
    dots = sum((part.dots for part in found), start=jnp.zeros(examples[0].shape[0]))
  return Chunk(seen.loss, seen.aux, table, dots, weighted_sum)


def backward(
  program: Program,
  constants: Mapping[int, Leaf],
  examples: Sequence[Leaf],
  *,
  in_loop: bool = False,
) -> tuple[Any, Any]:
  """What a forward pass saw at the sites, and the cotangents of their results; examples first."""

  operate = looped.run if in_loop else Operation.run

  def one(*example: Any) -> tuple[Any, Any]:
    loss, pull, seen = jax.vjp(
      lambda taps: program.forward(constants, example, taps, operate), program.taps(), has_aux=True
    )
    return seen, pull(on_this_device(jnp.ones_like(loss)))[0]

  return jax.vmap(one)(*examples)


def of_gradients(
  losses: jax.Array, aux: Any, gradients: Sequence[Leaf], direction: Sequence[Leaf] | None
) -> Chunk:
  """The same from gradients [chunk, *leaf] that are all there."""
  norms = lengths.of_each(gradients).T
  is_finite = jnp.isfinite(norms).all(axis=1)
  dots = None if direction is None else sum(map(_dot, gradients, direction))

  def weighted_sum(weights: jax.Array) -> list[jax.Array]:
    return [_weighted(weights[:, n], is_finite, gradient) for n, gradient in enumerate(gradients)]

  return Chunk(losses, aux, norms, dots, weighted_sum)


def _form_gradients(
  site: GhostSite,
  rule: rules.GhostRule,
  cuts: Sequence[Leaf],
  toward: Sequence[Leaf] | None,
  operands: Sequence[Leaf],
  cotangents: Sequence[Leaf],
  constants: Mapping[int, Leaf],
) -> _Found:
  del site, constants
  found = jax.vmap(lambda x, b: rule.gradient(cuts, x, b))(operands, cotangents)

  def weighted_sum(weights: list[jax.Array], is_finite: jax.Array) -> tuple[Leaf, ...]:
    return tuple(_weighted(w, is_finite, g) for w, g in zip(weights, found, strict=True))

  dots = None if toward is None else sum(map(_dot, found, toward))
  return _Found(None, found, dots, weighted_sum)


def _keep_pair(
  site: GhostSite,
  rule: rules.GhostRule,
  cuts: Sequence[Leaf],
  toward: Sequence[Leaf] | None,
  operands: Sequence[Leaf],
  cotangents: Sequence[Leaf],
  constants: Mapping[int, Leaf],
  *,
  in_loop: bool,
) -> _Found:
  """<g_i, r> = <b_i, d op(a_i, .)[r]>: a tangent, for a lookup beyond its table is not linear."""
  assert rule.pair_norm is not None

  def results(cuts: Sequence[Leaf], operands: Sequence[Leaf]) -> tuple[Leaf, ...]:
    return jax.vmap(lambda x: site.run(cuts, x, constants))(operands)

  def weighted_sum(weights: list[jax.Array], is_finite: jax.Array) -> tuple[Leaf, ...]:
    seen = jax.tree.map(lambda x: _cleared(x, is_finite), operands)
    scaled = jax.tree.map(
      lambda b: _cleared(b, is_finite) * _column(weights[0], b).astype(b.dtype), cotangents
    )
    if in_loop and rule.name == "convolution":
      # XLA's own gradient of a kernel is slow in a loop, see `looped`.
      kernel = tuple(cuts[0].shape)
      return (convolution.summed_gradient(site.operation, kernel, seen[0], scaled[0]),)
    return jax.vjp(lambda c: results(c, seen), tuple(cuts))[1](scaled)[0]

  dots = None
  if toward is not None:
    _, tangents = jax.jvp(lambda c: results(c, operands), (tuple(cuts),), (tuple(toward),))
    dots = sum(map(_inner, cotangents, tangents))
  return _Found(_pair_norm(rule, cuts, operands, cotangents), None, dots, weighted_sum)


def _pair_norm(
  rule: rules.GhostRule, cuts: Sequence[Leaf], operands: Sequence[Leaf], cotangents: Sequence[Leaf]
) -> jax.Array:
  """[chunk] norms from pairs, except where they would be rounding: there from the gradients.

  Which of the two an example gets is decided by its own pair alone.
  """
  assert rule.pair_norm is not None
  # Operands and cotangents at their own size: a tiny one times a huge one is an ordinary gradient.
  unit, is_zero, scaled = jnp.float32(1), jnp.bool_(False), []
  for values in (operands, cotangents):
    scaled.append(tuple(map(at_size_one, values)))
    for x in values:
      if jnp.issubdtype(x.dtype, jnp.inexact):
        unit = unit * lengths.magnitude(lengths.flat(x))
        is_zero |= jnp.all(lengths.flat(x) == 0, axis=1)
  square, scale = jax.vmap(rule.pair_norm)(*scaled)
  norm = unit * jnp.sqrt(jnp.maximum(square, 0.0))
  is_lost = (square < _LOWEST_SQUARE) | (unit < _UNITS[0]) | (unit > _UNITS[1])
  is_rounding = (square < _CANCELLATION * scale) | (is_lost & ~is_zero)

  def formed() -> jax.Array:
    (found,) = jax.vmap(lambda x, b: rule.gradient(cuts, x, b))(operands, cotangents)
    # The sum from pairs is rounded too, by as much as the terms are large.
    exact = lengths.of_rows(found) + _ROUNDING * unit * jnp.sqrt(scale)
    return jnp.where(is_rounding, exact, norm)

  return jax.lax.cond(jnp.any(is_rounding), formed, lambda: norm)


def at_size_one(x: jax.Array) -> jax.Array:
  """Every example divided by its magnitude; indices as they are."""
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return x
  return lengths.divided(x, _column(lengths.magnitude(lengths.flat(x)), x))


def added_gradients(
  sites: Sequence[GhostSite],
  gradients: Sequence[tuple[Leaf, ...] | None],
  added: frozenset[int],
  cuts: Sequence[Leaf],
  pull_cuts: Callable[..., Any],
) -> dict[int, jax.Array]:
  """[chunk, *leaf] gradients of the leaves in `added`, from those of the sites' cuts."""
  if not added:
    return {}

  def of_leaves(gradients: Any) -> list[Leaf]:
    full = tuple(
      tuple(
        jnp.zeros_like(at_least_float32(value))
        if cut.leaf not in added or own is None
        else at_least_float32(own[c])
        for c, (cut, value) in enumerate(zip(site.cuts, values, strict=True))
      )
      for site, own, values in zip(sites, gradients, cuts, strict=True)
    )
    pulled = pull_cuts(full)
    return [pulled[leaf] for leaf in sorted(added)]

  totals = jax.vmap(of_leaves)(tuple(gradients))
  return dict(zip(sorted(added), totals, strict=True))


def is_float32(site: GhostSite, cuts: Sequence[Leaf]) -> bool:
  """A weighted pair in a narrower type would round above the bound."""
  avals = [*cuts, *site.operation.input_avals, *site.operation.avals]
  return all(a.dtype == jnp.float32 for a in avals if jnp.issubdtype(a.dtype, jnp.inexact))


def _overlapping(program: Program) -> set[int]:
  """Leaves that several cuts share an element of."""
  taken: dict[int, list[np.ndarray | None]] = {}
  for site in program.sites.values():
    for cut in site.cuts:
      taken.setdefault(cut.leaf, []).append(cut.places)
  shared = set()
  for leaf, places in taken.items():
    known = [p for p in places if p is not None]
    together = np.concatenate(known) if known else np.empty(0)
    is_apart = len(known) == len(places) and len(np.unique(together)) == len(together)
    if len(places) > 1 and not is_apart:
      shared.add(leaf)
  return shared


def _weighted(weight: jax.Array, is_finite: jax.Array, gradient: jax.Array) -> jax.Array:
  cleared = at_least_float32(_cleared(gradient, is_finite))
  weight = jnp.where(is_finite, weight, 0.0).astype(cleared.dtype)
  return jnp.tensordot(weight, cleared, 1, precision=rules.HIGHEST)


def _inner(x: jax.Array, y: jax.Array) -> jax.Array:
  """[example] inner products over all other axes."""
  return jnp.einsum("ei,ei->e", lengths.flat(x), lengths.flat(y), precision=rules.HIGHEST)


def _dot(gradients: jax.Array, direction: jax.Array) -> jax.Array:
  toward = at_least_float32(direction).ravel()
  return jnp.tensordot(lengths.flat(gradients), toward, 1, precision=rules.HIGHEST)


def _column(weight: jax.Array, like: jax.Array) -> jax.Array:
  return weight.reshape(-1, *(1,) * (like.ndim - 1))


def _cleared(x: jax.Array, is_finite: jax.Array) -> jax.Array:
  """Zero in the rows of the examples that are not finite: 0 times NaN would be NaN."""
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return x
  return jnp.where(_column(is_finite, x), x, jnp.zeros((), x.dtype))
