"""The sums of every mode of private training, and of the published filter, which is unsound."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods, privacy
from medjax.check import InputError
from medjax.privacy import check_sensitivity
from tests.privacy.sensitivity.releases import (
  KEY,
  PARAMS,
  C,
)

UNITS = {"x": np.ones((4, 3), np.float32), "index": np.arange(4), "weight": np.ones(4, np.float32)}


def linear(params, example, key):
  return jnp.tanh(params["w"][:, 0] @ example["x"]) + params["b"].sum()


def private(filter, multipliers=(1.0,), **options):
  plan = privacy.DPPlan(
    num_examples=1000,
    expected_batch_size=4,
    num_steps=5,
    delta=1e-5,
    max_norm=C,
    unit="example",
    noise_multipliers=multipliers,
    vault=privacy.Vault.from_seed(1),
    **options,
  )
  step = methods.private(linear, optax.sgd(1.0), plan, filter=filter)
  return step.chunked, step.init(PARAMS, KEY)


def swept(chunked, state, number):
  """What a sweep adds, given what was released before it."""
  start = jax.tree.map(jnp.ones_like, chunked.begin(state)), chunked.carry(UNITS, KEY)

  def release(batch, acc, carry):
    return chunked.sweeps[number].accumulate(state, acc, batch, carry, KEY)[0]

  return check_sensitivity(release, UNITS, *start)


SOUND = {
  "none": (privacy.no_filter, {}, [0]),
  "public": (lambda: privacy.public_reference(measure="cov", dropped=0.5, softness=0.1), {}, [0]),
  "fresh": (privacy.fresh_reference, {"multipliers": (2.0, 1.0)}, [0, 1]),
  "repaired": (
    lambda: privacy.repaired(threshold=0.0, half_range=0.5),
    {"multipliers": (2.0, 1.0)},
    [2],
  ),
}


@pytest.mark.parametrize("name", SOUND)
def test_the_modes_of_private_training_move_by_their_norm(name):
  filter, options, sweeps = SOUND[name]
  chunked, state = private(filter(), **options)
  for number in sweeps:
    found = swept(chunked, state, number)
    assert found.l2 == pytest.approx(C)
    assert found.relation.startswith("add or remove")
    assert not found.assumptions or name == "repaired"  # the noised cosines


def test_adaptive_clipping_moves_its_count_by_a_half():
  rule = privacy.QuantileClipping()
  chunked, state = private(privacy.no_filter(), adaptive_clipping=rule)
  found = swept(chunked, state, 0)
  assert found.outputs[".count"] == pytest.approx(0.5)
  assert found.l2 == pytest.approx((C**2 + 0.25) ** 0.5)


def test_the_repaired_filters_vector_moves_by_twice_its_radius():
  chunked, state = private(privacy.repaired(threshold=0.0, half_range=0.5), (2.0, 1.0))
  first, second, _ = chunked.sweeps

  def release(batch):
    acc, carry = first.accumulate(
      state, chunked.begin(state), batch, chunked.carry(batch, KEY), KEY
    )
    acc, vector = second.accumulate(state, acc, batch, carry, KEY)
    return vector * jnp.minimum(1.0, 0.7 / jnp.linalg.norm(vector))

  assert check_sensitivity(release, UNITS, allow_coupled=True).l2 == pytest.approx(1.4)
  with pytest.raises(InputError, match="clipped_sum"):
    check_sensitivity(release, UNITS)


@pytest.mark.parametrize("measure", [None, "cov"])
def test_the_published_filter_is_refused_sweep_by_sweep_and_as_a_whole(measure):
  filter = privacy.paper_nonprivate(threshold=0.0, measure=measure, dropped=0.5 if measure else 0.0)
  chunked, state = private(filter, diagnostics=True)

  def whole(batch):
    acc, carry = chunked.begin(state), chunked.carry(batch, KEY)
    for sweep in chunked.sweeps:
      acc, carry = sweep.accumulate(state, acc, batch, carry, KEY)
      state_, acc, _ = sweep.finish(state, acc, KEY)
    return state_.params

  with pytest.raises(InputError, match="depend on a sum|divides by|not linear in a sum"):
    check_sensitivity(whole, UNITS)
  with pytest.raises(InputError, match="unbounded rows"):
    swept(chunked, state, 0)
