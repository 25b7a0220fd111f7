"""Proven bounds against releases of known sensitivity, mistakes, and what programs really do."""

import functools
import random

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, methods, nets, privacy
from medjax.check import InputError
from medjax.privacy.sensitivity import check_sensitivity
from tests.privacy import claims

KEY = jax.random.key(0)
C = 1.5
PARAMS = {"w": np.ones((3, 5), np.float32), "b": np.zeros(5, np.float32)}
BATCH = {"x": np.ones((4, 3), np.float32), "y": np.zeros((4, 5), np.float32)}
PADDED = BATCH | {"weight": np.ones(4, np.float32)}
GROUPS = {"x": np.ones((4, 6, 3), np.float32), "y": np.zeros((4, 6, 5), np.float32)}


def loss(params, example, key=None):
  guess = jnp.tanh(example["x"] @ params["w"] + params["b"])
  return ((guess - example["y"]) ** 2).sum()


def gradients(batch, params, loss=loss):
  examples = {name: batch[name] for name in ("x", "y")}
  return jax.vmap(jax.grad(loss), (None, 0))(params, examples)


def norms(tree):
  return jax.vmap(optax.tree.norm)(tree)


def along(factors, x):
  return factors.reshape(-1, *[1] * (x.ndim - 1))


def scaled(tree, factors):
  return jax.tree.map(lambda x: x * along(factors, x), tree)


def clipped(batch, params):
  found = gradients(batch, params)
  return scaled(found, jnp.minimum(1.0, C / norms(found)))


def total(tree):
  return jax.tree.map(lambda x: x.sum(0), tree)


def weighted(weight, tree):
  return jax.tree.map(lambda x: jnp.tensordot(weight, x, 1), tree)


def cosines(tree, direction):
  dots = jax.vmap(optax.tree.vdot, (0, None))(tree, direction)
  return dots / (norms(tree) * optax.tree.norm(direction))


def trusted(**options):
  return grads.clipped_sum(loss, C, **options)


ACCEPTED = []
REFUSED = []


def accepted(bound, batch=BATCH, **options):
  return functools.partial(_listed, ACCEPTED, (bound, batch, options))


def refused(message, batch=BATCH, **options):
  return functools.partial(_listed, REFUSED, (message, batch, options))


def _listed(where, facts, release):
  where.append(pytest.param(release, *facts, id=release.__name__))
  return release


# Ways to clip: the factor of a gradient of norm n.
FACTORS = {
  "min": lambda n: jnp.minimum(1.0, C / n),
  "max": lambda n: 1 / jnp.maximum(1.0, n / C),
  "max_inside": lambda n: C / jnp.maximum(n, C),
  "automatic": lambda n: C / (n + 0.01),
  "clamp": lambda n: jnp.clip(C / n, 0.0, 1.0),
  "where": lambda n: jnp.where(n > C, C / n, 1.0),
  "where_not": lambda n: jnp.where(n <= C, 1.0, C / n),
  "rsqrt": lambda n: jnp.minimum(1.0, C * jax.lax.rsqrt(n**2 + 1e-6)),
  "power": lambda n: C * (n**2 + 1e-6) ** -0.5,
  "nan_to_num": lambda n: jnp.nan_to_num(jnp.minimum(1.0, C / n)),
  "soft": lambda n: C / n * jnp.tanh(n),
}


@pytest.mark.parametrize("name", FACTORS)
def test_usual_factors_bound_all_leaves_together(name):
  def release(batch, params):
    found = gradients(batch, params)
    return total(scaled(found, FACTORS[name](norms(found))))

  assert check_sensitivity(release, BATCH, PARAMS).l2 == pytest.approx(2 * C)


WRONG_FACTORS = {
  "larger": lambda n: jnp.maximum(1.0, C / n),
  "other side": lambda n: jnp.where(n > C, 1.0, C / n),
  "norm squared": lambda n: jnp.minimum(1.0, C / n**2),
  "negative": lambda n: jnp.minimum(-n, C / n),
  "negative floor": lambda n: C / (n + -0.01),
  "root of norm": lambda n: C * (n + 1e-6) ** -0.25,
  "two sides": lambda n: jnp.minimum(1.0, C / n) - n,
  "of some": lambda n: jnp.where(n > C, jnp.where(n > 2 * C, 1.0, C / n), 1.0),
  "private bound": lambda n: jnp.minimum(1.0, (C + n) / n) + n,
}


