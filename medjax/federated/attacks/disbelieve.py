"""DISBELIEVE: up the loss, but no further than honest clients lie apart (Joshi et al., DeCaF 2023).

All f wrong clients are in one hand and send one vector. In parameters (algorithm 1):

  mu = mean_i W_i,  P = max_ij |W_i - W_j|^2;  from mu, ascend the loss while |W - mu|^2 <= P

In gradients (algorithm 2): with g the gradient of the loss at such a model M,

  G = min_ij |G_i - G_j|^2;  send s g / |g| with the largest s so that |s g / |g| - mu_g|^2 <= G

Updates stand for both here: a client's parameters are theta plus its update, and a client that
makes one step of descent sends minus its gradient times the rate.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from medjax import check, grads
from medjax.federated import rows as matrix
from medjax.federated.attacks.attack import Attack, View, honest_mean
from medjax.types import Batch, Key, LossFn, Params


def disbelieve_parameters(
  f: int,
  loss_fn: LossFn,
  data: Batch,
  *,
  num_steps: int = 20,
  batch_size: int | None = None,
  radius: float | int = 1.0,
) -> Attack:
  """Algorithm 1, on what clients trained.

  DEVIATION: the paper trains by descent on minus the loss with a rate it does not give, "until" the
  distance is small, which can only mean "while". Here every step goes 2 sqrt(P) / num_steps up the
  gradient and is drawn back into the ball around mu, so that the attack spends its whole bound
  whatever the rate would have been.

  Args:
    f: number of wrong clients.
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example, the clients' own.
    data: the wrong clients' pooled examples.
    num_steps: of the ascent.
    batch_size: examples a step, drawn anew; None: all.
    radius: share of sqrt(P) that it may use; 1 is the paper.
  """
  check.positive("num_steps", num_steps)
  check.positive("radius", radius)
  slope = _slope(loss_fn, data, batch_size)

  def make(view: View) -> jax.Array:
    centre, limit = honest_mean(view), radius * jnp.sqrt(_spread(view, jnp.max))

    def climb(step: jax.Array, update: jax.Array) -> jax.Array:
      up = slope(view, update, jax.random.fold_in(view.key, step))
      up = up / jnp.maximum(jnp.linalg.norm(up), 1e-30)
      away = update + 2 * limit / num_steps * up - centre
      length = jnp.maximum(jnp.linalg.norm(away), 1e-30)
      return centre + away * jnp.minimum(1, limit / length)

    return jax.lax.fori_loop(0, num_steps, climb, centre)

  return Attack("disbelieve_parameters", f, ("own updates", "parameters", "own data"), make)


def disbelieve_gradients(
  f: int,
  loss_fn: LossFn,
  data: Batch,
  *,
  num_steps: int = 20,
  rate: float | int = 0.1,
  batch_size: int | None = None,
  bisection: Literal["corrected", "published"] = "corrected",
) -> Attack:
  """Algorithm 2, for clients that send one step of descent.

  Args:
    f: number of wrong clients.
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example, the clients' own.
    data: the wrong clients' pooled examples.
    num_steps: updates of the malicious model M on minus the loss, from mu.
    rate: of those updates.
    batch_size: examples a step, drawn anew; None: all.
    bisection: "corrected" finds the largest s within the bound, or the s nearest to mu_g where none
      is: possible only if gradients differ by more than their mean is long. "published" goes the
      wrong way at every halving and ends at s = 1000, a huge vector that any distance finds.
  """
  check.one_of("bisection", bisection, ("corrected", "published"))
  check.positive("num_steps", num_steps)
  slope = _slope(loss_fn, data, batch_size)

  def make(view: View) -> jax.Array:
    centre, limit = honest_mean(view), _spread(view, jnp.min)

    def climb(step: jax.Array, update: jax.Array) -> jax.Array:
      return update + rate * slope(view, update, jax.random.fold_in(view.key, step))

    update = jax.lax.fori_loop(0, num_steps, climb, centre)
    last = slope(view, update, jax.random.fold_in(view.key, num_steps))
    towards = last / jnp.maximum(jnp.linalg.norm(last), 1e-30)
    if bisection == "published":
      return _published(towards, centre, limit) * towards
    return scale_within(towards, centre, limit) * towards

  name = "disbelieve_gradients" + ("" if bisection == "corrected" else "-published")
  return Attack(name, f, ("own updates", "parameters", "own data"), make)


def scale_within(towards: jax.Array, centre: jax.Array, limit: jax.Array) -> jax.Array:
  """Largest s >= 0 with |s u - mu|^2 <= G for a unit vector u; without one, the s that is nearest.

  |s u - mu|^2 = s^2 - 2 s <u, mu> + |mu|^2, so s = <u, mu> + sqrt(G - |mu|^2 + <u, mu>^2).
  """
  along = towards @ centre
  across = ((centre - along * towards) ** 2).sum()  # |mu|^2 - <u, mu>^2, without cancellation
  return jnp.maximum(along + jnp.sqrt(jnp.maximum(limit - across, 0)), 0)


def _published(towards: jax.Array, centre: jax.Array, limit: jax.Array) -> jax.Array:
  """Lines 7 to 13 of algorithm 2 as printed."""
  start, end = jnp.float32(0.001), jnp.float32(1000.0)
  for _ in range(17):  # 1000 / 2^17 < 0.01
    middle = (start + end) / 2
    is_far = ((middle * towards - centre) ** 2).sum() > limit
    start, end = jnp.where(is_far, middle, start), jnp.where(is_far, end, middle)
  return middle


def _spread(view: View, reduce: Callable[..., jax.Array]) -> jax.Array:
  """Largest or smallest squared distance between two wrong clients' honest updates."""
  squared = matrix.squared_distances(view.rows, view.own)
  both = view.own[:, None] & view.own[None] & ~jnp.eye(len(squared), dtype=bool)
  found = reduce(squared, where=both, initial=0 if reduce is jnp.max else jnp.inf)
  return jnp.where(both.any(), found, 0)


def _slope(
  loss_fn: LossFn, data: Batch, batch_size: int | None
) -> Callable[[View, jax.Array, Key], jax.Array]:
  """Gradient, as a row, of the mean loss over the attackers' data at theta + update."""
  num = len(data.weight)
  check.require(num > 0, "examples of the wrong clients", "none", "pool their batches")
  if batch_size is not None:
    check.in_interval("batch_size", batch_size, 1, num)

  def slope(view: View, update: jax.Array, key: Key) -> jax.Array:
    draw_key, loss_key = jax.random.split(key)
    batch = jax.tree.map(jnp.asarray, data)
    if batch_size is not None:
      rows = jax.random.permutation(draw_key, num)[:batch_size]
      batch = jax.tree.map(lambda x: x[rows], batch)

    def mean(params: Params) -> jax.Array:
      return grads.batch_mean(lambda e, k: loss_fn(params, e, k), batch, loss_key)

    moved = jax.tree.map(
      lambda p, d: (p + d).astype(p.dtype), view.params, view.unravel(update)
    )  # fmt: skip
    return view.ravel(jax.grad(mean)(moved))

  return slope
