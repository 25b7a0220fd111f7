"""Sound releases of known sensitivity."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
import pytest

from medjax import grads
from medjax.privacy import check_sensitivity
from tests.privacy.sensitivity.releases import (
  BATCH,
  GROUPS,
  KEY,
  PADDED,
  PARAMS,
  C,
  along,
  augmented,
  clipped,
  cosines,
  gradients,
  loss,
  norms,
  scaled,
  total,
  trusted,
  weighted,
)

CASES = []


def accepted(bound, batch=BATCH, **options):
  """Lists a release as a case."""

  def listed(release):
    CASES.append(pytest.param(release, bound, batch, options, id=release.__name__))
    return release

  return listed


@accepted(C)
def divided(batch, params):
  found = gradients(batch, params)
  return jax.tree.map(lambda x: (x / along(jnp.maximum(1.0, norms(found) / C), x)).sum(0), found)


@accepted(C)
def chosen(batch, params):
  found, n = gradients(batch, params), norms(gradients(batch, params))
  return total(jax.tree.map(lambda x: jnp.where(along(n > C, x), x / along(n, x) * C, x), found))


@accepted(C)
def optax_transformation(batch, params):
  clip = optax.clip_by_global_norm(C)
  return total(jax.vmap(lambda g: clip.update(g, clip.init(g))[0])(gradients(batch, params)))


@accepted(C * 2**0.5)
def optax_per_leaf(batch, params):
  found = gradients(batch, params)
  return jax.tree.map(lambda x: optax.per_example_global_norm_clip([x], C)[0][0], found)


@accepted(C)
def flattened_and_restored(batch, params):
  _, back = jax.flatten_util.ravel_pytree(params)

  def one(example):
    flat, _ = jax.flatten_util.ravel_pytree(jax.grad(loss)(params, example))
    return back(flat * jnp.minimum(1, C / jnp.linalg.norm(flat)))

  return total(jax.vmap(one)(batch))


@accepted(15**0.5 * 0.1)
def elementwise(batch, params):
  return jnp.clip(gradients(batch, params)["w"], -0.1, 0.1).sum(0)


@accepted(C / 16, PADDED)
def padded(batch, params):
  rows = clipped(batch, params)
  is_real = batch["weight"] > 0
  return jax.tree.map(lambda x: jnp.where(along(is_real, x), x, 0).sum(0) / 16, rows)


@accepted(2 * C, PADDED, max_weight=2.0)
def weights_up_to_two(batch, params):
  return weighted(batch["weight"], clipped(batch, params))


@accepted((C**2 + 0.5**2) ** 0.5)
def public_filter_with_count(batch, params):
  rows = clipped(batch, params)
  keep = (cosines(rows, params) > 0.1).astype(jnp.float32)
  return weighted(keep, rows), 0.5 * keep.sum()


@accepted(C)
def soft_filter(batch, params):
  rows = clipped(batch, params)
  return weighted(jax.nn.sigmoid((cosines(rows, params) - 0.1) / 0.2), rows)


@accepted(C)
def clipped_sum(batch, params):
  return trusted()(params, batch, KEY).grads


@accepted(C / 4)
def mean_over_a_public_number(batch, params):
  return jax.tree.map(lambda x: x.mean(0), clipped(batch, params))


@accepted(C)
def half_of_the_batch(batch, params):
  return total(clipped({name: x[:2] for name, x in batch.items()}, params))


@accepted(C * 2**0.5)
def clipped_sum_per_leaf(batch, params):
  return trusted(clip="per_leaf", method="vmap")(params, batch, KEY).grads


@accepted(C)
def clipped_sum_automatic(batch, params):
  return trusted(clip="automatic")(params, batch, KEY).grads


@accepted(5**0.5)
def clipped_sum_in_groups(batch, params):
  bounds = {"weights": 1.0, "rest": 2.0}
  by_name = grads.clipped_sum(loss, bounds, clip=lambda p: "weights" if p == "w" else "rest")
  return by_name(params, batch, KEY).grads


@accepted(C, PADDED)
def clipped_sum_in_chunks(batch, params):
  return trusted(chunk=2)(params, batch, KEY).grads


@accepted(C / 2)
def clipped_sum_with_weights(batch, params):
  weights = 0.5 * jax.nn.sigmoid(batch["x"][:, 0])
  return trusted()(params, batch, KEY, weights=weights).grads


@accepted(C, PADDED)
def clipped_sum_with_filter(batch, params):
  limit = params["b"][0]
  gate = lambda norm, dot: jax.nn.sigmoid(dot / norm - limit)  # noqa: E731
  return trusted()(params, batch, KEY, direction=params, weight_fn=gate).grads


@accepted(C)
def clipped_sum_with_a_bound_from_jit(batch, params):
  @jax.jit
  def inner(max_norm):
    return grads.clipped_sum(loss, max_norm)(params, batch, KEY).grads

  return inner(C)


@accepted(C)
def scan_over_chunks(batch, params):
  parts = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), batch)

  def add(acc, part):
    return jax.tree.map(jnp.add, acc, total(clipped(part, params))), None

  return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)[0]


@accepted(C, PADDED)
def python_loop_over_chunks(batch, params):
  parts = [{name: x[i : i + 2] for name, x in batch.items()} for i in (0, 2)]
  first, second = (trusted()(params, part, KEY).grads for part in parts)
  return jax.tree.map(jnp.add, first, second)


@accepted(C)
def fori_loop_over_chunks(batch, params):
  def add(i, acc):
    part = {name: jax.lax.dynamic_slice_in_dim(x, 2 * i, 2) for name, x in batch.items()}
    return jax.tree.map(jnp.add, acc, trusted()(params, part, KEY).grads)

  start = jax.tree.map(jnp.zeros_like, params)
  return jax.lax.fori_loop(0, len(batch["x"]) // 2, add, start)


@accepted(C, GROUPS)
def mean_over_a_group(batch, params):
  def of_group(params, members):
    return jax.vmap(loss, (None, 0))(params, members).mean()

  found = gradients(batch, params, of_group)
  return total(scaled(found, jnp.minimum(1, C / norms(found))))


@accepted(C)
def mean_over_augmentations(batch, params):
  found = gradients(augmented(batch), params)
  found = jax.tree.map(lambda x: x.reshape(-1, 3, *x.shape[1:]).mean(1), found)
  return total(scaled(found, jnp.minimum(1, C / norms(found))))


@accepted(3 * C)
def each_augmentation_clipped(batch, params):
  return total(clipped(augmented(batch), params))


@accepted(3 * C)
def sums_added(batch, params):
  once, twice = total(clipped(batch, params)), trusted()(params, batch, KEY).grads
  return jax.tree.map(lambda a, b: a + 2 * b, once, twice)


@accepted(C / 2)
def coordinates_divided_by_two_to_six(batch, params):
  return total(clipped(batch, params))["b"] / jnp.arange(2.0, 7.0)


@accepted(2 * C)
def clipped_rows_added(batch, params):
  first, second = clipped(batch, params), clipped(batch | {"x": 2 * batch["x"]}, params)
  return total(jax.tree.map(jnp.add, first, second))["w"]


@accepted(2**0.5 * C)
def elements_of_either(batch, params):
  first, second = clipped(batch, params), clipped(batch | {"x": 2 * batch["x"]}, params)
  return jnp.where(first["w"] > 0, first["w"], second["w"]).sum(0)


@accepted(0.6, PADDED, allow_coupled=True)
def repaired_cosines(batch, params):
  found = gradients(batch, params)
  vector = jnp.clip(cosines(found, total(found)), -0.2, 0.4) - 0.1
  return vector * jnp.minimum(1, 0.3 / jnp.linalg.norm(vector))


@accepted(C)
def rematerialised_recurrence(batch, params):
  @jax.checkpoint
  def recurrent(params, example):
    step = lambda h, _: (jnp.tanh(h @ params["w"].T @ params["w"]), h)  # noqa: E731
    last, states = jax.lax.scan(step, example["y"], None, length=70)
    return (last**2).sum() + states.sum()

  found = gradients(batch, params, recurrent)
  return total(scaled(found, jnp.minimum(1, C / norms(found))))


@accepted(C)
def dropout(batch, params):
  keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(len(batch["x"])))

  def dropped(params, example, key):
    return loss(params, example | {"x": example["x"] * jax.random.bernoulli(key, 0.5, (3,))})

  found = jax.vmap(jax.grad(dropped), (None, 0, 0))(params, batch, keys)
  return total(scaled(found, jnp.minimum(1, C / norms(found))))


@pytest.mark.parametrize(("release", "bound", "batch", "options"), CASES)
def test_sound_releases_have_their_bound(release, bound, batch, options):
  found = check_sensitivity(release, batch, PARAMS, **options)
  terms = 1 if "weight" in batch or options.get("allow_coupled") else 2
  assert found.l2 == pytest.approx(terms * bound)
  assert found.relation.startswith("add or remove" if "weight" in batch else "replace")
