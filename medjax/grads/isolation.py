"""The loss of one example must not reach for another one, by whatever way.

What a batched program does to one example has to depend on that example alone. JAX's own primitives
keep examples apart under `vmap`. These do not have to, and are refused by everything that promises
a result for each example (`clipped_sum`, `per_sample`, `per_sample_dot`, `sketched`, `gramian`):

  batch axes       a collective over an axis that the loss of one example does not have

  callbacks        the host is given a whole batch at once, or sees one example after the other
  custom_vmap      its rule is given the batch and may do anything with it
  foreign calls    as callbacks, unless they take one example at a time
  collectives      over an axis around the loss, such as the devices of a `shard_map`
  other effects    what one example writes another one may read
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.extend import core

from medjax import check
from medjax.grads.ghost.derivatives import sub_jaxprs
from medjax.types import Key, Params, PyTree

_AXES = ("axes", "axis_name", "axis_names")
_HARMLESS = ("pvary", "pcast")  # says that a value may differ between devices, and moves nothing
_BY_HAND = ("custom_jvp_call", "custom_vjp_call", "call_hi_primitive")


def require_alone(
  loss_fn: Callable[..., Any], params: Params, batch: PyTree, keys: Key, *, has_aux: bool = False
) -> None:
  """Raises InputError for a loss of one example that could see others.

  Args:
    loss_fn: `loss_fn(params, example, key)`.
    params: arrays.
    batch, keys: arrays with the examples first.
    has_aux: whether the loss returns `(scalar, aux)`.
  """
  if keys.shape[0] == 0:
    return

  def first(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, batch, keys: function(
      params, jax.tree.map(lambda x: x[0], batch), keys[0]
    )

  loss = _traced(first(loss_fn), params, batch, keys)
  _check(loss.jaxpr, loss.jaxpr.effects)
  # A derivative by hand shows what it does only once it is taken, and a shard_map adds collectives.
  is_sharded = bool(jax.sharding.get_abstract_mesh().manual_axes)
  if is_sharded or any(eqn.primitive.name in _BY_HAND for eqn, _ in _equations(loss.jaxpr, ())):
    gradient = jax.make_jaxpr(first(jax.grad(loss_fn, has_aux=has_aux)))(params, batch, keys)
    _check(gradient.jaxpr, gradient.jaxpr.effects)


def _traced(loss: Callable[..., Any], *arguments: Any) -> core.ClosedJaxpr:
  try:
    return jax.make_jaxpr(loss)(*arguments)
  except NameError as error:
    if "axis name" not in str(error):
      raise
    raise check.InputError(
      "a loss of one example",
      f"one that mixes examples ({str(error).partition('. ')[0]})",
      "use GroupNorm or InstanceNorm and losses without batch coupling",
    ) from error


def _check(jaxpr: core.Jaxpr, effects: Any) -> None:
  for eqn, bound in _equations(jaxpr, ()):
    name, params = eqn.primitive.name, eqn.params
    if "callback" in name or name == "debug_print":
      _refuse(f"one that calls the host ({name})", "compute it beforehand and put it in the batch")
    if name == "custom_vmap_call":
      _refuse("one with a batching rule by hand (custom_vmap)", "write it with JAX's operations")
    if name == "ffi_call" and params.get("vmap_method") != "sequential":
      _refuse("one with a foreign call on whole batches", "use ffi_call(vmap_method='sequential')")
    outer = [axis for axis in named_axes(params) if axis not in bound]
    if outer and name not in _HARMLESS:
      _refuse(
        f"one that mixes examples ({name} over the axis {outer[0]!r} around it)",
        "use GroupNorm or InstanceNorm, and take losses and means over devices outside of it",
      )
  for effect in effects:
    if type(effect).__name__ != "NamedAxisEffect":
      _refuse(f"one with a side effect ({effect})", "return it as aux instead")


def _refuse(got: str, remedy: str) -> None:
  raise check.InputError("a loss that sees one example alone", got, remedy)


def _equations(jaxpr: core.Jaxpr, bound: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
  """Every equation at any depth, with the axes that are bound inside the loss."""
  for eqn in jaxpr.eqns:
    yield eqn, bound
    inside = bound
    if eqn.primitive.name == "shard_map":
      inside = (*bound, *eqn.params["mesh"].axis_names)
    for inner in sub_jaxprs(eqn.params):
      yield from _equations(inner, inside)


def named_axes(params: Mapping[str, Any]) -> list[str]:
  """The axes of an outer program that a primitive reaches over, behind which others may stand."""
  found = []
  for name in _AXES:
    value = params.get(name, ())
    axes = value if isinstance(value, tuple | list | set | frozenset) else (value,)
    found += [axis for axis in axes if isinstance(axis, str)]
  return found
