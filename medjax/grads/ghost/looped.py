"""Convolutions whose input gradients stay fast inside a loop on a CPU.

XLA:CPU has a fast convolution for kernels [*space, in, out] only. JAX writes the gradient with
respect to the image as a convolution with a kernel of swapped channels. Outside of loops XLA lays
the kernel out anew; inside a loop it does not, and computes the convolution 4 to 30 times slower.
Here the kernel is moved by an operation of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

from medjax.grads.ghost import convolution, derivatives
from medjax.grads.ghost.program import Literal, Operation, Program
from medjax.types import Leaf

_CONVOLUTION = "conv_general_dilated"


def is_fast(program: Program) -> bool:
  """Whether every convolution of the chunk program is one of those that stay fast in a loop."""
  touched = set(program.example_ids)
  for position, operation in enumerate(program.operations):
    touched.update(operation.outputs)
    if operation.primitive.name == _CONVOLUTION:
      kernel = operation.inputs[1]
      is_site = position in program.sites
      if not isinstance(kernel, Literal) and kernel in touched:
        return False
      if is_site and not (convolution.is_supported(operation) and program.sites[position].is_plain):
        return False
    elif any(_holds_convolution(jaxpr) for jaxpr in derivatives.sub_jaxprs(operation.params)):
      return False
  return True


def run(operation: Operation, inputs: Sequence[Leaf]) -> tuple[Leaf, ...]:
  """`operation.run`, whose derivative by the image of a convolution is fast in a loop."""
  if operation.primitive.name != _CONVOLUTION:
    return operation.run(inputs)

  @jax.custom_vjp
  def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
    return operation.run([image, kernel])[0]

  def forward(image: jax.Array, kernel: jax.Array) -> Any:
    return convolve(image, kernel), (image, kernel)

  def backward(saved: Any, cotangent: jax.Array) -> Any:
    image, kernel = saved

    def by_image(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
      _, pull = jax.vjp(lambda x: operation.run([x, kernel])[0], image)
      return pull(cotangent)[0]

    closed = jax.make_jaxpr(by_image)(cotangent, kernel)
    (own,) = _evaluated(closed.jaxpr, closed.consts, (cotangent, kernel))
    _, pull = jax.vjp(lambda k: operation.run([image, k])[0], kernel)
    return own, pull(cotangent)[0]

  convolve.defvjp(forward, backward)
  return (convolve(*inputs),)


def _evaluated(jaxpr: core.Jaxpr, consts: Sequence[Leaf], arguments: Sequence[Leaf]) -> list[Leaf]:
  """The jaxpr's results, its convolutions with kernels in XLA's own order."""
  values: dict[Any, Any] = dict(zip(jaxpr.invars, arguments, strict=True))
  values.update(zip(jaxpr.constvars, consts, strict=True))

  def read(atom: Any) -> Any:
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  for eqn in jaxpr.eqns:
    inputs = [read(atom) for atom in eqn.invars]
    if eqn.primitive.name == _CONVOLUTION:
      out: Any = [_in_order(eqn.primitive, eqn.params, *inputs)]
    else:
      found = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
      out = found if eqn.primitive.multiple_results else [found]
    values.update(zip(eqn.outvars, out, strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _in_order(
  primitive: core.Primitive, params: Mapping[str, Any], image: jax.Array, kernel: jax.Array
) -> jax.Array:
  """A convolution after its kernel was moved to [*space, in, out]."""
  numbers = params["dimension_numbers"]
  out, channels_in, *space = numbers.rhs_spec
  moved = jax.lax.transpose(kernel, (*space, channels_in, out))
  moved = jax.lax.optimization_barrier(moved)
  dims = len(space)
  ordered = numbers._replace(rhs_spec=(dims + 1, dims, *range(dims)))
  return primitive.bind(image, moved, **{**params, "dimension_numbers": ordered})


def _holds_convolution(jaxpr: core.Jaxpr) -> bool:
  return any(
    eqn.primitive.name == _CONVOLUTION
    or any(_holds_convolution(inner) for inner in derivatives.sub_jaxprs(eqn.params))
    for eqn in jaxpr.eqns
  )
