"""Running a function of one client for all clients of a block."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from medjax import check
from medjax.types import PyTree

Across = Literal["auto", "unroll", "vmap", "map"]


def over_clients(one: Callable[..., Any], args: tuple[PyTree, ...], across: Across) -> Any:
  """`one` of every client; leaves of `args` and of the result are [clients, ...].

  Measured on two CPU cores, eight clients, in units of one model on the union of their batches: an
  unrolled convolutional network 0.9, vmapped 1.9, in a loop of the device 8.5; an unrolled
  perceptron 2.3, vmapped 9.6.
  """
  check.one_of("across", across, ("auto", "unroll", "vmap", "map"))
  args = jax.tree.map(jnp.asarray, args)
  if across == "auto":
    across = "unroll" if jax.default_backend() == "cpu" and not _on_mesh(args) else "vmap"
  if across == "vmap":
    return jax.vmap(one)(*args)
  if across == "map":
    return jax.lax.map(lambda each: one(*each), args)
  clients = jax.tree.leaves(args)[0].shape[0]
  found = [one(*jax.tree.map(lambda x, i=i: x[i], args)) for i in range(clients)]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)


def _on_mesh(args: PyTree) -> bool:
  """True if the arrays lie on several devices; under jit their types hold the mesh."""
  shardings = [getattr(jax.typeof(leaf), "sharding", None) for leaf in jax.tree.leaves(args)]
  return any(s is not None and s.mesh.size > 1 for s in shardings)
