"""Sums of clipped per-example gradients: the one place where private training touches an example.

  sum_i  w_i  a_i  c_i  g_i,     c_i = min(1, max_norm / |g_i|)                (Abadi et al. 2016)
                                 c_i = max_norm / (|g_i| + 0.01)  "automatic"  (Bu et al. 2023)

with weights w_i from the batch and a_i = weight_fn(|g_i|, <g_i, direction>) in [0, 1].
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, rng, tree
from medjax.devices import on_this_device, platform_of
from medjax.grads import contract, isolation
from medjax.grads.ghost import engine, lengths, looped, program
from medjax.tree import entry
from medjax.types import Key, Params, PyTree

Clip = Literal["global", "per_leaf", "automatic"] | Callable[[str], str]
_AUTOMATIC_FLOOR = 0.01  # gamma of automatic clipping
_LOWEST_BOUND = float(np.finfo(np.float32).tiny)


class ClippedSum(NamedTuple):
  """Result of `clipped_sum`; arrays have the examples first.

  Attributes:
    grads: the weighted sum, a tree like the parameters, float32 or wider whatever their type.
    norms: [batch] L2 norms of the whole, unclipped gradients; inf or NaN where one is not finite.
    dots: [batch] <g_i, direction>; zeros without a direction.
    losses: [batch].
    aux: what the loss returned beside, leaves [batch, ...]; () without `has_aux`.
  """

  grads: Any
  norms: Any
  dots: Any
  losses: Any
  aux: Any


def clipped_sum(
  loss_fn: Callable[..., Any],
  max_norm: float | jax.Array | np.ndarray | Mapping[str, float],
  *,
  method: Literal["auto", "ghost", "vmap"] = "auto",
  clip: Clip = "global",
  chunk: int | None = None,
  has_aux: bool = False,
) -> Callable[..., ClippedSum]:
  """Sum of clipped gradients of a loss of one example, exact, at little more than a plain gradient.

  >>> def loss(params, example, key):
  ...   return (params * example).sum()  # its gradient is the example
  >>> batch = jnp.array([[3.0, 4.0], [0.3, 0.4]])
  >>> out = clipped_sum(loss, 1.0)(jnp.zeros(2), batch, jax.random.key(0))
  >>> [round(float(x), 4) for x in (*out.norms, *out.grads)]
  [5.0, 0.5, 0.9, 1.2]

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar`, with `has_aux` `(scalar, aux)`.
    max_norm: bound C on the L2 norm of what one example adds, at least 1.2e-38 (the smallest
      normal number of float32), jnp.inf for none; for groups a bound for each group by name. It is
      copied: a later change of an array or a mapping changes nothing.
    method: "ghost" reads the loss operation by operation (see `grads.explain`), "vmap" forms all
      gradients; both are exact. "auto" is ghost, and vmap for one example at a time, where there
      is nothing to gain.
    clip: "global": the whole gradient to C. "per_leaf": every leaf to C, so that an example adds at
      most C * sqrt(leaves). "automatic": scaled to just below C. A function leaf path -> group
      name: every group to its own bound, in all at most the root of the sum of their squares.
    chunk: examples worked on together, None for all: less memory, the same sum to rounding. The
      batch is padded to whole chunks by examples of weight 0.
    has_aux: see `loss_fn`.
  Returns:
    `(params, batch, key, *, weights=None, direction=None, weight_fn=None) -> ClippedSum`.
    `weights` [batch] multiply the clipped gradients and default to batch.weight, else 1; the
    sensitivity is that of `clip` times the largest weight. `direction` is a tree like the
    parameters. `weight_fn(norm, dot)` of one example gives a factor, cut to [0, 1], NaN to 0. Keys
    are those of `rng.example_keys`.
  Raises:
    InputError: a max_norm that is not positive, a loss that mixes examples or could do so (see
      `isolation`), an unknown option.
  Guarantees: an example whose gradient is not finite, whose norm is beyond float32 or above 8e37
    times the bound, or whose weight is 0 or no finite number, adds exactly 0. The factor of an
    example depends on it alone. The bound holds for parameters, examples and indices of any type
    and for gradients of any size, to the rounding of float32 sums. Order, chunk and number of
    devices change the sum by rounding only.
  """
  check.one_of("method", method, ("auto", "ghost", "vmap"))
  if not callable(clip):
    check.one_of("clip", clip, ("global", "per_leaf", "automatic"))
  if chunk is not None:
    check.positive("chunk", chunk)
  max_norm = _copied(max_norm)
  if clip == "automatic":
    is_finite = isinstance(max_norm, jax.core.Tracer) or np.isfinite(np.asarray(max_norm))
    check.require(is_finite, "a finite max_norm for clip='automatic'", f"{max_norm}", "pass one")

  def is_vmapped(num: int) -> bool:
    return method == "vmap" or method == "auto" and num == 1

  @functools.partial(jax.jit, static_argnames=("weight_fn", "in_loop"))
  def run(
    params: Params,
    batch: PyTree,
    keys: Key,
    weights: jax.Array,
    direction: Any,
    weight_fn: Any,
    in_loop: bool,
  ) -> ClippedSum:
    isolation.require_alone(loss_fn, params, batch, keys, has_aux=has_aux)
    if is_vmapped(keys.shape[0]):
      found = _vmapped(loss_fn, params, batch, keys, direction, has_aux)
    else:
      found = _ghost(loss_fn, params, batch, keys, direction, has_aux, in_loop)
    norms = lengths.joint(found.norms, axis=1)
    dots = jnp.zeros_like(norms) if found.dots is None else found.dots
    weights = jnp.where(jnp.isfinite(weights), weights, 0.0)
    if weight_fn is not None:
      factor = jax.vmap(weight_fn)(norms, dots)
      weights = weights * jnp.where(jnp.isnan(factor), 0.0, jnp.clip(factor, 0.0, 1.0))
    factors = _factors(found.norms, *_groups(params, max_norm, clip), clip == "automatic")
    sums = found.weighted_sum(factors * weights[:, None])
    grads = jax.tree.unflatten(jax.tree.structure(params), sums)
    return ClippedSum(grads, norms, dots, found.losses, found.aux)

  def clipped(
    params: Params,
    batch: PyTree,
    key: Key,
    *,
    weights: jax.Array | None = None,
    direction: PyTree | None = None,
    weight_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
  ) -> ClippedSum:
    params, keys = on_this_device(params), rng.example_keys(key, batch)
    size = keys.shape[0]
    for leaf in jax.tree.leaves(params):
      is_real = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
      check.require(
        is_real, "real floating-point parameters", f"{jnp.result_type(leaf)}", "keep others apart"
      )
    if weights is None:
      weights = entry(batch, "weight")
    weights = jnp.ones(size) if weights is None else jnp.asarray(weights, jnp.float32)
    check.same_shape("weights", weights.shape, "examples", (size,))

    def work(
      params: Params, batch: PyTree, keys: Key, weights: jax.Array, direction: Any
    ) -> ClippedSum:
      if chunk is None or chunk >= size:
        return run(params, batch, keys, weights, direction, weight_fn, False)
      is_unrolled = platform_of(batch) == "cpu" and (
        is_vmapped(chunk) or not _is_fast_in_loops(loss_fn, params, batch, keys, has_aux)
      )
      arguments = batch, keys, weights, direction, weight_fn
      part = functools.partial(run, params)
      return _in_chunks(part, chunk, *arguments, is_unrolled=is_unrolled)

    groups, bounds = _groups(params, max_norm, clip)
    arguments = (params, batch, keys, weights, direction)
    return contract.of(work, arguments, groups=groups, bounds=bounds, has_aux=has_aux)

  return clipped


def _ghost(
  loss_fn: Callable[..., Any],
  params: Params,
  batch: PyTree,
  keys: Key,
  direction: PyTree | None,
  has_aux: bool,
  in_loop: bool,
) -> engine.Chunk:
  traced = _traced(loss_fn, params, batch, keys, has_aux)
  if not traced.is_example_dependent or traced.has_own_gradients:
    return _vmapped(loss_fn, params, batch, keys, direction, has_aux)
  leaves = jax.tree.leaves(params)
  toward = None if direction is None else jax.tree.leaves(direction)
  how = engine.plan(traced, leaves)
  examples = [*jax.tree.leaves(batch), keys]
  return engine.run(traced, how, leaves, examples, toward, in_loop=in_loop)


def _traced(
  loss_fn: Callable[..., Any], params: Params, batch: PyTree, keys: Key, has_aux: bool
) -> program.Program:
  example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
  one_key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
  return program.trace(loss_fn, params, example, one_key, has_aux=has_aux)


def _is_fast_in_loops(
  loss_fn: Callable[..., Any], params: Params, batch: PyTree, keys: Key, has_aux: bool
) -> bool:
  isolation.require_alone(loss_fn, params, batch, keys, has_aux=has_aux)
  traced = _traced(loss_fn, params, batch, keys, has_aux)
  has_gradients = traced.is_example_dependent and not traced.has_own_gradients
  return has_gradients and looped.is_fast(traced)


def _vmapped(
  loss_fn: Callable[..., Any],
  params: Params,
  batch: PyTree,
  keys: Key,
  direction: PyTree | None,
  has_aux: bool,
) -> engine.Chunk:
  def one(example: PyTree, key: Key) -> Any:
    out, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, example, key)
    return (*(out if has_aux else (out, ())), jax.tree.leaves(grads))

  losses, aux, grads = jax.vmap(one)(batch, keys)
  toward = None if direction is None else jax.tree.leaves(direction)
  return engine.of_gradients(losses, aux, grads, toward)


def _copied(max_norm: Any) -> Any:
  """Bounds as Python numbers, so that nobody changes them later; those of a trace as they are."""
  if isinstance(max_norm, Mapping):
    return {name: _copied(bound) for name, bound in max_norm.items()}
  if isinstance(max_norm, jax.core.Tracer):
    return max_norm
  check.same_shape("max_norm", np.shape(max_norm), "one number", ())
  bound = float(np.asarray(max_norm, np.float64))
  check.positive("max_norm", bound, "use jnp.inf for no clipping")
  check.require(
    bound >= _LOWEST_BOUND,
    f"max_norm >= {_LOWEST_BOUND:.3g}, the smallest normal number of float32",
    f"max_norm={bound!r}",
    "smaller ones are 0 on most devices: scale the loss and max_norm up",
  )
  return bound


def _factors(
  norms: jax.Array, groups: list[int], bounds: list[Any], is_automatic: bool
) -> jax.Array:
  """[example, leaf] clipping factors from [example, leaf] norms."""
  is_member = jnp.asarray(groups)[None] == jnp.arange(len(bounds))[:, None]  # [group, leaf]
  length = lengths.joint(jnp.where(is_member[None], norms[:, None], 0.0))  # [example, group]
  bound = jnp.stack([jnp.asarray(b, length.dtype) for b in bounds])[None]
  if is_automatic:
    factor = bound / (length + _AUTOMATIC_FLOOR)
  else:
    factor = _shrink(length, bound)
  # Below the normal numbers a factor has few digits, and a bound of an adaptive rule may be 0.
  is_sound = (factor >= _LOWEST_BOUND) & (bound >= _LOWEST_BOUND)
  return jnp.where(is_sound, factor, 0.0)[:, jnp.asarray(groups)]


def _groups(params: Params, max_norm: Any, clip: Clip) -> tuple[list[int], list[Any]]:
  """The group of every leaf, and the bound of every group."""
  paths = list(tree.named_leaves(params))
  if not callable(clip):
    check.require(
      not isinstance(max_norm, Mapping),
      "one max_norm",
      f"{max_norm}",
      "pass clip=leaf path -> group",
    )
    is_single = clip == "per_leaf"
    groups = list(range(len(paths))) if is_single else [0] * len(paths)
    return groups, [max_norm] * (max(groups) + 1)
  names = [clip(path) for path in paths]
  check.require(
    isinstance(max_norm, Mapping) and set(names) <= set(max_norm),
    f"max_norm as a mapping with {sorted(set(names))}",
    f"{max_norm}",
    "give each group a bound",
  )
  order = list(dict.fromkeys(names))
  return [order.index(name) for name in names], [max_norm[name] for name in order]


def _shrink(norm: jax.Array, bound: Any) -> jax.Array:
  """min(1, bound / norm), 1 at norm 0; a norm that is no number lets nothing through."""
  is_above = norm > bound
  shrunk = jnp.where(is_above, bound / jnp.where(is_above, norm, 1.0), 0.0)
  return jnp.where(norm <= bound, 1.0, shrunk)


def _in_chunks(
  work: Callable[..., ClippedSum],
  chunk: int,
  batch: PyTree,
  keys: Key,
  weights: jax.Array,
  direction: PyTree | None,
  weight_fn: Any,
  *,
  is_unrolled: bool,
) -> ClippedSum:
  """Sums over chunks; chunk i holds the examples i, i + n, i + 2n, ... of n chunks.

  Taken so, every chunk of a batch that is sharded over devices is spread over all of them. A loop
  compiles one chunk only. Unrolled are losses with convolutions that XLA:CPU computes slowly in
  loops, see `looped`.
  """
  size = keys.shape[0]
  count = -(-size // chunk)
  spare = count * chunk - size

  def padded(x: jax.Array) -> jax.Array:
    return jnp.concatenate([x, jnp.broadcast_to(x[:1], (spare, *x.shape[1:]))]) if spare else x

  batch, keys = jax.tree.map(padded, (batch, keys))
  weights = jnp.pad(weights, (0, spare))
  split = jax.tree.map(
    lambda x: x.reshape(chunk, count, *x.shape[1:]).swapaxes(0, 1), (batch, keys, weights)
  )

  def one(total: Any, part: Any) -> tuple[Any, Any]:
    out = work(*part, direction, weight_fn, not is_unrolled)
    return jax.tree.map(jnp.add, total, out.grads), out._replace(grads=())

  if is_unrolled:
    total, parts = None, []
    for i in range(count):
      part = jax.tree.map(operator.itemgetter(i), split)
      if total is None:
        out = work(*part, direction, weight_fn, not is_unrolled)
        total, rest = out.grads, out._replace(grads=())
      else:
        total, rest = one(total, after(total, part))
      parts.append(rest)
    rest = jax.tree.map(lambda *x: jnp.stack(x), *parts)
  else:
    shapes = jax.eval_shape(
      lambda: work(*jax.tree.map(lambda x: x[0], split), direction, weight_fn, True)
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.grads)
    total, rest = jax.lax.scan(one, zeros, split)
  rest = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(chunk * count, *x.shape[2:])[:size], rest)
  return rest._replace(grads=total)


def after(total: PyTree, part: PyTree) -> PyTree:
  """`part`, but not before `total` is there: else XLA would hold all chunks in memory at once."""
  leaves = [x for x in jax.tree.leaves(total) if x.size]
  probe = sum((x.ravel()[0].astype(jnp.float32) for x in leaves), start=jnp.float32(0))

  def wait(x: jax.Array) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return x
    return jnp.where(jnp.isfinite(probe), x, jnp.zeros((), x.dtype))

  return jax.tree.map(wait, part)
