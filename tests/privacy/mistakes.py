"""Private steps with one mistake each, and the game of the audit that is made for it.

All are `(batch, key) -> release` like those of `mechanisms`, which claim mu = 1 / SIGMA.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from medjax import grads, rng
from tests.privacy.mechanisms import EXPECTED, LOSS, PARAMS, SIGMA

SIZE = sum(p.size for p in jax.tree.leaves(PARAMS))
GAMES = {}


def told_by(game, **options):
  """Lists a mistake with the game that refutes it."""

  def listed(release):
    GAMES[release.__name__] = (release, game, options)
    return release

  return listed


def flat(tree):
  return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])


def rows(batch, key):
  """Gradients [example, number]; 0 in place of NaN."""
  found = grads.per_sample(LOSS)(PARAMS, batch, key).grads
  return jnp.nan_to_num(jax.vmap(flat)(found))


def summed(batch, key, **options):
  return flat(grads.clipped_sum(LOSS, 1.0, **options)(PARAMS, batch, key).grads)


def noise(key, shape=(SIZE,)):
  return SIGMA * jax.random.normal(key, shape)


def lengths(x):
  return jnp.linalg.norm(x, axis=1, keepdims=True)


@told_by("aligned", trials=150_000)
def five_percent_less_noise(batch, key):
  return (summed(batch, key) + 0.95 * noise(key)) / EXPECTED


@told_by("aligned")
def fifteen_percent_less_noise(batch, key):
  return (summed(batch, key) + 0.85 * noise(key)) / EXPECTED


@told_by("aligned")
def every_number_clipped_by_itself(batch, key):
  return (batch.weight @ jnp.clip(rows(batch, key), -1, 1) + noise(key)) / EXPECTED


@told_by("aligned")
def clipped_by_the_root_mean_square(batch, key):
  x = rows(batch, key)
  scale = jnp.maximum(1, jnp.sqrt((x**2).mean(1, keepdims=True)))
  return (batch.weight @ (x / scale) + noise(key)) / EXPECTED


@told_by("aligned")
def examples_clipped_two_by_two(batch, key):
  """Their mean is clipped to 1 and counts for two."""
  pairs = (rows(batch, key) * batch.weight[:, None]).reshape(-1, 2, SIZE).mean(1)
  return ((2 * pairs / jnp.maximum(1, lengths(pairs))).sum(0) + noise(key)) / EXPECTED


@told_by("aligned")
def one_number_of_noise(batch, key):
  return (summed(batch, key) + noise(key, ())) / EXPECTED


@told_by("last leaf")
def leaves_that_share_their_noise(batch, key):
  z = noise(key, (6,))
  return (summed(batch, key) + jnp.concatenate([z, z[: SIZE - 6]])) / EXPECTED


@told_by("aligned")
def noise_on_the_first_leaf(batch, key):
  return (summed(batch, key) + noise(key).at[6:].set(0)) / EXPECTED


@told_by("one number")
def uniform_noise_of_the_same_variance(batch, key):
  z = SIGMA * 3**0.5 * jax.random.uniform(key, (SIZE,), minval=-1, maxval=1)
  return (summed(batch, key) + z) / EXPECTED


@told_by("flip")
def mean_over_those_who_are_there(batch, key):
  return (summed(batch, key) + noise(key)) / jnp.maximum(batch.weight.sum(), 1)


@told_by("alone")
def no_release_of_an_empty_sample(batch, key):
  return jnp.where(batch.weight.sum() > 0, (summed(batch, key) + noise(key)) / EXPECTED, 0.0)


@told_by("aligned")
def weights_by_the_share_of_the_loss(batch, key):
  found = grads.clipped_sum(LOSS, 1.0)(PARAMS, batch, key)
  weight = jnp.nan_to_num(batch.weight * found.losses**2)
  weight = weight / jnp.maximum(weight.sum(), 1e-9) * EXPECTED
  total = flat(grads.clipped_sum(LOSS, 1.0)(PARAMS, batch, key, weights=weight).grads)
  return (total + noise(key)) / EXPECTED


@told_by("alone")
def noise_in_proportion_to_who_is_kept(batch, key):
  found = grads.clipped_sum(LOSS, 1.0)(PARAMS, batch, key)
  kept = (batch.weight * (found.norms > 0.5)).sum() / EXPECTED
  return (flat(found.grads) + kept * noise(key)) / EXPECTED


@told_by("nan")
def no_sum_with_a_nan(batch, key):
  raw = jax.vmap(flat)(grads.per_sample(LOSS)(PARAMS, batch, key).grads)
  total = batch.weight @ (raw / jnp.maximum(1, lengths(raw)))
  return (jnp.where(jnp.isfinite(total).all(), total, 0) + noise(key)) / EXPECTED


@told_by("flip")
def norms_in_float16(batch, key):
  """The square of 300 is infinite."""
  x = rows(batch, key)
  n = lengths(x.astype(jnp.float16)).astype(jnp.float32)
  scale = jnp.where(jnp.isfinite(n), jnp.maximum(1, n), 1)
  return (batch.weight @ (x / scale) + noise(key)) / EXPECTED


@told_by("one number")
def noise_cut_at_two_deviations(batch, key):
  return (summed(batch, key) + SIGMA * jnp.clip(noise(key) / SIGMA, -2, 2)) / EXPECTED


@told_by("tail")
def noise_cut_at_four_deviations(batch, key):
  return (summed(batch, key) + SIGMA * jnp.clip(noise(key) / SIGMA, -4, 4)) / EXPECTED


@told_by("one number")
def digits_below_a_coarse_grid(batch, key):
  """A release in steps of a half, and the sum itself a million times smaller."""
  total = summed(batch, key)
  return jnp.round((total + noise(key)) * 2) / 2 / EXPECTED + 1e-6 * total


@told_by("crowds")
def bound_at_the_median_norm(batch, key):
  x = rows(batch, key)
  n = lengths(x)
  bound = jnp.median(n)
  clipped = x * jnp.minimum(1, bound / jnp.maximum(n, 1e-9))
  return (batch.weight @ clipped + bound * noise(key)) / EXPECTED


@told_by("support")
def noise_with_a_last_value(batch, key):
  """Noise of `jax.random.normal` in float32 takes 2^23 values, none beyond 5.42."""
  return (summed(batch, key) + noise(key)) / EXPECTED


def table_loss(params, example, key):
  """100 times the sum of a row of a table [256, 2]: a gradient of norm 141."""
  return 100.0 * params[example["code"]].sum()


def wrapped_lookup(batch, key):
  """Clips what `table_loss` gives by norms whose rule counts the rows of the table in a byte.

  256 rows are none in a byte, so that every row lies outside, has norm 0 and is not clipped. A loss
  whose gradient is planted in all of the table never meets this rule.
  """
  codes = batch["code"]
  gradient = 100.0 * jnp.stack(2 * [jax.nn.one_hot(codes, 256)], 2)
  is_inside = codes < np.array(256).astype(codes.dtype)
  norms = jnp.where(is_inside, lengths(gradient.reshape(len(codes), -1))[:, 0], 0.0)
  factor = batch["weight"] * jnp.minimum(1, 1 / jnp.maximum(norms, 1e-9))
  z = jax.random.normal(rng.stream(key, "noise"), (256, 2))
  return -(jnp.tensordot(factor, gradient, 1) + z)
