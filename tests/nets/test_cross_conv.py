"""The CrossConv U-Net: its equations in NumPy, its parameters, and what a support may do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax import nets
from medjax.check import InputError
from medjax.ops import pooling

NET = nets.CrossConvUNet(widths=(3, 2))


@pytest.fixture(scope="module")
def problem():
  random = np.random.default_rng(0)
  query, images = random.random((4, 6, 1)), random.random((3, 4, 6, 1))
  masks = random.random((3, 4, 6)) < 0.5
  given = tuple(np.asarray(x, np.float32) for x in (query, images, masks))
  apply = jax.jit(NET.apply)
  params = jax.jit(NET.init)(jax.random.key(0), *given)
  # Biases start at 0, where a wrong one is not seen.
  leaves, tree = jax.tree.flatten(params)
  params = jax.tree.unflatten(tree, [x + 0.1 * random.normal(size=x.shape) for x in leaves])
  params = jax.tree.map(lambda x: x.astype(np.float32), params)
  return apply, params, given


def test_the_released_widths_have_the_released_number_of_parameters():
  net = nets.CrossConvUNet()
  shapes = jnp.zeros((8, 8, 1)), jnp.zeros((2, 8, 8, 1)), jnp.zeros((2, 8, 8))
  params = jax.eval_shape(net.init, jax.random.key(0), *shapes)
  assert sum(x.size for x in jax.tree.leaves(params)) == 1_182_785


def convolved(x, kernel, bias):
  """Same-size correlation of [h, w, in] with [3, 3, in, out], by SciPy."""
  sums = [
    sum(
      ndimage.correlate(x[..., i].astype(np.float64), kernel[..., i, k], mode="constant")
      for i in range(x.shape[-1])
    )
    for k in range(kernel.shape[-1])
  ]
  return np.stack(sums, -1) + bias


def crossed(params, query, support):
  """The equations of a CrossBlock as they are printed: a convolution for each pair."""
  leaky = lambda x: np.where(x > 0, x, 0.01 * x)  # noqa: E731
  layers = params["query"], params["support"]
  joined = [np.concatenate([query, own], -1) for own in support]
  pairs = [convolved(x, params["cross_kernel"], params["cross_bias"]) for x in joined]
  mean = np.mean(pairs, 0)
  return leaky(convolved(mean, layers[0]["kernel"], layers[0]["bias"])), [
    leaky(convolved(z, layers[1]["kernel"], layers[1]["bias"])) for z in pairs
  ]


def test_logits_are_those_of_the_printed_equations(problem):
  apply, params, (query, images, masks) = problem
  own = jax.tree.map(np.asarray, params["params"])
  halved = lambda x: x.reshape(2, 2, 3, 2, -1).max((1, 3))  # noqa: E731
  # Order 1 and grid_mode=False keep the corners in place, as align_corners=True does.
  doubled = lambda x: ndimage.zoom(x, (2, 2, 1), order=1, grid_mode=False)  # noqa: E731
  first = crossed(own["encoder0"], query, np.concatenate([images, masks[..., None]], -1))
  second = crossed(own["encoder1"], halved(first[0]), [halved(x) for x in first[1]])
  joined = [np.concatenate([doubled(x), skip], -1) for x, skip in zip(second[1], first[1])]  # noqa: B905
  last, _ = crossed(own["decoder0"], np.concatenate([doubled(second[0]), first[0]], -1), joined)
  wanted = last @ own["head"]["kernel"] + own["head"]["bias"]
  found = apply(params, query, images, masks)
  np.testing.assert_allclose(found, wanted[..., 0], rtol=1e-4, atol=1e-5)


def test_a_support_has_no_order_and_a_pair_of_weight_0_is_not_there(problem):
  apply, params, (query, images, masks) = problem
  plain = apply(params, query, images, masks)
  order = np.array([2, 0, 1])
  np.testing.assert_allclose(apply(params, query, images[order], masks[order]), plain, atol=1e-5)
  weights = jnp.array([2.0, 0.0, 1.0])
  without = apply(params, query, images, masks, weights)
  other = images.copy()
  other[1] += 5
  np.testing.assert_allclose(apply(params, query, other, masks, weights), without, atol=1e-5)
  kept = np.array([0, 2, 0])  # twice the first: what a weight of 2 means
  np.testing.assert_allclose(apply(params, query, images[kept], masks[kept]), without, atol=1e-5)
  # The masks are read: a network that ignored its support would not see this.
  assert np.abs(apply(params, query, images, 1 - masks) - plain).max() > 1e-2


def test_a_batch_is_its_examples(problem):
  apply, params, (query, images, masks) = problem
  both = jax.jit(jax.vmap(NET.apply, (None, 0, 0, 0)))
  batch = np.stack([query, query[::-1]]), np.stack([images] * 2), np.stack([masks] * 2)
  np.testing.assert_allclose(
    both(params, *batch)[0], apply(params, query, images, masks), atol=1e-5
  )


def test_the_aligned_upsampling_keeps_what_is_linear():
  line = jnp.linspace(-1.0, 2.0, 5)
  found = pooling.upsample_aligned(line.reshape(1, 5, 1))
  np.testing.assert_allclose(found.ravel(), np.linspace(-1, 2, 10), atol=1e-6)


@pytest.mark.parametrize(
  ("shapes", "message"),
  [
    (((4, 4, 1), (0, 4, 4, 1), (0, 4, 4)), "a support of one image and mask or more, got none"),
    (((5, 4, 1), (1, 5, 4, 1), (1, 5, 4)), "sizes that 2 divides"),
    (((4, 4, 1), (1, 4, 6, 1), (1, 4, 6)), "images of the support"),
    (((4, 4, 1), (2, 4, 4, 1), (1, 4, 4)), "masks"),
  ],
)
def test_what_does_not_fit_is_refused(shapes, message):
  given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  with pytest.raises(InputError, match=message):
    jax.eval_shape(NET.init, jax.random.key(0), *given)
