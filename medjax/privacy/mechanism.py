"""The parts that every private update is made of: clipped sums of examples, noise, the optimiser.

  release = (sum_i w_i a_i clip(g_i, C) + sigma C z) / L,   z ~ N(0, I)     (Abadi et al. 2016)

L, the expected number of units in a sample, is fixed and public: the size of a sample is not.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import grads, rng
from medjax.grads.clipping import ClippedSum
from medjax.privacy.plan import DPPlan
from medjax.tree import entry
from medjax.types import Key, LossFn, Params, PyTree, TrainState


class PrivateState(NamedTuple):
  """`extra` of a private Step: the filter's state and the present clipping norm; both released."""

  filter: Any
  max_norm: Any


@dataclasses.dataclass(frozen=True)
class Mechanism:
  """What a filter builds its sweeps from.

  Attributes:
    loss_fn: loss of one unit of privacy.
    tx: the optimiser; it sees released gradients only.
    plan: bounds, noise and expected sample size.
  """

  loss_fn: LossFn
  tx: optax.GradientTransformation
  plan: DPPlan

  def clipped(
    self, state: TrainState, chunk: PyTree, key: Key, *, clips: bool = True, **options: Any
  ) -> ClippedSum:
    """`grads.clipped_sum` of a chunk, weights cut to [0, 1]; without `clips` nothing is clipped."""
    clipped = grads.clipped_sum(self.loss_fn, state.extra.max_norm if clips else jnp.inf)
    options.setdefault("weights", unit_weights(chunk))
    return clipped(state.params, chunk, rng.stream(key, "loss"), **options)

  def release(
    self, total: PyTree, state: TrainState, key: Key, *, which: int = -1, kept: float = 1.0
  ) -> PyTree:
    """Release number `which` of a sample: noise on the clipped sum, once, then 1 / (L * kept).

    Args:
      total: sum of gradients that were clipped to state.extra.max_norm.
      state: holds the norm.
      key: the sweep's own.
      which: position in plan.multipliers.
      kept: public constant in (0, 1], the share of a sample that a filter is expected to keep.
    """
    std = self.plan.multipliers[which] * state.extra.max_norm
    noise = normal_like(rng.stream(key, "noise"), total)
    scale = 1 / (self.plan.expected_batch_size * kept)
    return jax.tree.map(lambda x, z: (x + std * z) * scale, total, noise)

  def apply(self, state: TrainState, gradient: PyTree, filter_state: Any) -> TrainState:
    """One step of the optimiser on a released gradient."""
    updates, opt_state = self.tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      extra=state.extra._replace(filter=filter_state),
    )


def unit_weights(chunk: PyTree) -> jax.Array:
  """[batch] in [0, 1], 0 for padding: more would let one unit through more than once."""
  size = jax.tree.leaves(chunk)[0].shape[0]
  weight = entry(chunk, "weight")
  return jnp.ones(size) if weight is None else jnp.clip(weight, 0.0, 1.0)


def normal_like(key: Key, tree: PyTree) -> PyTree:
  """Standard normal numbers, float32 or wider, a key for each leaf."""
  leaves, structure = jax.tree.flatten(tree)
  drawn = [
    jax.random.normal(jax.random.fold_in(key, i), x.shape, jnp.promote_types(x.dtype, jnp.float32))
    for i, x in enumerate(leaves)
  ]
  return jax.tree.unflatten(structure, drawn)


def zeros_like(params: Params) -> PyTree:
  """Accumulator of gradients."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), params)


def add(a: PyTree, b: PyTree) -> PyTree:
  return jax.tree.map(jnp.add, a, b)
