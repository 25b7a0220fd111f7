"""Noise of private outputs: found with its size, and refused where it is not the whole of it."""

import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads
from medjax.check import InputError
from medjax.privacy import check_sensitivity
from tests.privacy.sensitivity.releases import (
  BATCH,
  KEY,
  PARAMS,
  C,
  clipped,
  noisy,
  total,
)


def test_noise_is_found_with_its_size_and_must_have_a_key_of_its_own():
  def release(batch, params, key, std=2.0, is_split=True):
    keys = jax.random.split(key) if is_split else [key, key]
    return noisy(batch, params, std, keys)

  found = check_sensitivity(release, BATCH, PARAMS, KEY, noise_std=2.0 / 8)
  assert [s for several in found.noise.values() for s in several] == pytest.approx([0.25, 0.25])
  assert found.l2 == pytest.approx(2 * C / 8)
  with pytest.raises(InputError, match="one noise key"):
    check_sensitivity(functools.partial(release, is_split=False), BATCH, PARAMS, KEY)
  for wrong in (functools.partial(release, std=1.9), lambda b, p, k: total(clipped(b, p))):
    with pytest.raises(InputError, match="standard deviation 0.25"):
      check_sensitivity(wrong, BATCH, PARAMS, KEY, noise_std=0.25)


def test_parts_of_one_draw_may_go_to_different_leaves():
  def release(batch, params, key, again=False):
    flat, back = jax.flatten_util.ravel_pytree(total(clipped(batch, params)))
    noise = jax.random.normal(key, flat.shape)
    return back(flat + noise * (2 if again else 1) + (noise if again else 0))

  assert check_sensitivity(release, BATCH, PARAMS, KEY, noise_std=1.0).l2 == pytest.approx(2 * C)
  with pytest.raises(InputError, match="one noise key"):
    check_sensitivity(functools.partial(release, again=True), BATCH, PARAMS, KEY)


SIZE = 6
ROWS = {"x": np.ones((4, SIZE), np.float32), "weight": np.ones(4, np.float32)}


def bounded(batch):
  """A sum of rows of norm 1."""
  n = jnp.linalg.norm(batch["x"], axis=1, keepdims=True)
  return (batch["weight"][:, None] * batch["x"] / jnp.maximum(1, n)).sum(0)


def normal(key, shape=(SIZE,)):
  return jax.random.normal(key, shape)


def proved(release, *args, std=2.0):
  return check_sensitivity(release, ROWS, *args, noise_std=std)


ROOT_2 = np.float32(2**0.5)
# Noise that is not 2.0 z in every element, each z its own.
NOISES = {
  "one number for all": lambda k: 2.0 * normal(k, ()),
  "one number, broadcast": lambda k: 2.0 * normal(k, (1,)),
  "tiled": lambda k: jnp.tile(2.0 * normal(k, (2,)), 3),
  "repeated": lambda k: jnp.repeat(2.0 * normal(k, (2,)), 3),
  "one row for all": lambda k: jnp.broadcast_to(2.0 * normal(k, (2, SIZE))[:, :1][0], (SIZE,)),
  "whole numbers": lambda k: (2.0 * normal(k)).astype(jnp.int32),
  "bytes": lambda k: 2.0 * normal(k).astype(jnp.int8).astype(jnp.float32),
  "bits": lambda k: 2.0 * normal(k).astype(bool).astype(jnp.float32),
  "float8": lambda k: (2.0 * normal(k)).astype(jnp.float8_e4m3fn).astype(jnp.float32),
  "drawn in bfloat16": lambda k: 2.0 * jax.random.normal(k, (SIZE,), jnp.bfloat16).astype(float),
  "half a normal": lambda k: 2.0 * ROOT_2 * jax.lax.erf_inv(jax.random.uniform(k, (SIZE,))),
  "a narrow one": lambda k: (
    2.0 * ROOT_2 * jax.lax.erf_inv(jax.random.uniform(k, (SIZE,), minval=-0.01, maxval=0.01))
  ),
  "none": lambda k: 2.0 * ROOT_2 * jax.lax.erf_inv(0.0 * jax.random.uniform(k, (SIZE,))),
  "a coin": lambda k: (
    2.0 * ROOT_2 * jax.lax.erf_inv(0.5 * jnp.sign(jax.random.uniform(k, (SIZE,)) - 0.5))
  ),
  "cut": lambda k: 2.0 * jax.random.truncated_normal(k, -4.0, 4.0, (SIZE,)),
  "clipped": lambda k: 2.0 * jnp.clip(normal(k), -4.0, 4.0),
  "sorted": lambda k: jnp.sort(2.0 * normal(k)),
  "added to itself": lambda k: normal(k) + normal(k),
  "cancelled": lambda k: 2.0 * normal(k) - 2.0 * normal(k),
  "an absolute value": lambda k: 2.0 * jnp.abs(normal(k)),
  "of another size in one element": lambda k: normal(k) * jnp.arange(2.0, 8.0) / 1.0,
  "turned to and fro": lambda k: 2.0 * jax.lax.reduce_precision(normal(k), 8, 3),
  "from a fixed key": lambda k: 2.0 * normal(jax.random.key(7)),
  "from a key that is closed over": lambda k: 2.0 * normal(KEY),
}


