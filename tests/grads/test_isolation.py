"""Losses that could see other examples are refused by all that promises a result an example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from medjax import grads
from medjax.check import InputError
from medjax.grads.sketch import sketched

KEY = jax.random.key(0)


def by_batch_axis(p, x, key):
  del key
  return jnp.sum((p * x - jax.lax.pmean(x, "batch")) ** 2)


def centred(x):
  return np.asarray(x - np.mean(x), np.float32)


def by_callback(p, x, key):
  del key
  same = jax.ShapeDtypeStruct(x.shape, x.dtype)
  x = jax.pure_callback(centred, same, x, vmap_method="broadcast_all")
  return jnp.vdot(p, x)


@jax.custom_batching.custom_vmap
def centre(x):
  return x


centre.def_vmap(lambda size, is_batched, x: (x - x.mean(0, keepdims=True), True))


def by_batching_rule(p, x, key):
  del key
  return jnp.vdot(p, centre(x))


@jax.custom_vjp
def hidden(p, x):
  return jnp.vdot(p, x)


hidden.defvjp(lambda p, x: (hidden(p, x), x), lambda x, b: (b * centre(x), jnp.zeros_like(x)))


def by_its_derivative(p, x, key):
  del key
  return hidden(p, x)


def by_print(p, x, key):
  del key
  jax.debug.print("{}", x)
  return jnp.vdot(p, x)


def by_branch(p, x, key):
  return jax.lax.cond(x[0] > 0, lambda: by_callback(p, x, key), lambda: 0.0)


def sketch(loss):
  run = sketched(loss, size=2)
  return lambda params, batch, key: run(params, batch, key, key)


def dot(loss):
  run = grads.per_sample_dot(loss)
  return lambda params, batch, key: run(params, batch, key, params)


def explained(loss):
  return lambda params, batch, key: grads.explain(loss, params, batch[0], key)


ENTRIES = {
  "clipped_sum, ghost": functools.partial(grads.clipped_sum, max_norm=1.0, method="ghost"),
  "clipped_sum, vmap": functools.partial(grads.clipped_sum, max_norm=1.0, method="vmap"),
  "clipped_sum, chunks": functools.partial(grads.clipped_sum, max_norm=1.0, chunk=2),
  "per_sample": grads.per_sample,
  "per_sample_dot": dot,
  "sketched": sketch,
  "gramian": grads.gramian,
  "explain": explained,
}
MIXING = [by_batch_axis, by_callback, by_batching_rule, by_its_derivative, by_print, by_branch]


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("loss", MIXING)
def test_losses_that_could_see_other_examples_are_refused(loss, entry):
  with pytest.raises(InputError, match="one example"):
    ENTRIES[entry](loss)(jnp.ones(3), jnp.ones((4, 3)), KEY)


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_ordinary_name_error_stays_one(entry):
  def loss(params, example, key):
    return undefined  # noqa: F821

  with pytest.raises(NameError, match="undefined"):
    ENTRIES[entry](loss)(jnp.ones(2), jnp.ones((3, 2)), KEY)


@pytest.mark.parametrize("check_vma", [False, True])
def test_collectives_over_devices_are_refused(check_vma):
  """Whether or not shard_map keeps count of what differs between devices."""

  def loss(p, x, key):
    del key
    return jnp.vdot(p, x - jax.lax.pmean(x, "data"))

  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  spec = PartitionSpec("data")

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=check_vma
  )
  def run(p, x):
    return grads.clipped_sum(loss, 1.0)(p, x, KEY).norms

  with pytest.raises(InputError, match="mixes examples"):
    jax.make_jaxpr(run)(jnp.ones(3), jnp.ones((4, 3)))


def test_axes_inside_the_loss_are_its_own():
  def loss(p, x, key):
    del key
    return jnp.sum(jax.vmap(lambda v: p * v - jax.lax.pmean(p * v, "k"), axis_name="k")(x) ** 2)

  out = grads.clipped_sum(loss, 1.0)(jnp.float32(2), jnp.array([[1.0, 3], [0, 0]]), KEY)
  np.testing.assert_allclose(out.norms, [8, 0], rtol=1e-6)  # p^2 * 2, derivative 4 p
