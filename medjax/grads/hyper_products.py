"""Second derivatives of the inner loss along a direction, and linear systems of them.

H w and M w, with H = d^2 L / d phi^2 and M = d^2 L / d theta d phi, are one directional derivative:
that of (grad_phi L, grad_theta L) along w in phi.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from medjax.types import Params, PyTree

Loss = Callable[[Params, PyTree], tuple[jax.Array, Any]]
"""(params, theta) -> mean inner loss of one step's batch, and what the loss returns beside it."""
Product = Callable[[Params], tuple[Params, PyTree]]
"""w -> (H w, M w)."""


def exact_product(loss: Loss, theta: PyTree, params: Params) -> Product:
  """Forward over reverse: about two gradients."""

  def product(w: Params) -> tuple[Params, PyTree]:
    point, shaped = _after((params, theta), w)
    both = gradients(loss, shaped)
    return jax.jvp(lambda phi: both(phi)[0], (point,), (w,))[1]

  return product


def _after(values: PyTree, w: Params) -> PyTree:
  """Floating-point values, as ones that cannot be computed before w.

  The activations of a step are computed anew from them. Without this XLA would do so for all steps
  at once, before the way back begins, and hold all of it. An optimization barrier does not help:
  XLA takes it out before it orders the operations. So the values are made to depend on w, by
  adding a number that is always 0, which XLA does not know: no cosine is above 2.
  """
  first = [jnp.ravel(x)[:1].astype(jnp.float32).sum() for x in jax.tree.leaves(w)]
  zero = jnp.cos(jnp.stack(first).sum()) > 2
  return jax.tree.map(lambda x: x + zero.astype(jnp.result_type(x)), values)


def difference_product(loss: Loss, theta: PyTree, params: Params, *, is_central: bool) -> Product:
  """Two gradients a difference eps |w| = 0.01 apart on either side (DARTS, Eq. 8), or on one."""

  def product(w: Params) -> tuple[Params, PyTree]:
    norm = optax.tree.norm(w)
    eps = jnp.where(norm > 0, 0.01 / jnp.where(norm > 0, norm, 1.0), 0.0)

    def at(sign: float) -> tuple[Params, PyTree]:
      moved = jax.tree.map(lambda p, x: (p + sign * eps * x).astype(p.dtype), params, w)
      return gradients(loss, theta)(moved)[0]

    apart = 2 * eps if is_central else eps
    scale = jnp.where(apart > 0, 1 / jnp.where(apart > 0, apart, 1.0), 0.0)
    high, low = at(1.0), at(-1.0 if is_central else 0.0)
    return jax.tree.map(lambda x, y: ((x - y) * scale).astype(x.dtype), high, low)

  return product


def solved(
  product: Product, v: Params, *, solver: str, iterations: int, rate: float
) -> tuple[Params, jax.Array]:
  """q with H q = v, and |H q - v| / |v| as the iteration knows it.

  "cg": conjugate gradients, for a positive definite H. "neumann": q = rate sum_j (1 - rate H)^j v,
  which converges where 0 < rate H < 2.
  """
  norm = optax.tree.norm(v)

  def relative(x: Params) -> jax.Array:
    return jnp.where(norm > 0, optax.tree.norm(x) / jnp.where(norm > 0, norm, 1.0), 0.0)

  q = jax.tree.map(jnp.zeros_like, v)
  if solver == "neumann":
    term = v
    for _ in range(iterations):
      q = optax.tree.add_scale(q, rate, term)
      term = optax.tree.add_scale(term, -rate, product(term)[0])
    return q, relative(term)
  rest = direction = v
  size = jnp.asarray(optax.tree.vdot(rest, rest))
  for _ in range(iterations):
    turned = product(direction)[0]
    curvature = optax.tree.vdot(direction, turned)
    # 0 / 0 once the rest is exactly zero.
    length = jnp.where(curvature != 0, size / jnp.where(curvature != 0, curvature, 1.0), 0.0)
    q = optax.tree.add_scale(q, length, direction)
    rest = optax.tree.add_scale(rest, -length, turned)
    new = jnp.asarray(optax.tree.vdot(rest, rest))
    ratio = jnp.where(size > 0, new / jnp.where(size > 0, size, 1.0), 0.0)
    direction, size = optax.tree.add_scale(rest, ratio, direction), new
  return q, relative(rest)


def gradients(loss: Loss, theta: PyTree) -> Callable[[Params], Any]:
  """phi -> ((grad_phi, grad_theta), what the loss returned)."""

  def both(phi: Params) -> Any:
    value, found = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(phi, theta)
    return found, value

  return both
