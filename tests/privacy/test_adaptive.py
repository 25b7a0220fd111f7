"""The clipping norm that follows a quantile, against NumPy on a linear problem."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import sweeps
from medjax.privacy import DPPlan, Vault, fresh_reference, no_filter
from medjax.privacy.adaptive import adaptive
from medjax.privacy.mechanism import Mechanism, PrivateState
from medjax.privacy.quantile import (
  LARGEST_NORM,
  LEAST_NORM,
  QuantileClipping,
  centred_bits,
  next_norm,
)
from medjax.types import TrainState

KEY = jax.random.key(3)
ROWS = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
NORMS = np.linalg.norm(ROWS, axis=1)


def loss(params, example, key):
  """Linear: its gradient is the example."""
  del key
  return params @ example["x"]


def update_of(filter, rule, sigmas=(0.0,)):
  plan = DPPlan(
    num_examples=1000,
    expected_batch_size=16,
    num_steps=5,
    delta=1e-5,
    max_norm=0.5,
    unit="example",
    noise_multipliers=sigmas,
    adaptive_clipping=rule,
    vault=Vault.from_seed(0),
  )
  mechanism = Mechanism(loss, optax.sgd(1.0), plan)
  chunked = adaptive(filter.pieces(mechanism), mechanism)
  extra = PrivateState(filter.init(jnp.zeros(5)), jnp.float32(plan.max_norm))
  state = TrainState(jnp.int32(0), jnp.zeros(5), (optax.EmptyState(),) * 2, {}, extra)
  return jax.jit(sweeps.on_one_chunk(chunked)), state


def chunk(x, weight=None):
  weight = np.ones(len(x), np.float32) if weight is None else np.asarray(weight, np.float32)
  return {"x": x, "index": np.arange(len(x), dtype=np.int32), "weight": weight}


@pytest.mark.parametrize(
  ("filter", "sigmas"), [(no_filter(), (0.0,)), (fresh_reference(), (0.0, 0.0))]
)
def test_the_norm_moves_by_the_share_within_it(filter, sigmas):
  update, state = update_of(filter, QuantileClipping(quantile=0.25, rate=0.5), sigmas)
  want = 0.5
  for _ in range(6):
    state, _ = update(state, chunk(ROWS), KEY)
    want *= np.exp(-0.5 * ((NORMS <= want).mean() - 0.25))
    np.testing.assert_allclose(state.extra.max_norm, want, rtol=1e-5)


def test_it_settles_at_the_quantile():
  update, state = update_of(no_filter(), QuantileClipping(quantile=0.6, rate=0.1))
  for _ in range(80):
    state, _ = update(state, chunk(ROWS), KEY)
  assert abs((NORMS <= state.extra.max_norm).mean() - 0.6) < 1.1 / 16


def test_a_step_clips_to_the_norm_before_it_and_a_fixed_norm_stays():
  for rule in (QuantileClipping(), None):
    update, state = update_of(no_filter(), rule)
    after, _ = update(state, chunk(ROWS), KEY)
    clipped = ROWS * np.minimum(1, 0.5 / NORMS)[:, None]
    np.testing.assert_allclose(after.params, -clipped.sum(0) / 16, rtol=1e-4, atol=1e-6)
    assert (after.extra.max_norm == 0.5) == (rule is None)


def test_one_unit_moves_the_count_by_a_half():
  for norm in (0.0, 0.4, 0.5, 7.0, np.inf, np.nan):
    for weight in (0.0, 0.3, 1.0):
      bit = centred_bits(jnp.array([norm]), jnp.array([weight]), jnp.array(0.5))
      assert abs(float(bit)) == pytest.approx(0.5 * weight)


def test_noise_of_the_count_has_the_paid_size():
  rule, draws = QuantileClipping(quantile=0.0, rate=1.0), 4000
  keys = jax.random.split(KEY, draws)
  norms = jax.vmap(
    lambda key: next_norm(
      rule, jnp.float32(1), jnp.float32(0), key, multiplier=8.0, sample_size=100
    )
  )(keys)
  shares = -np.log(np.asarray(norms))  # 1/2 + noise / 100
  assert abs(shares.std() / (8.0 / 2 / 100) - 1) < 5 / np.sqrt(2 * draws)
  assert abs(shares.mean() - 0.5) < 5 * 0.04 / np.sqrt(draws)


def test_an_empty_sample_moves_it_as_half_within_would():
  update, state = update_of(no_filter(), QuantileClipping(quantile=0.2, rate=1.0))
  nothing = chunk(np.full((4, 5), np.nan, np.float32), np.zeros(4))
  after, _ = update(state, nothing, KEY)
  np.testing.assert_allclose(after.extra.max_norm, 0.5 * np.exp(-0.3), rtol=1e-5)


def test_the_norm_never_leaves_the_numbers_whose_squares_float32_can_hold():
  for quantile, start in ((0.0, LEAST_NORM), (1.0, LARGEST_NORM)):
    rule = QuantileClipping(quantile=quantile, rate=1.0)
    total = jnp.float32(8.0 if quantile == 0.0 else -8.0)
    moved = next_norm(rule, jnp.float32(start), total, KEY, multiplier=0.0, sample_size=16)
    assert moved == jnp.float32(start)