@pytest.mark.parametrize("name", WRONG_FACTORS)
def test_other_factors_bound_nothing(name):
  def release(batch, params):
    found = gradients(batch, params)
    return total(scaled(found, WRONG_FACTORS[name](norms(found))))

  with pytest.raises(InputError, match=r"unbounded rows.*test_sensitivity.py"):
    check_sensitivity(release, BATCH, PARAMS)


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


def augmented(batch):
  wide = {name: jnp.repeat(x, 3, 0) for name, x in batch.items()}
  return wide | {"x": wide["x"] + jax.random.normal(KEY, wide["x"].shape)}


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


@pytest.mark.parametrize(("release", "bound", "batch", "options"), ACCEPTED)
def test_sound_releases_have_their_bound(release, bound, batch, options):
  found = check_sensitivity(release, batch, PARAMS, **options)
  terms = 1 if "weight" in batch or options.get("allow_coupled") else 2
  assert found.l2 == pytest.approx(terms * bound)
  assert found.relation.startswith("add or remove" if "weight" in batch else "replace")


COUPLED = "lets rows of single examples depend on a sum"


@refused(COUPLED, PADDED)
def algorithm_1(batch, params):
  """Bani-Harouni et al. (2023), shared draw of noise."""
  raw = gradients(batch, params)
  direction = jax.tree.map(lambda x: x.mean(0), raw)  # line 3
  noise = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), params)
  noised = jax.tree.map(lambda x, z: x + z[None] / 64, clipped(batch, params), noise)  # lines 4, 5
  found = jnp.clip(cosines(noised, direction), -0.1, 0.3)  # lines 6, 7
  found = found + 0.4 * jax.random.normal(jax.random.key(1), found.shape)  # line 8
  keep = (found > 0.1) * batch["weight"]
  return jax.tree.map(lambda x: x / keep.sum(), weighted(keep, noised))  # line 10


@refused(COUPLED, PADDED)
def algorithm_2(batch, params):
  """With the coefficient of variation, a fixed denominator and no noise on what it compares."""
  raw, rows = gradients(batch, params), clipped(batch, params)
  variation = jax.tree.map(lambda x: x.std(0) / jnp.abs(x.mean(0)), rows)
  kept = jax.tree.map(lambda v: v > jnp.percentile(v, 70), variation)
  masked = jax.tree.map(lambda x, keep: x * keep[None], rows, kept)
  direction = jax.tree.map(jnp.multiply, total(raw), kept)
  return weighted((cosines(masked, direction) > 0.1) * batch["weight"], rows)


@refused("divides by a sum over the batch", PADDED)
def mean_over_a_private_number(batch, params):
  count = batch["weight"].sum()
  return jax.tree.map(lambda x: x / count, weighted(batch["weight"], clipped(batch, params)))


@refused("divides by a sum over the batch", PADDED)
def mean_over_kept(batch, params):
  rows = clipped(batch, params)
  keep = (norms(rows) > 0.5) * batch["weight"]
  return jax.tree.map(lambda x: x / keep.sum(), weighted(keep, rows))


@refused("depend on a sum over the batch")
def batch_normalised(batch, params):
  centred = batch["x"] - batch["x"].mean(0, keepdims=True)
  return total(clipped(batch | {"x": centred}, params))


@refused("unbounded rows")
def unclipped_leaf(batch, params):
  found = gradients(batch, params)
  return {"w": clipped(batch, params)["w"].sum(0), "b": found["b"].sum(0)}


@refused("unbounded rows")
def norm_of_one_leaf(batch, params):
  found = gradients(batch, params)
  return total(scaled(found, jnp.minimum(1, C / jnp.linalg.norm(found["b"], axis=1))))


@refused("unbounded rows")
def norm_of_other_gradients(batch, params):
  others = gradients(batch | {"x": batch["x"] / 2}, params)
  return total(scaled(gradients(batch, params), jnp.minimum(1, C / norms(others))))


