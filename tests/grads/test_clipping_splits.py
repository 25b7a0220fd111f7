"""Clipped sums in chunks, in another order, padded, over devices; and what they cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medjax import grads, nets
from medjax.check import InputError
from medjax.types import Batch
from tests.grads.clipping_checks import (
  KEY,
  RandomNet,
  assert_trees_close,
  inner_products,
  normal,
  random_params,
  reference,
)


def classifier(widths=(4, 4, 8, 8)):
  net = nets.from_linen(nets.ResNet9(num_outputs=3, widths=widths, num_groups=2))
  images, labels = normal(1, 6, 16, 16, 2), np.arange(6) % 3

  def loss(params, example, key):
    image = example[0] + 0.1 * jax.random.normal(key, example[0].shape)
    return -jax.nn.log_softmax(net.apply(params, image)[0])[example[1]]

  params, _ = jax.jit(net.init)(jax.random.key(2), images[0])
  return loss, params, (images, labels)


def small():
  """A convolution, a norm and products; the loss draws noise from the key."""
  net, images = RandomNet(("strided", "norm", "dense"), 2), normal(1, 6, 5, 4, 2)

  def loss(params, image, key):
    noise = 0.1 * jax.random.normal(key, image.shape)
    return jnp.sum(jnp.tanh(net.apply({"params": params}, image + noise)) ** 2)

  return loss, random_params(net, images[0]), images


@pytest.mark.parametrize(
  ("network", "chunk"),
  [(small, 4), *(pytest.param(classifier, n, marks=pytest.mark.slow) for n in (None, 4))],
)
def test_chunks_change_the_sum_by_rounding_only(network, chunk):
  """6 examples: the last chunk is padded."""
  loss, params, batch = network()
  norms, want, _ = reference(loss, params, batch)
  out = jax.jit(grads.clipped_sum(loss, 1.0, chunk=chunk))(params, batch, KEY)
  np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
  assert out.losses.shape == (6,)
  assert_trees_close(out.grads, want, 2e-6)


def test_order_and_padding_change_the_sum_by_rounding_only():
  """Keys follow the index of an example, and padding has weight 0 whatever it holds."""

  def loss(params, example, key):
    return jnp.sin(params @ (example.image + jax.random.normal(key, (3,))))

  def batch(rows, weight):
    rows = np.asarray(rows)
    image = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)[rows]
    return Batch(image, rows, rows, rows, rows, np.float32(weight))

  run = jax.jit(grads.clipped_sum(loss, 0.5))
  params = normal(3, 3)
  want = run(params, batch([0, 1, 2], [1, 1, 0.5]), KEY).grads
  got = run(params, batch([4, 2, 0, 1, 3], [0, 0.5, 1, 1, 0]), KEY).grads
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("chunk", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_two_devices_equal_one(chunk):
  loss, params, batch = small()
  _, want, _ = reference(loss, params, batch)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  run = jax.jit(grads.clipped_sum(loss, 1.0, chunk=chunk))
  out = run(params, jax.device_put(batch, rows), KEY)
  assert_trees_close(out.grads, want, 2e-6)


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_gradients_inside_shard_map_are_those_of_its_own_examples(check_vma, method):
  """Also where JAX knows that the parameters are equal everywhere and would sum their gradients."""

  def loss(params, example, key):
    del key
    return jnp.tanh(params["w"] @ example) ** 2 + params["b"] * example[0]

  params = {"w": jnp.array([1.0, -2.0]), "b": jnp.float32(0.5)}
  batch = jnp.array([[3.0, 4.0], [0.3, 0.4], [1.0, 1.0], [-2.0, 0.1]])
  clipped = grads.clipped_sum(loss, 1.0, method=method)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))

  def local(params, batch):
    out = clipped(params, batch, KEY)
    own = grads.per_sample(loss)(params, batch, KEY).grads
    return jax.lax.psum(out.grads, "data"), out.norms, own

  rows, everywhere = PartitionSpec("data"), PartitionSpec()
  run = jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(everywhere, rows),
    out_specs=(everywhere, rows, rows),
    check_vma=check_vma,
  )
  total, norms, own = jax.jit(run)(params, batch)
  want = clipped(params, batch, KEY)
  assert_trees_close(total, want.grads, 2e-6)
  np.testing.assert_allclose(norms, want.norms, rtol=1e-6)
  assert_trees_close(own, grads.per_sample(loss)(params, batch, KEY).grads, 2e-6)


def test_works_inside_shard_map_with_donated_arguments():
  loss, params, batch = small()
  _, want, _ = reference(lambda p, e, k: loss(p, e, KEY), params, batch)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  spec = PartitionSpec("data")

  @functools.partial(jax.jit, donate_argnums=1)
  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(PartitionSpec(), spec),
    out_specs=PartitionSpec(),
    check_vma=False,
  )
  def run(params, batch):
    out = grads.clipped_sum(lambda p, e, k: loss(p, e, KEY), 1.0)(params, batch, KEY)
    return jax.lax.psum(out.grads, "data")

  copy = jax.device_put(batch, NamedSharding(mesh, spec))
  assert_trees_close(run(params, copy), want, 2e-6)


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_products_cost_little_more_than_those_of_a_plain_gradient(is_compiled):
  """Before XLA optimises, and after: 1.09 and 1.10 times as many operations."""
  loss, params, batch = classifier((16, 16, 32, 32))

  def plain(params, batch, key):
    keys = jax.random.split(key, 6)
    return jax.grad(lambda p: jax.vmap(loss, (None, 0, 0))(p, batch, keys).sum())(params)

  def flops(function):
    program = jax.jit(function).lower(params, batch, KEY)
    return (program.compile() if is_compiled else program).cost_analysis()["flops"]

  assert flops(grads.clipped_sum(loss, 1.0)) <= 1.15 * flops(plain)


def test_dots_by_jvp_and_microbatches_of_per_sample():
  net, batch = RandomNet(("norm", "dense"), 2), normal(1, 4, 5, 4, 2)
  params = jax.jit(net.init)(jax.random.key(2), batch[0])["params"]

  def loss(params, image, key):
    return jnp.sum(jnp.tanh(net.apply({"params": params}, image) + jax.random.normal(key, (2,))))

  direction = jax.tree.map(lambda x: normal(x.size, *x.shape), params)
  whole = jax.jit(grads.per_sample(loss))(params, batch, KEY)
  parts = jax.jit(grads.per_sample(loss, microbatch=2))(params, batch, KEY)
  assert_trees_close(parts.grads, jax.tree.map(np.asarray, whole.grads))
  want = inner_products(whole.grads, direction)
  got = jax.jit(grads.per_sample_dot(loss))(params, batch, KEY, direction)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  with pytest.raises(InputError, match="divides"):
    grads.per_sample(loss, microbatch=3)(params, batch, KEY)
