"""The residual U-Net has the released code's parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import nets, tree
from medjax.check import InputError
from medjax.nets.residual_unet import Encoder, ResidualUNet

KEY = jax.random.key(0)
IMAGE = jax.random.normal(KEY, (16, 12, 1))
SMALL = nets.from_linen(ResidualUNet(widths=(4, 8, 16), dropout=0.0))


def test_it_has_as_many_parameters_as_counted_by_hand():
  # In units of n^2, n = 32, 27 for each 3^3 kernel. Down: 2 of n n and n (cin = 1); levels 2n, 4n,
  # 8n: a strided kernel and one shared kernel each; one way up. Then 1^3: 4n 4n; up 8n 8n, 8n 4n
  # (1^3), 4n 2n; 4n 4n, 4n 2n (1^3), 2n n; 2n 2n; heads 2n and 4n.
  n = 32
  encoder = 27 * n + 27 * n * n * (2 + (2 + 4) + (8 + 16) + (32 + 64) + 32)
  decoder = n * n * (16 + 27 * 64 + 32 + 27 * 8 + 27 * 16 + 8 + 27 * 2 + 27 * 4) + 6 * n
  shapes = jax.eval_shape(
    lambda: nets.from_linen(ResidualUNet()).init(KEY, jnp.zeros((16, 16, 16, 1)))[0]
  )
  assert tree.size(shapes["encoder"]) == encoder
  assert tree.size(shapes["decoder"]) == decoder
  assert tree.size(shapes) == 7_080_992


def test_no_convolution_has_a_bias_and_no_norm_has_parameters():
  params, state = jax.eval_shape(SMALL.init, KEY, IMAGE)
  names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)}
  assert names == {"kernel"} and state == {}


@pytest.mark.parametrize("shape", [(16, 12), (15, 10), (8, 8, 8), (9, 8, 10)])
def test_logits_lie_on_the_grid_of_the_image(shape):
  image = jnp.zeros((*shape, 2))
  params, _ = jax.eval_shape(SMALL.init, KEY, image)
  assert jax.eval_shape(lambda p: SMALL.apply(p, image)[0], params).shape == (*shape, 1)


def test_the_first_skip_knows_the_scale_of_the_image_and_the_others_do_not():
  # Without norm before level 1's skip, doubling the image doubles that skip; levels below see only
  # what a norm has scaled. So the encoder's way down is scale-free and its first skip is linear.
  encoder: Any = Encoder((4, 8, 16), None, "auto", False, dropout=0.0)
  params = jax.jit(lambda: encoder.init(KEY, IMAGE[None], False))()
  apply = jax.jit(lambda x: encoder.apply(params, x, False))
  (x, skips), (x2, skips2) = (apply(s * IMAGE[None]) for s in (50.0, 100.0))
  np.testing.assert_allclose(skips2[0], 2 * skips[0], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(skips2[1], skips[1], rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(x2, x, rtol=1e-3, atol=1e-3)


def test_one_kernel_serves_both_convolutions_of_a_level():
  params, _ = jax.eval_shape(SMALL.init, KEY, IMAGE)
  assert set(params["encoder"]) == {
    *("level0_in", "level0_middle", "level0_out", "level1_down", "level1", "level2_down"),
    *("level2", "up"),
  }


def test_dropout_acts_in_training_only():
  model = nets.from_linen(ResidualUNet(widths=(4, 8), dropout=0.5))
  params, _ = model.init(KEY, IMAGE)
  run = jax.jit(lambda k, t: model.apply(params, IMAGE, key=k, train=t)[0], static_argnums=1)
  out = [run(jax.random.key(s), t) for s, t in ((0, False), (1, False), (0, True), (1, True))]
  np.testing.assert_array_equal(out[0], out[1])
  assert not np.allclose(out[2], out[3])


def test_bad_fields_are_refused():
  with pytest.raises(InputError, match="two widths"):
    ResidualUNet(widths=(8,))
  with pytest.raises(InputError, match="dropout in"):
    ResidualUNet(dropout=1.0)
