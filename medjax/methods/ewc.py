"""Elastic weight consolidation (Kirkpatrick et al. 2017): parameters that mattered move less.

  L'(phi) = L(phi) + lambda / 2 sum_j F_j (phi_j - phi*_j)^2,    F_j = mean_i (d l_i / d phi_j)^2

with F the diagonal of the empirical Fisher information of an earlier centre at its solution phi*.
Several centres add up to one anchor: the sum of such parabolas is a parabola.

A Step is `supervised` with another optimiser; F comes from per-example gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, tree
from medjax.methods.supervised import supervised
from medjax.tree import entry
from medjax.types import Key, Leaf, LossFn, Params, PyTree, Step


class Anchor(NamedTuple):
  """Where parameters are held, and how tightly.

  Attributes:
    params: phi*.
    fisher: F >= 0, a tree like the parameters.
  """

  params: Leaf
  fisher: Leaf


def ewc(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  anchor: Anchor | None = None,
  *,
  strength: float | int = 1.0,
) -> Step:
  """Supervised training held where earlier centres were sensitive.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: any optax transformation.
    anchor: from `fisher_anchor`, merged over centres by `merged_anchors`; None is plain training.
    strength: lambda >= 0; 0 is plain training.
  Returns:
    The Step of `supervised`, whose "loss" and "grad_norm" are without the penalty; the anchor is
    part of the optimiser's state.
  """
  check.non_negative("strength", strength)
  if anchor is None:
    return supervised(loss_fn, tx)
  return supervised(loss_fn, optax.chain(pull_to(anchor, strength), tx))


def pull_to(anchor: Anchor, strength: float | int) -> optax.GradientTransformation:
  """Adds lambda F (phi - phi*), the gradient of the penalty."""

  def init(params: Params) -> Anchor:
    del params
    return jax.tree.map(jnp.array, anchor)

  def update(updates: PyTree, state: PyTree, params: Params | None = None) -> tuple[PyTree, Any]:
    pulled = jax.tree.map(
      lambda g, p, p0, f: g + strength * f * (p - p0), updates, params, state.params, state.fisher
    )
    return pulled, state

  return optax.GradientTransformation(init, update)


def fisher_anchor(
  loss_fn: LossFn, params: Params, batch: PyTree, key: Key, *, microbatch: int | None = None
) -> Anchor:
  """Anchor at `params` from the per-example gradients of a batch of the centre.

  Args:
    loss_fn: as trained.
    params: the solution.
    batch: examples of the centre; their weights count, if they have any.
    key: key of the losses.
    microbatch: see `grads.per_sample`.
  Raises:
    InputError: a loss that mixes examples.
  """
  found = grads.per_sample(loss_fn, microbatch=microbatch)(params, batch, key)
  weight = entry(batch, "weight")
  squares = jax.tree.map(jnp.square, found.grads)
  return Anchor(params, tree.weighted_mean(squares, weight))


def merged_anchors(first: Anchor | None, second: Anchor) -> Anchor:
  """One anchor whose penalty is the sum of both, up to a constant."""
  if first is None:
    return second
  total = jax.tree.map(jnp.add, first.fisher, second.fisher)

  def place(p: Any, f: Any, q: Any, g: Any, both: Any) -> Any:
    return jnp.where(both > 0, (f * p + g * q) / jnp.where(both > 0, both, 1.0), q)

  params = jax.tree.map(place, first.params, first.fisher, second.params, second.fisher, total)
  return Anchor(params, total)
