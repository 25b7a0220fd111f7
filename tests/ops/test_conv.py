"""Both implementations of the convolution are one function, and its derivatives too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
