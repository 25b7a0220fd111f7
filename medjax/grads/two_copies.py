"""A network of two copies of its parameters, one of which is chosen in every place.

  f(z phi + (1 - z) phi0)    z in {0, 1}, one number for each leaf of the parameters

is evaluated with the outputs of both copies wherever parameters and example meet in a product, a
convolution or anything else that is more than elementwise:

  y = z op(phi, x) + (1 - z) op(phi0, x)

Under vmap z differs by example and the copies do not, so that no convolution becomes a grouped one,
which takes more than ten times as long on a CPU. Elementwise operations (scales and biases) mix the
parameters instead, which is as exact and costs nothing.

Forward it is a choice: the copy that is not chosen may hold anything.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.grads.ghost.program import GhostSite, Literal, Operation, read, trace
from medjax.types import Array, Params, PyTree

# Operations that are linear in a parameter, element by element, and such that only move it.
_ELEMENTWISE = ("add", "sub", "mul")
_MOVES = ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "slice")


def chosen(
  fn: Callable[..., Any], params: Params, others: Params, choice: PyTree, *arguments: Any
) -> Any:
  """`fn(z params + (1 - z) others, *arguments)` of ONE example, for z in {0, 1}.

  Args:
    fn: a function of parameters and an example, such as a network or a loss.
    params, others: phi and phi0, trees of one structure.
    choice: z, a scalar for each of their leaves. An operation on several leaves runs on both copies
      if their scalars are one and the same array.
    arguments: what else `fn` takes, pytrees of arrays.
  Returns:
    What `fn` returns.
  Guarantees: for z in {0, 1} the value and the gradients in params, others and arguments are those
    of the parameters that z chooses. The gradient in z is that of the mix of the outputs.
  """

  def with_aux(params: Params, arguments: Any, key: Any) -> tuple[Array, Any]:
    del key
    return jnp.zeros(()), fn(params, *arguments)

  program = trace(with_aux, params, arguments, (), has_aux=True)
  new, old, z = (jax.tree.leaves(tree) for tree in (params, others, choice))
  mixed = [_mix(c, p, q) for c, p, q in zip(z, new, old, strict=True)]
  of_new, of_old, of_mixed = (program.constants(leaves) for leaves in (new, old, mixed))
  values = dict(zip(program.example_ids, jax.tree.leaves(arguments), strict=True))
  for position, operation in enumerate(program.operations):
    site = program.sites.get(position)
    own = None if site is None else _choice_of(operation, site, z)
    if own is None:  # nothing to choose here, or to be mixed
      results = operation.run(read(operation, {**of_mixed, **values}))
    else:
      pair = (operation.run(read(operation, {**held, **values})) for held in (of_new, of_old))
      results = [_mix(own, a, b) for a, b in zip(*pair, strict=True)]
    values.update(zip(operation.outputs, results, strict=True))
  values = {**of_mixed, **values}
  _, *aux = [r.value if isinstance(r, Literal) else values[r] for r in program.results]
  return jax.tree.unflatten(program.aux_tree, aux)


def _choice_of(operation: Operation, site: GhostSite, z: Sequence[Any]) -> Any:
  """The one scalar that decides an operation; None where parameters are to be mixed."""
  first, *rest = [z[cut.leaf] for cut in site.cuts]
  is_linear = operation.primitive.name in _ELEMENTWISE and all(
    step.primitive.name in _MOVES for step in site.tail
  )
  is_one = all(other is first for other in rest)
  return first if is_one and not is_linear else None


def _mix(z: Any, a: Any, b: Any) -> Any:
  """a or b, whatever the other is; the gradient in z is a - b where that is finite."""
  found = jnp.where(z > 0.5, a, b)
  if not jnp.issubdtype(found.dtype, jnp.inexact):
    return found
  difference = jax.lax.stop_gradient(jnp.where(jnp.isfinite(a - b), a - b, 0))
  move = jnp.asarray(z - jax.lax.stop_gradient(z), found.dtype)
  return found + move * difference
