"""Whole private updates: each filter of medjax is proved, and a user's own is looked at as well."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods, privacy, rng
from medjax.check import InputError
from medjax.privacy import check_update
from medjax.privacy.mechanism import add, zeros_like
from medjax.types import Chunked, Sweep
from tests.contracts.methods import ROWS

KEY = jax.random.key(0)
C = 1.5
PARAMS = {"w": np.ones((3, 5), np.float32), "b": np.zeros(5, np.float32)}
UNITS = {"x": np.ones((4, 3), np.float32), "index": np.arange(4), "weight": np.ones(4, np.float32)}


def linear(params, example, key):
  return jnp.tanh(params["w"][:, 0] @ example["x"]) + params["b"].sum()


def private(filter, multipliers=(2.0,), **options):
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
  return methods.private(linear, optax.adam(1.0), plan, filter=filter)


def proof(step, params, chunk, max_norm):
  state = jax.eval_shape(step.init, params, KEY)
  state = state.replace(extra=state.extra._replace(max_norm=float(max_norm)))
  return check_update(step.chunked, state, chunk, KEY)


OWN = {
  "none": (privacy.no_filter, (2.0,), {}),
  "public": (lambda: privacy.public_reference(measure="cov", dropped=0.5), (2.0,), {}),
  "fresh": (privacy.fresh_reference, (2.0, 1.0), {}),
  "adaptive": (privacy.no_filter, (2.0,), {"adaptive_clipping": privacy.QuantileClipping()}),
}


@pytest.mark.parametrize("name", OWN)
def test_what_an_update_releases_is_what_its_plan_pays_for(name):
  filter, multipliers, options = OWN[name]
  found = proof(private(filter(), multipliers, **options), PARAMS, UNITS, C)
  # sigma^-2 for each release; the count of adaptive clipping has ten times the multiplier
  paid = sum(sigma**-2 for sigma in multipliers) + (20.0**-2 if options else 0)
  assert found.mu == pytest.approx(math.sqrt(paid), rel=1e-6)
  assert len(found.releases) == 2 * len(multipliers) + len(options)  # leaves, and the count
  assert not any("5.42" in what for what in found.unproven)
  assert "GDP a sample" in str(found)


PRIVATE = [row for row in ROWS if row.step().releases_per_sample is not None]


@pytest.mark.parametrize("row", PRIVATE, ids=lambda row: row.name)
def test_every_private_row_of_the_contracts_is_proved(row):
  step = row.step(noise_multiplier=4.0)
  found = proof(step, row.params(), row.stream(0), 100.0)
  assert found.mu == pytest.approx(math.sqrt(step.releases_per_sample) / 4.0, rel=1e-6)


def test_the_contracts_have_private_rows():
  assert len(PRIVATE) >= 2


def by_hand(accumulate=None, finish=None, *, begin=None, releases=1):
  """A user's filter: DP-SGD, of which a part may be another."""

  def pieces(mechanism):
    def add_up(state, acc, chunk, carry, key):
      return add(acc, mechanism.clipped(state, chunk, key).grads), carry

    def end(state, acc, key):
      gradient = mechanism.release(acc, state, key)
      return mechanism.apply(state, gradient, ()), gradient, {}

    sweep = Sweep(
      add_up if accumulate is None else accumulate(mechanism),
      end if finish is None else finish(mechanism),
    )
    return Chunked(begin or (lambda state: zeros_like(state.params)), (sweep,))

  return privacy.Filter("mine", releases, lambda params: (), pieces, {})


def first_update(filter, **options):
  step = private(filter, **options)
  state = step.init(PARAMS, KEY)
  return jax.eval_shape(step.update, state, UNITS, KEY)


def test_a_sound_filter_of_a_user_runs():
  state, metrics = first_update(by_hand())
  assert metrics.keys() == {"release_norm"}


