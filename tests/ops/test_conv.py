"""All implementations of the convolution are one function, and its derivatives too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check
from medjax.ops import conv

NUMBERS = ("NDHWC", "DHWIO", "NDHWC")


@pytest.mark.parametrize(
  ("strides", "padding", "dilation", "groups", "kernel"),
  [
    ((1, 1, 1), "SAME", (1, 1, 1), 1, (3, 3, 3)),
    ((2, 2, 2), "SAME", (1, 1, 1), 1, (3, 3, 3)),
    ((2, 1, 3), "VALID", (1, 1, 1), 1, (2, 3, 1)),
    ((1, 1, 1), "SAME", (2, 1, 2), 1, (3, 3, 3)),
    ((1, 2, 1), ((2, 0), (1, 1), (0, 3)), (1, 1, 1), 2, (3, 1, 3)),
  ],
)
def test_slices_equal_native(strides, padding, dilation, groups, kernel):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, 7, 8, 6, 4)), jnp.float32)
  w = jnp.asarray(random.normal(size=(*kernel, 4 // groups, 6)), jnp.float32)

  def run(implementation):
    def f(x, w):
      y = conv.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=NUMBERS,
        feature_group_count=groups,
        implementation=implementation,
      )
      return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(x, w)

  (_, ours), ours_gradient = run("slices")
  (_, native), native_gradient = run("native")
  np.testing.assert_allclose(ours, native, atol=1e-4)
  for a, b in zip(ours_gradient, native_gradient, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-3 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
  ("space", "strides", "padding", "dilation", "kernel"),
  [
    ((7, 8), (1, 1), "SAME", (1, 1), (3, 3)),
    ((7, 8), (2, 3), "VALID", (1, 2), (2, 3)),
    ((5, 4, 6), (1, 2, 1), ((2, 0), (1, 1), (0, 3)), (1, 1, 1), (3, 1, 3)),
  ],
)
def test_the_product_equals_native(space, strides, padding, dilation, kernel):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, *space, 4)), jnp.float32)
  w = jnp.asarray(random.normal(size=(*kernel, 4, 3)), jnp.float32)

  def run(implementation):
    def f(x, w):
      letters = "DHW"[-len(space) :]
      numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
      options = {"rhs_dilation": dilation, "dimension_numbers": numbers}
      y = conv.conv_general_dilated(
        x, w, strides, padding, implementation=implementation, **options
      )
      return jnp.sum(jnp.sin(y)), y

    return jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(x, w)

  (_, ours), ours_gradient = run("product")
  (_, native), native_gradient = run("native")
  np.testing.assert_allclose(ours, native, atol=1e-4)
  for a, b in zip(ours_gradient, native_gradient, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(b).max()))


def test_the_product_refuses_groups():
  with pytest.raises(check.InputError, match="one group of channels"):
    conv.conv_general_dilated(
      jnp.zeros((1, 4, 4, 2)),
      jnp.zeros((3, 3, 1, 2)),
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=2,
      implementation="product",
    )


def test_slices_refuse_what_they_cannot_do():
  with pytest.raises(ValueError, match="native"):
    conv.conv_general_dilated(
      jnp.zeros((1, 4, 4, 1)),
      jnp.zeros((3, 3, 1, 1)),
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      implementation="slices",
    )
