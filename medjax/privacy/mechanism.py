"""The parts that every private update is made of: clipped sums of examples, noise, the optimiser.

  release = (sum_i w_i a_i clip(g_i, C) + sigma C z) / L,   z ~ N(0, I)     (Abadi et al. 2016)

Sums, noise and releases are float32 whatever the parameters are; the optimiser gets the released
gradient in the type of the parameters. L, the expected number of units in a sample, is fixed and
public: the size of a sample is not.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import grads, rng
from medjax.grads.clipping import ClippedSum
from medjax.privacy import noise
from medjax.privacy.plan import DPPlan
from medjax.tree import entry
from medjax.types import Key, LossFn, Params, PyTree, TrainState

_MOST_UNITS = 32  # of expected samples; sums up to this size are released without a cut


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
      key: the sweep's own, or keys [window] where the plan's noise is correlated.
      which: position in plan.multipliers.
      kept: public constant in (0, 1], the share of a sample that a filter is expected to keep.
    """
    size, max_norm = self.plan.expected_batch_size, state.extra.max_norm
    if self.plan.multipliers[which] > 0:
      own = rng.stream(key, "noise") if key.ndim == 0 else jax.vmap(_noise_stream)(key)
      total = noise.added(
        own,
        total,
        multiplier=self.plan.multipliers[which],
        sensitivity=max_norm,
        magnitude=_MOST_UNITS * size * max_norm,
        factor=self.plan.factor,
      )
    return jax.tree.map(lambda x: x.astype(jnp.float32) * (1 / (size * kept)), total)

  def apply(self, state: TrainState, gradient: PyTree, filter_state: Any) -> TrainState:
    """One step of the optimiser on a released gradient, rounded to the parameters' type first."""
    gradient = jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, state.params)
    updates, opt_state = self.tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      extra=state.extra._replace(filter=filter_state),
    )


def _noise_stream(key: Key) -> Key:
  return rng.stream(key, "noise")


def unit_weights(chunk: PyTree) -> jax.Array:
  """[batch] in [0, 1], 0 for padding: more would let one unit through more than once.

  A weight that is no number is 0: as a factor it would betray its owner in the whole sum.
  """
  size = jax.tree.leaves(chunk)[0].shape[0]
  weight = entry(chunk, "weight")
  if weight is None:
    return jnp.ones(size)
  return jnp.where(jnp.isnan(weight), 0.0, jnp.clip(weight, 0.0, 1.0))


def zeros_like(params: Params) -> PyTree:
  """Accumulator of gradients, float32."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)


def add(a: PyTree, b: PyTree) -> PyTree:
  """a + b in the type of `a`, an accumulator."""
  return jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)
