"""Weight gradients in tiles are those of `lax`, in all orders, and only on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads, nets
from medjax.ops import conv, conv_tiles

NUMBERS = ("NHWC", "HWIO", "NHWC")


def _loss(implementation, padding):
  def loss(kernel, images):
    def one(image):
      return conv.conv_general_dilated(
        image[None],
        kernel,
        (1, 1),
        padding,
        dimension_numbers=NUMBERS,
        implementation=implementation,
      )

    return jnp.sum(jnp.sin(jax.vmap(one)(images)))

  return loss


def _data(batch, height, width):
  random = np.random.default_rng(0)
  images = jnp.asarray(random.normal(size=(batch, height, width, 2)), jnp.float32)
  return jnp.asarray(random.normal(size=(3, 3, 2, 3)), jnp.float32), images


def _num_convolutions(function, *arguments, platforms=("cpu",)):
  program = jax.jit(function).trace(*arguments).lower(lowering_platforms=platforms)
  return program.as_text().count("stablehlo.convolution")


@pytest.mark.parametrize(
  ("size", "padding"),
  [
    ((2, 80, 110), "SAME"),  # tiles of one image
    ((19, 24, 25), ((2, 1), (0, 3))),  # more images than tiles: some stand on one another
  ],
)
def test_derivatives_equal_those_of_lax(size, padding, monkeypatch):
  monkeypatch.setattr(conv_tiles, "_FEW_OPERATIONS", 0)  # tiles for small problems, too
  kernel, images = _data(*size)

  def derivatives(implementation):
    by_kernel = jax.grad(_loss(implementation, padding))
    by_image = jax.grad(_loss(implementation, padding), argnums=1)
    mixed = jax.grad(lambda k, x: jnp.sum(by_image(k, x) ** 2))
    return jax.jit(
      lambda k, x: (
        by_kernel(k, x),
        jax.jvp(by_kernel, (k, x), (k, x))[1],  # forward over reverse
        mixed(k, x),  # reverse over reverse
        jax.vmap(by_kernel, (None, 0))(k, x[:, None]),  # of each example
      )
    )

  ours, native = (derivatives(i) for i in ("auto", "native"))
  assert _num_convolutions(ours, kernel, images) > _num_convolutions(native, kernel, images)
  for a, b in zip(ours(kernel, images), native(kernel, images), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_another_device_or_a_mesh_keeps_the_convolution_of_lax():
  kernel, images = _data(2, 80, 110)
  gradients = [jax.grad(_loss(i, "SAME")) for i in ("auto", "native")]
  on_cpu, native = (_num_convolutions(g, kernel, images) for g in gradients)
  assert on_cpu == native + 3  # four tiles: two of each image
  assert _num_convolutions(gradients[0], kernel, images, platforms=("cuda",)) == native
  mesh = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  with jax.sharding.use_abstract_mesh(mesh):
    assert _num_convolutions(gradients[0], kernel, images) == native


def test_many_images_with_few_operations_are_left_to_lax():
  def num(batch, channels):
    x = jnp.zeros((batch, 32, 32, channels))
    kernel = jnp.zeros((3, 3, channels, channels))
    return [_num_convolutions(jax.grad(_loss(i, "SAME")), kernel, x) for i in ("auto", "native")]

  # 2 * 9 * 8 * 32^2 pixels * 32^2 channels are 1.5e8 operations; with 64 channels 6e8
  for (ours, native), is_tiled in ((num(7, 32), True), (num(8, 32), False), (num(8, 64), True)):
    assert (ours > native) == is_tiled


def test_networks_of_medjax_take_the_ghost_path():
  net = nets.UNet(num_outputs=2, widths=(2,), num_convs=1, norm="none")
  images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 24, 24, 1)), jnp.float32)
  params = net.init(jax.random.key(0), images[0])

  def loss(params, image, key):
    return jnp.mean(net.apply(params, image) ** 2)

  explained = grads.explain(loss, params, images[0], jax.random.key(0))
  kernels = [row for row in explained.leaves if "conv" in row.leaf and row.leaf.endswith("kernel")]
  assert kernels and all(row.rule.startswith("convolution") for row in kernels)
  ghost, vmap = (
    grads.clipped_sum(loss, 1e-3, method=method)(params, images, jax.random.key(0))
    for method in ("ghost", "vmap")
  )
  np.testing.assert_allclose(ghost.norms, vmap.norms, rtol=1e-5)