@refused("not linear in a sum", PADDED)
def sum_before_clip(batch, params):
  return optax.clip_by_global_norm(C).update(total(gradients(batch, params)), None)[0]


@refused("max over examples")
def maximum(batch, params):
  return jax.tree.map(lambda x: x.max(0), clipped(batch, params))


@refused("sort over examples", PADDED)
def trimmed(batch, params):
  order = jnp.argsort(norms(clipped(batch, params)))
  return total(clipped({name: x[order] for name, x in batch.items()}, params))


@refused("cumsum over examples")
def running_sum(batch, params):
  return jnp.cumsum(clipped(batch, params)["w"], 0)[-1]


@refused("max over examples")
def softmax_over_examples(batch, params):
  rows = clipped(batch, params)
  return weighted(jax.nn.softmax(norms(rows)), rows)


@refused("rows of different examples", PADDED)
def factors_of_neighbours(batch, params):
  found = gradients(batch, params)
  return total(scaled(found, jnp.roll(jnp.minimum(1, C / norms(found)), 1)))


@refused("different examples in a convolution", PADDED)
def examples_as_channels(batch, params):
  image, kernel = batch["x"].T[None], jnp.ones((2, 4, 4))
  mixed = jax.lax.conv_general_dilated(
    image, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
  )
  return jnp.tanh(mixed).sum()


@refused("unbounded rows")
def factors_of_other_augmentations(batch, params):
  found = gradients(augmented(batch), params)
  factors = jnp.minimum(1, C / norms(found)).reshape(-1, 3)
  return total(scaled(found, factors[:, ::-1].reshape(-1)))


@refused("rows of different examples")
def kernel_matrix(batch, params):
  return jnp.tanh(batch["x"] @ batch["x"].T).sum()


@refused("one row an example")
def losses_released(batch, params):
  return trusted()(params, batch, KEY).losses


@refused("rows of weight 0 that count", PADDED)
def padding_counted(batch, params):
  return total(clipped(batch, params))


@refused("private values to all examples of clipped_sum")
def reference_from_the_batch(batch, params):
  return (
    trusted()(
      params, batch, KEY, direction=total(gradients(batch, params)), weight_fn=lambda n, d: d / n
    )
  ).grads


@refused("private values to all examples of clipped_sum", PADDED)
def loss_that_closes_over_the_batch(batch, params):
  mean = batch["x"].mean()
  shifted = lambda p, e, k: loss(p, e | {"x": e["x"] - mean})  # noqa: E731
  return grads.clipped_sum(shifted, C)(params, batch, KEY).grads


@refused("max over examples")
def weights_from_the_batch(batch, params):
  found = norms(gradients(batch, params))
  return trusted()(params, batch, KEY, weights=found / found.max()).grads


@refused("unknown size")
def weights_without_bound(batch, params):
  return trusted()(params, batch, KEY, weights=batch["x"][:, 0]).grads


@refused("max_norm that is not known")
def bound_without_number(batch, params):
  return grads.clipped_sum(loss, params["b"][0])(params, batch, KEY).grads


@refused("changed by vmap", GROUPS)
def clipped_sum_of_every_group(batch, params):
  parts = jax.vmap(lambda part: trusted()(params, part, KEY).grads)(batch)
  return total(parts)


@refused("without side effects")
def printed(batch, params):
  jax.debug.print("{}", batch["x"].sum())
  return total(clipped(batch, params))


@refused("private values say|not linear")
def loop_until_private(batch, params):
  def go_on(value):
    return value.sum() < batch["x"].sum()

  return jax.lax.while_loop(go_on, lambda value: value + 1, jnp.zeros(()))


@refused("branches by private|not linear")
def branch_by_private(batch, params):
  return jax.lax.cond(batch["x"].sum() > 0, lambda: 1.0, lambda: 0.0)


@refused("not linear in a sum")
def square_of_a_sum(batch, params):
  return clipped(batch, params)["w"].sum(0) ** 2


@refused("does not know")
def unknown_operation(batch, params):
  return jnp.clip(jax.lax.approx_max_k(clipped(batch, params)["b"], 1)[0], -1, 1).sum(0)


