"""Releases with a mistake, each refused by the operation that breaks the proof."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads
from medjax.check import InputError
from medjax.privacy import check_sensitivity
from medjax.privacy.sensitivity import hidden
from tests.privacy.sensitivity.releases import (
  BATCH,
  GROUPS,
  KEY,
  PADDED,
  PARAMS,
  C,
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


def refused(message, batch=BATCH, **options):
  """Lists a release as a case."""

  def listed(release):
    CASES.append(pytest.param(release, message, batch, options, id=release.__name__))
    return release

  return listed


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


@refused("rounds a sum over the batch to float16")
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


def at_most_one(rows, n):
  return (rows / jnp.maximum(1.0, n)[:, None]).sum(0)


@refused("unbounded rows")
def norm_in_bfloat16(batch, params):
  return at_most_one(batch["x"], jnp.linalg.norm(batch["x"].astype(jnp.bfloat16), axis=1))


@refused("unbounded rows")
def norm_through_a_type_that_saturates(batch, params):
  """float4_e2m1fn ends at 6: a row of norm 1e18 would be divided by 6."""
  n = jnp.linalg.norm(batch["x"], axis=1)
  return at_most_one(batch["x"], n.astype(jnp.float4_e2m1fn).astype(jnp.float32))


@refused("unbounded rows")
def clipped_rows_in_a_type_of_two_digits(batch, params):
  rows = batch["x"] / jnp.maximum(1.0, jnp.linalg.norm(batch["x"], axis=1, keepdims=True))
  return rows.astype(jnp.float4_e2m1fn).astype(jnp.float32).sum(0)


@refused("sums bfloat16 over the batch")
def sum_that_stops_growing(batch, params):
  """In bfloat16 256 + 1 is 256."""
  return jax.lax.reduce_sum(jnp.clip(batch["x"], -1, 1).astype(jnp.bfloat16), (0,))


@refused("rounds a sum over the batch to bfloat16")
def sum_rounded_before_its_noise(batch, params):
  return total(clipped(batch, params))["b"].astype(jnp.bfloat16)


@refused("unbounded rows")
def norm_whose_squares_vanish(batch, params):
  """The squares of numbers below 1e-19 are 0 in float32, so that nothing of them is clipped."""
  n = jnp.linalg.norm(batch["x"], axis=1, keepdims=True)
  return (batch["x"] * jnp.minimum(1.0, 1e-20 / n)).sum(0)


def seen_by_the_host(values):
  return np.float32(0.0)


def shown(value, method):
  empty = jax.ShapeDtypeStruct((), jnp.float32)
  value = jax.lax.stop_gradient(value)
  return jax.pure_callback(seen_by_the_host, empty, value, vmap_method=method)


@refused("pure_callback|callback")
def loss_that_asks_the_host(batch, params):
  def loss_(p, example, key):
    return loss(p, example) + shown(example["x"], "sequential")

  return grads.clipped_sum(loss_, C)(params, batch, KEY).grads


@refused("callback")
def loss_that_asks_the_host_for_all_examples(batch, params):
  def loss_(p, example, key):
    return loss(p, example) + shown(example["x"], "expand_dims")

  return grads.clipped_sum(loss_, C)(params, batch, KEY).grads


@refused("side effects", allow_coupled=True)
def callback_in_a_branch(batch, params):
  tell = lambda x: shown(x, "sequential")  # noqa: E731
  return jnp.tanh(jax.lax.cond(batch["x"].sum() > 0, tell, lambda x: 0.0, batch["x"].sum()))


@refused("mixes examples")
def loss_with_the_mean_over_devices(batch, params):
  mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

  def loss_(p, example, key):
    return loss(p, example | {"x": example["x"] - jax.lax.pmean(example["x"], "d")})

  def local(p, batch):
    return jax.lax.psum(grads.clipped_sum(loss_, C)(p, batch, KEY).grads, "d")

  there, everywhere = jax.sharding.PartitionSpec("d"), jax.sharding.PartitionSpec()
  specs = {"in_specs": (everywhere, there), "out_specs": everywhere, "check_vma": False}
  return jax.shard_map(local, mesh=mesh, **specs)(params, batch)


@pytest.mark.parametrize(("release", "message", "batch", "options"), CASES)
def test_unsound_releases_are_refused(release, message, batch, options):
  with pytest.raises(InputError, match=message):
    check_sensitivity(release, batch, PARAMS, **options)


NAMED = {
  "mean": lambda x: jax.lax.pmean(x, "d"),
  "maximum": lambda x: jax.lax.pmax(x, "d"),
  "others": lambda x: jax.lax.all_gather(x, "d"),
  "neighbour": lambda x: jax.lax.ppermute(x, "d", [(0, 1), (1, 0)]),
  "place": lambda x: jax.lax.axis_index("d") * x,
  "inside of a loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jax.lax.psum(y, "d"), x),
}


@pytest.mark.parametrize("name", NAMED)
def test_operations_over_an_axis_of_devices_are_seen_in_a_loss(name):
  program = jax.make_jaxpr(NAMED[name], axis_env=[("d", 2)])(jnp.ones(3))
  assert hidden.mixing(program) is not None
  assert hidden.mixing(jax.make_jaxpr(jnp.tanh)(jnp.ones(3))) is None