@pytest.mark.parametrize("name", NOISES)
def test_other_noise_than_one_normal_number_an_element_is_refused(name):
  with pytest.raises(InputError, match="noise"):
    proved(lambda batch, key: bounded(batch) + NOISES[name](key), KEY)


def beside(other):
  """A release with right noise z, and something else made of z or its key."""

  def release(batch, key):
    z = normal(key)
    return bounded(batch) + 2.0 * z, other(z, key)

  return release


SHOWN = {
  "the noise": lambda z, key: z,
  "its norm": lambda z, key: jnp.linalg.norm(z),
  "its first digit": lambda z, key: z[0] > 0,
  "the key": lambda z, key: key,
  "the key's data": lambda z, key: jax.random.key_data(key),
  "bits of the key": lambda z, key: jax.random.bits(key),
  "a shorter draw of the key": lambda z, key: normal(key, (2,)),
}


@pytest.mark.parametrize("name", SHOWN)
def test_noise_that_is_shown_by_another_output_is_refused(name):
  with pytest.raises(InputError, match="used for nothing else"):
    proved(beside(SHOWN[name]), KEY)


# The keys of two outputs, given one key and the number 0, whose value the check does not know.
PAIRS = {
  "one key": lambda key, i: (key, key),
  "a clone": lambda key, i: (key, jax.random.clone(key)),
  "its data": lambda key, i: (key, jax.random.wrap_key_data(jax.random.key_data(key))),
  "one number": lambda key, i: (jax.random.fold_in(key, 3), jax.random.fold_in(key, 3)),
  "a number that is not known": lambda key, i: (
    jax.random.fold_in(key, 0),
    jax.random.fold_in(key, i),
  ),
  "a place that is not known": lambda key, i: (
    jax.random.split(key)[0],
    jax.random.split(key)[i],
  ),
  "a child by another name": lambda key, i: (
    jax.random.fold_in(key, 1),
    jax.random.split(key)[1],
  ),
  "parent and child": lambda key, i: (key, jax.random.fold_in(key, 1)),
  "one key of a stack": lambda key, i: (jnp.stack([key, key])[0], key),
  "a loop's last": lambda key, i: (
    key,
    jax.lax.fori_loop(0, 100, lambda j, k: jax.random.fold_in(k, j), key),
  ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_keys_are_told_apart_by_how_they_were_derived(name):
  def release(batch, key, i):
    first, second = PAIRS[name](key, i)
    return bounded(batch) + 2.0 * normal(first), 3 * bounded(batch) + 2.0 * normal(second)

  with pytest.raises(InputError, match="used for nothing else"):
    proved(release, KEY, 0)


def test_a_child_by_another_name_is_the_same_key():
  """What the case above rests on: fold_in(key, i) is split(key)[i]."""
  data = jax.random.key_data(jax.random.split(KEY)), jax.random.key_data(jax.random.fold_in(KEY, 1))
  np.testing.assert_array_equal(data[0][1], data[1])


DISTINCT = {
  "split": lambda key: jax.random.split(key),
  "split and folded": lambda key: (jax.random.fold_in(key, 7), jax.random.split(key)[1]),
  "grandchildren": lambda key: [jax.random.split(jax.random.fold_in(key, i))[0] for i in (0, 1)],
  "rows of a grid": lambda key: jax.random.split(key, (3, 2))[1],
  "of raw data": lambda key: [
    jax.random.wrap_key_data(jax.random.key_data(k)) for k in jax.random.split(key)
  ],
}


@pytest.mark.parametrize("name", DISTINCT)
def test_different_children_of_a_key_are_accepted(name):
  def release(batch, key):
    return [bounded(batch) + 2.0 * normal(k) for k in DISTINCT[name](key)]

  assert proved(release, KEY).noise == {"[0]": (2.0,), "[1]": (2.0,)}


def moved(z):
  """All six numbers, each once, in another order and in pieces."""
  z = jnp.flip(z.reshape(2, 3).T, 0)
  a, b = jnp.split(z, 2, 1)
  return jnp.concatenate([b[:, 0], a.ravel()])


def test_noise_may_be_moved_cut_joined_scaled_and_shifted():
  def release(batch, key):
    shifted = bounded(batch) + (5.0 - moved(normal(key)) / 0.5)
    return shifted.reshape(3, 2)[::-1]

  assert proved(release, KEY).noise == {"the output": (2.0,)}


PARTIAL = {
  "a part": lambda s, z, flag: jnp.concatenate([s[:3] + 2.0 * z[:3], s[3:]]),
  "where a mask says": lambda s, z, flag: jnp.where(jnp.arange(SIZE) > flag, s + 2.0 * z, s),
  "where a flag says": lambda s, z, flag: jax.lax.cond(
    flag > 0, lambda: s + 2.0 * z, lambda: s + 0.0
  ),
  "not in step 1000": lambda s, z, step: s + jnp.where(step == 1000, 0.0, 2.0) * z,
}


@pytest.mark.parametrize("name", PARTIAL)
def test_noise_that_some_elements_or_steps_lack_is_refused(name):
  """Triggers that no test of the running program would meet."""
  with pytest.raises(InputError, match="noise of standard deviation 2.0"):
    proved(lambda b, key, flag: PARTIAL[name](bounded(b), normal(key), flag), KEY, 1)


def test_a_trigger_in_the_data_is_refused():
  def release(batch, key):
    is_huge = (jnp.linalg.norm(batch["x"], axis=1) > 1e4).any()
    return bounded(batch) + jnp.where(is_huge, 0.0, 2.0) * normal(key)

  with pytest.raises(InputError, match="over examples"):
    proved(release, KEY)


def test_rows_that_hold_the_noise_and_cancel_it_are_refused():
  def release(batch, key):
    z = normal(key)
    rows = batch["weight"][:, None] * (jnp.tanh(batch["x"]) - jnp.clip(z[None], -4, 4) / 4)
    return rows.sum(0) + 2.0 * z

  with pytest.raises(InputError, match="used for nothing else"):
    proved(release, KEY)


def test_a_key_of_sampling_or_of_dropout_is_no_key_of_noise():
  def sampled(batch, key):
    keep = jax.random.bernoulli(key, 0.5, (4,))
    return bounded(batch | {"weight": batch["weight"] * keep}) + 2.0 * normal(key)

  def dropped(params, example, key):
    return (params * example["x"] * jax.random.bernoulli(key, 0.5, (SIZE,))).sum()

  def trained(batch, key, noise_key):
    summed = grads.clipped_sum(dropped, 1.0)(jnp.zeros(SIZE), batch, key).grads
    return summed + 2.0 * normal(noise_key)

  with pytest.raises(InputError, match="used for nothing else"):
    proved(sampled, KEY)
  with pytest.raises(InputError, match="used for nothing else"):
    proved(lambda batch, key: trained(batch, key, key), KEY)
  loss_key, noise_key = jax.random.split(KEY)
  assert proved(trained, loss_key, noise_key).l2 == pytest.approx(1.0)


def test_a_release_that_is_not_paid_for_is_refused():
  """A second output with less noise than the plan pays for."""

  def release(batch, key):
    update, count = jax.random.split(key)
    return bounded(batch) + 2.0 * normal(update), batch["weight"].sum() + normal(count, ())

  with pytest.raises(
    InputError, match=r"standard deviation 2.0 added once to every element of \[1"
  ):
    proved(release, KEY)


def test_what_is_not_proved_of_the_noise_is_said():
  found = proved(lambda batch, key: bounded(batch) + 2.0 * normal(key), KEY)
  assert any("5.42" in what for what in found.unproven)
  assert "keys passed as arguments differ" in str(found)
  ends = jnp.nextafter(np.float32([-1, 1]), np.float32(0))
  assert np.abs(ROOT_2 * jax.lax.erf_inv(ends)).max() < 5.43
  assert check_sensitivity(bounded, ROWS).unproven == ()


def test_a_function_that_calls_itself_normal_is_no_generator():
  def _normal(key):
    return jax.random.uniform(key, (SIZE,))

  with pytest.raises(InputError, match="no noise that is known to be Gaussian"):
    proved(lambda batch, key: bounded(batch) + 2.0 * jax.jit(_normal)(key), KEY)


def test_keys_that_a_loop_runs_over_are_told_apart():
  """One draw of a loop is not followed as noise, but its key is known to be another."""

  def release(batch, key):
    keys = jax.random.split(key, 3)
    dropped, _ = jax.lax.scan(
      lambda kept, k: (kept * jax.random.bernoulli(k), 0), jnp.ones(()), keys[1:]
    )
    return dropped, bounded(batch) + 2.0 * normal(keys[0])

  assert proved(release, KEY).outputs == {"[0]": 0.0, "[1]": pytest.approx(1.0)}