@refused("max_norm that is not known")
def bound_that_may_be_negative(batch, params):
  limit = jnp.minimum(params["b"][0], 1.0)
  return grads.clipped_sum(loss, limit)(params, batch, KEY).grads


@refused("may wrap around")
def sum_of_integers(batch, params):
  return jnp.clip(batch["x"], -(2.0**29), 2.0**29).astype(jnp.int32).sum(0)


@refused("overflow")
def half_precision_sum(batch, params):
  return jax.lax.reduce_sum(jnp.clip(batch["x"], -6e4, 6e4).astype(jnp.float16), (0,))


@refused("not linear in a sum")
def half_precision_result(batch, params):
  return total(clipped(batch, params))["b"].astype(jnp.float16)


@refused("does not know|not linear")
def fewer_bits(batch, params):
  return jax.lax.reduce_precision(total(clipped(batch, params))["b"], 2, 2)


@refused("unknown size")
def scaled_by_the_largest_of_nothing(batch, params):
  return total(clipped(batch, params))["b"] * jax.lax.reduce_max(jnp.zeros((0, 3)), (0,))[0]


@refused("places that are not known", PADDED)
def rows_read_at_private_places(batch, params):
  place = jnp.argsort(batch["weight"][:, None] * batch["x"])[:, 0]
  return total(clipped({name: batch[name][place] for name in ("x", "y")}, params))


@refused("rows of different examples", PADDED)
def histogram_of_labels(batch, params):
  label = batch["y"][:, 0].astype(jnp.int32)
  return jnp.zeros(9).at[label].add(jnp.tanh(batch["x"][:, 0]))


@refused("rows of different examples|not known", PADDED)
def buffer_written_in_turn(batch, params):
  rows = clipped(batch, params)["b"]
  write = lambda i, kept: jax.lax.dynamic_update_slice_in_dim(kept, rows[:1] + kept[-1:], i, 0)  # noqa: E731
  return jax.lax.fori_loop(0, 4, write, rows).sum(0)


@refused("rows of different examples|another", PADDED)
def carried_from_row_to_row(batch, params):
  step = lambda last, row: (jnp.tanh(last + row), last * row)  # noqa: E731
  return jax.lax.scan(step, jnp.zeros(5), clipped(batch, params)["b"])[1].sum(0)


@refused("unbounded rows")
def derivative_that_is_not_one(batch, params):
  @jax.custom_jvp
  def same(x):
    return x

  same.defjvp(lambda primals, tangents: (primals[0], 1e6 * tangents[0] * primals[0]))
  rows = clipped(batch, params)["b"]
  return jax.vmap(jax.grad(lambda x: same(x).sum()))(rows * gradients(batch, params)["b"]).sum(0)


@refused("does not know", PADDED)
def sum_over_devices(batch, params):
  mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
  where = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()
  add = lambda x: jax.lax.psum(x.sum(0), "d")  # noqa: E731
  mapped = jax.shard_map(add, mesh=mesh, in_specs=where[:1], out_specs=where[1])
  return mapped(clipped(batch, params)["b"])


@refused("changed by|not single|private values to all")
def tangent_of_clipped_sum(batch, params):
  run = lambda p: trusted()(p, batch, KEY).grads  # noqa: E731
  return jax.jvp(run, (params,), (params,))[1]


@refused("changed by|unbounded|not known|does not know|not linear")
def gradient_through_clipped_sum(batch, params):
  run = lambda p: optax.tree.norm(trusted()(p, batch, KEY).grads)  # noqa: E731
  return jax.grad(run)(params)


@pytest.mark.parametrize(("release", "message", "batch", "options"), REFUSED)
def test_unsound_releases_are_refused(release, message, batch, options):
  with pytest.raises(InputError, match=message):
    check_sensitivity(release, batch, PARAMS, **options)


def test_the_error_names_output_operation_line_and_remedy():
  with pytest.raises(InputError) as error:
    check_sensitivity(mean_over_kept, PADDED, PARAMS)
  for part in ("['b']", "div -> f32[5]", "test_sensitivity.py:", "mean_over_kept", "public const"):
    assert part in str(error.value)


def noisy(batch, params, scale, keys):
  leaves, tree = jax.tree.flatten(total(clipped(batch, params)))
  drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
  return tree.unflatten([(x + scale * z) / 8 for x, z in zip(leaves, drawn, strict=True)])


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


