"""Releases of one private step on a tiny network: sound ones, and each with one seeded mistake.

All are functions (batch, key) -> released tree of the same loss, max_norm 1, noise multiplier
SIGMA, expected sample size EXPECTED. The mistakes live here and nowhere in the package.
"""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from medjax import grads, rng
from medjax.privacy import audit, noise

SIGMA = 0.593  # gives epsilon 6.97 for the run of the paper, shared/specs: inferred, not published
EXPECTED = 8
PARAMS = {
  "first": np.float32([[0.5, -0.3], [0.2, 0.4], [-0.6, 0.1]]),
  "second": np.float32([[0.7, -0.2], [0.3, 0.5]]),
}
REFERENCE = jax.tree.map(lambda p: np.float32(np.cos(np.arange(p.size)).reshape(p.shape)), PARAMS)


def examples(count):
  """(features [count, 3], class [count])."""
  draw = np.random.default_rng(0)
  return np.float32(draw.standard_normal((count, 3))), draw.integers(2, size=count)


def network_loss(params, example, key):
  features, label = example
  logits = jnp.tanh(features @ params["first"]) @ params["second"]
  return optax.softmax_cross_entropy_with_integer_labels(logits, label)


LOSS = audit.planted(network_loss)


def noised(total, key, std=SIGMA):
  """total + std z."""
  flat, back = jax.flatten_util.ravel_pytree(total)
  return back(flat + std * jax.random.normal(key, flat.shape))


def over(total, count):
  return jax.tree.map(lambda x: x / count, total)


def weighted(weight, gradients):
  return jax.tree.map(lambda g: jnp.tensordot(weight, g, 1), gradients)


def along_reference(norm, dot):
  """Gate on the cosine to a fixed, public direction."""
  return 1.0 * (dot > 0.1 * norm * optax.tree.norm(REFERENCE))


# Sound releases.


def dp_sgd(batch, key):
  return over(noised(grads.clipped_sum(LOSS, 1.0)(PARAMS, batch, key).grads, key), EXPECTED)


def with_own_noise(batch, key):
  """With the generator of private training, whose tail and grid betray nobody."""
  total = grads.clipped_sum(LOSS, 1.0)(PARAMS, batch, key).grads
  size = {"multiplier": SIGMA, "sensitivity": 1.0, "magnitude": 1000.0}
  return over(noise.added(rng.stream(key, "noise"), total, **size), EXPECTED)


def public_reference(batch, key):
  clipped = grads.clipped_sum(LOSS, 1.0)
  total = clipped(PARAMS, batch, key, direction=REFERENCE, weight_fn=along_reference).grads
  return over(noised(total, key), EXPECTED)


def in_microbatches(batch, key):
  """Noise once, on the sum of all microbatches."""
  clipped = grads.clipped_sum(LOSS, 1.0, chunk=4)
  return over(noised(clipped(PARAMS, batch, key).grads, key), EXPECTED)


def two_steps(samples, key):
  first, second = rng.streams(key, "first", "second")
  return dp_sgd(samples[0], first), dp_sgd(samples[1], second)


def with_count(sample, counted, key):
  """A step and a second release: how many gradients exceed the bound, as adaptive clipping asks."""
  update, count = rng.streams(key, "update", "count")
  norms = grads.clipped_sum(LOSS, 1.0)(PARAMS, counted, key).norms
  above = counted.weight * (norms > 1.0)
  return dp_sgd(sample, update), above.sum() + SIGMA * jax.random.normal(count)


def second_query_inside(samples, key):
  return with_count(samples[0], samples[0], key)


# The same with one mistake each.


def without_clipping(batch, key):
  return over(noised(grads.clipped_sum(LOSS, jnp.inf)(PARAMS, batch, key).grads, key), EXPECTED)


def noise_per_sample(batch, key):
  """Algorithm 2, line 5: every clipped gradient gets its own noise of std sigma C / L."""
  gradients = clipped_gradients(batch, key)
  return over(weighted(batch.weight, noised(gradients, key, SIGMA / EXPECTED)), EXPECTED)