def unclipped(mechanism):
  def accumulate(state, acc, chunk, carry, key):
    examples = {"x": chunk["x"]}
    raw = jax.vmap(jax.grad(linear), (None, 0, None))(state.params, examples, key)
    return add(acc, jax.tree.map(lambda g: jnp.tensordot(chunk["weight"], g, 1), raw)), carry

  return accumulate


def clipped_together(mechanism):
  """Averages the clipped gradients over those that are there."""

  def accumulate(state, acc, chunk, carry, key):
    found, count = mechanism.clipped(state, chunk, key).grads, chunk["weight"].sum()
    return add(acc, jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), found)), carry

  return accumulate


def by_what_came_before(mechanism):
  """Weighs a chunk by what the chunks before it added."""

  def accumulate(state, acc, chunk, carry, key):
    found = mechanism.clipped(state, chunk, key).grads
    first = (optax.tree.norm(acc) == 0).astype(jnp.float32)
    return add(acc, jax.tree.map(lambda g: first * g, found)), carry

  return accumulate


def twice(mechanism):
  """Counts every example two times."""

  def accumulate(state, acc, chunk, carry, key):
    return add(acc, optax.tree.scale(2.0, mechanism.clipped(state, chunk, key).grads)), carry

  return accumulate


def without_noise(mechanism):
  def finish(state, acc, key):
    return mechanism.apply(state, acc, ()), acc, {}

  return finish


def two_for_one(mechanism):
  """Two releases of one sum, of which the plan pays for one."""

  def finish(state, acc, key):
    first, second = rng.streams(key, "first", "second")
    gradient = mechanism.release(acc, state, first)
    again = mechanism.release(acc, state, second)
    return mechanism.apply(state, add(gradient, again), ()), gradient, {}

  return finish


def one_key_for_two(mechanism):
  """The difference of the two releases has no noise."""

  def finish(state, acc, key):
    gradient = mechanism.release(acc, state, key)
    again = mechanism.release(optax.tree.scale(0.5, acc), state, key)
    return mechanism.apply(state, add(gradient, again), ()), gradient, {}

  return finish


def noise_taken_back(mechanism):
  """Shows the noise in the direction of the update."""

  def finish(state, acc, key):
    gradient = mechanism.release(acc, state, key)
    noise = jax.tree.map(lambda g, x: g - mechanism.release(0 * x, state, key), gradient, acc)
    return mechanism.apply(state, noise, ()), gradient, {}

  return finish


def sum_in_a_branch(mechanism):
  """In step 1000 the sum goes out as it is."""

  def finish(state, acc, key):
    noisy = mechanism.release(acc, state, key)
    gradient = jax.tree.map(lambda a, b: jnp.where(state.step == 1000, a, b), acc, noisy)
    return mechanism.apply(state, gradient, ()), gradient, {}

  return finish


MISTAKES = {
  "unclipped": (by_hand(unclipped), "unbounded rows"),
  "mean over those who are there": (
    by_hand(clipped_together),
    "divides by|not linear in a sum|max",
  ),
  "chunks that see each other": (by_hand(by_what_came_before), "not linear in a sum"),
  "every example twice": (by_hand(twice), "as the plan pays for"),
  "no noise": (by_hand(finish=without_noise), "not linear in a sum|noise on every element"),
  "two releases for one": (by_hand(finish=two_for_one), "as the plan pays for"),
  "one key for two": (by_hand(finish=one_key_for_two, releases=1), "used for nothing else"),
  "noise taken back": (by_hand(finish=noise_taken_back), "used for nothing else|pays for|release"),
  "a trigger": (by_hand(finish=sum_in_a_branch), "not linear in a sum|noise on every element"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_users_filter_with_a_mistake_is_refused_at_its_first_sample(name):
  filter, message = MISTAKES[name]
  with pytest.raises(InputError, match=message):
    first_update(filter)


def test_what_names_no_privacy_is_not_looked_at():
  """Without noise, or with diagnostics, the statement says that nothing is private."""
  first_update(by_hand(finish=without_noise), multipliers=(0.0,))
  first_update(by_hand(finish=without_noise), diagnostics=True)