def guarded(batch, params, guard):
  rows, n = clipped(batch, params), norms(gradients(batch, params))
  if guard == "norm":
    return total(jax.tree.map(lambda x: jnp.where(along(jnp.isfinite(n), x), x, 0), rows))
  found = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), gradients(batch, params))
  return total(scaled(found, jnp.minimum(1, C / norms(found))))


def test_a_guard_on_other_rows_of_an_example_leaves_the_assumption():
  def release(batch, params):
    rows, n = clipped(augmented(batch), params), norms(gradients(augmented(batch), params))
    n = n.reshape(-1, 3)[:, ::-1].reshape(-1)
    return total(jax.tree.map(lambda x: jnp.where(along(jnp.isfinite(n), x), x, 0), rows))

  assert check_sensitivity(release, BATCH, PARAMS).assumptions


@pytest.mark.parametrize("guard", ["norm", "elements"])
def test_a_guard_against_numbers_that_are_not_finite_leaves_no_assumption(guard):
  release = functools.partial(guarded, guard=guard)
  assert check_sensitivity(release, BATCH, PARAMS, require_finite=True).assumptions == ()
  huge = BATCH | {"y": np.float32([[1] * 5, [np.nan] * 5, [np.inf] * 5, [1e30] * 5])}
  without = {name: x[:1] for name, x in BATCH.items()}
  run = jax.jit(release)
  moved = optax.tree.norm(optax.tree.sub(run(huge, PARAMS), run(without, PARAMS)))
  assert moved <= 5 * C * (1 + 1e-5)


def test_clipping_without_a_guard_rests_on_an_assumption_that_is_named():
  release = lambda batch, params: total(clipped(batch, params))  # noqa: E731
  found = check_sensitivity(release, BATCH, PARAMS)
  assert any("test_sensitivity.py" in where for where in found.assumptions)
  with pytest.raises(InputError, match="finite"):
    check_sensitivity(release, BATCH, PARAMS, require_finite=True)


def test_a_coupled_vector_is_refused_unless_asked_for():
  with pytest.raises(InputError, match="depend on a sum"):
    check_sensitivity(repaired_cosines, PADDED, PARAMS)


def test_a_network_by_hand_has_one_joint_bound():
  model = nets.UNet(2, widths=(2, 4), norm="group", downsample="conv", upsample="transpose")
  image = jax.ShapeDtypeStruct((3, 4, 4, 1), jnp.float32)
  params = jax.eval_shape(lambda: model.init(KEY, jnp.zeros(image.shape[1:])))

  def release(images, params):
    found = jax.vmap(jax.grad(lambda p, x: (model.apply(p, x) ** 2).sum()), (None, 0))(
      params, images
    )
    return total(scaled(found, jnp.minimum(1, C / norms(found))))

  assert check_sensitivity(release, image, params).l2 == pytest.approx(2 * C)


def test_it_prints_the_steps_of_the_proof():
  text = str(check_sensitivity(clipped_sum, BATCH, PARAMS))
  assert text.startswith("replace one example: L2 at most 3\n")
  assert "clipped_sum, at most 1.5: jit -> f32[5] at" in text


def test_a_batch_of_one_example_or_uneven_leaves_is_refused():
  for batch in (np.ones((1, 3)), {"a": np.ones((2, 3)), "b": np.ones((3, 3))}):
    with pytest.raises(InputError, match="two or more examples"):
      check_sensitivity(lambda batch: 0.0, batch)


@pytest.mark.parametrize("seed", range(6))
def test_every_claim_on_intermediate_values_holds_in_numbers(seed):
  """Owners, intervals, norms and relations between them, on random programs."""
  claims.check(claims.program(random.Random(seed)), seed)


def test_accepted_random_releases_move_by_no_more_than_their_bound():
  count, tightest = 0, 0.0
  for seed in range(20):
    ratio = claims.largest_move(claims.program(random.Random(seed), ends=True), seed)
    count += ratio is not None
    tightest = max(tightest, ratio or 0.0)
  assert count >= 5
  assert 0.99 < tightest < 1 + 1e-5