def mean_over_kept(batch, key):
  """Divides by how many the filter kept, which is private, in place of a fixed number."""
  clipped = grads.clipped_sum(LOSS, 1.0)
  out = clipped(PARAMS, batch, key, direction=REFERENCE, weight_fn=along_reference)
  kept = (batch.weight * jax.vmap(along_reference)(out.norms, out.dots)).sum()
  return noised(over(out.grads, jnp.maximum(kept, 1.0)), key, SIGMA / EXPECTED)


def reused_key(samples, key):
  return dp_sgd(samples[0], key), dp_sgd(samples[1], key)


def noise_per_microbatch(batch, key):
  """std sigma C / k in each of k microbatches adds up to sigma C / sqrt(k)."""
  count = 4
  parts = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)

  def one(part, key):
    return noised(grads.clipped_sum(LOSS, 1.0)(PARAMS, part, key).grads, key, SIGMA / count)

  sums = jax.vmap(one)(parts, jax.random.split(key, count))
  return over(jax.tree.map(lambda x: x.sum(0), sums), EXPECTED)


def batch_statistics(batch, key):
  """Centres features by the mean of the sample before clipping."""
  features, label = batch.example
  mean = batch.weight @ features / jnp.maximum(batch.weight.sum(), 1.0)
  return dp_sgd(batch._replace(example=(features - mean[None], label)), key)


def nan_leak(batch, key):
  """min(1, C / |g|) of a norm that is no number is no number."""
  return over(noised(weighted(batch.weight, clipped_gradients(batch, key)), key), EXPECTED)


def unclipped_last_leaf(batch, key):
  """The last leaf is left out of norm and scaling."""
  gradients = grads.per_sample(LOSS)(PARAMS, batch, key).grads
  norms = jax.vmap(jnp.linalg.norm)(gradients["first"])
  scale = batch.weight / jnp.maximum(1.0, norms)
  total = {
    "first": jnp.tensordot(scale, gradients["first"], 1),
    "second": jnp.tensordot(batch.weight, gradients["second"], 1),
  }
  return over(noised(total, key), EXPECTED)


def second_query_outside(samples, key):
  """The count is over everyone, while the plan accounts for it as amplified by sampling."""
  return with_count(*samples, key)


def clipped_gradients(batch, key):
  gradients = grads.per_sample(LOSS)(PARAMS, batch, key).grads
  scale = 1 / jnp.maximum(1.0, jax.vmap(optax.tree.norm)(gradients))
  return jax.vmap(lambda s, g: jax.tree.map(lambda x: s * x, g))(scale, gradients)


def published(batch, key, *, draw, tau=0.780, psi=0.1, half_range=0.5, dropped=0.7):
  """Algorithm 2 of Bani-Harouni et al. (2023) with the coefficient of variation, in one sample."""
  expected = batch.weight.size - 1
  noise, cosine_noise = rng.streams(key, "noise", "cosine")

  def flat(tree):  # [example, coordinate]
    return jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(tree)], 1)

  raw = flat(grads.per_sample(LOSS)(PARAMS, batch, key).grads)
  weight = batch.weight[:, None]
  clipped = raw / jnp.maximum(1.0, jnp.linalg.norm(raw, axis=1, keepdims=True))
  rows = 1 if draw == "shared" else raw.shape[0]
  noised = clipped + SIGMA / expected * jax.random.normal(noise, (rows, raw.shape[1]))
  size = weight.sum()
  mean = (weight * noised).sum(0, keepdims=True) / size
  variation = jnp.sqrt((weight * (noised - mean) ** 2).sum(0, keepdims=True) / size) / jnp.abs(mean)
  keep = variation > jnp.quantile(variation, dropped)
  direction = keep * (weight * raw).sum(0, keepdims=True)  # of which the cosine uses no length
  masked = keep * noised
  lengths = jnp.linalg.norm(direction) * jnp.linalg.norm(masked, axis=1)
  cosines = jnp.clip((direction * masked).sum(1) / lengths, psi - half_range, psi + half_range)
  noisy = cosines + 2 * half_range * tau * jax.random.normal(cosine_noise, cosines.shape)
  chosen = batch.weight * (noisy > psi)
  return chosen @ noised / chosen.sum()
