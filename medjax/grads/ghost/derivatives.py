"""Which operations have a derivative that JAX itself wrote, and so one that is linear.

The gradient of one example is a sum over the sites where parameters and example meet. It may be
pulled back to the parameters site by site only through derivatives that are linear in the
cotangent. Those of JAX's own primitives are. A function with a derivative by hand (`custom_vjp`,
`linear_call`, a new kind of primitive) may clip, take a sign or do anything else to the cotangent.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend import core
from jax.extend.core import primitives

_BY_HAND = ("custom_vjp_call", "custom_lin")
_PUBLISHED = frozenset(
  p for p in vars(primitives).values() if isinstance(p, core.Primitive) and p.name not in _BY_HAND
)
# JAX's own that jax.extend does not list.
_UNLISTED = frozenset(
  ("split", "stack", "unstack", "tile", "scatter-sub", "optimization_barrier", "pvary", "mulhi")
  + ("random_wrap", "random_unwrap", "ragged_dot_general")
)


def may_be_anything(primitive: core.Primitive, params: Mapping[str, Any]) -> bool:
  """Whether an operation has, or holds at any depth, a derivative that may not be linear.

  What is unknown may be anything. A `custom_jvp` is linear: JAX transposes its rule.
  """
  if primitive not in _PUBLISHED and primitive.name not in _UNLISTED:
    return True
  return any(
    may_be_anything(eqn.primitive, eqn.params) for jaxpr in sub_jaxprs(params) for eqn in jaxpr.eqns
  )


def sub_jaxprs(params: Mapping[str, Any]) -> Iterator[core.Jaxpr]:
  """The jaxprs among the parameters of a primitive, without their constants."""
  for value in params.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one
