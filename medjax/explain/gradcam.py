"""GradCAM: the features of a layer, weighted by how much a score rises with each of them.

  alpha_k = mean over places of d y / d A_k,        map = relu(sum_k alpha_k A_k)        (Eqs. 1, 2)

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization"
(2017). For a network that ends in a mean over places and a linear layer this is CAM (Zhou et al.
2016) divided by the number of places.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medjax import check
from medjax.types import Array


def gradcam(score: Callable[[Array], Array], activations: Array) -> Array:
  """The map of ONE image; `jax.vmap` gives those of a batch.

  >>> activations = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])  # one row of two places, two features
  >>> score = lambda a: 3 * a[..., 0].mean() - a[..., 1].mean()
  >>> gradcam(score, activations).tolist()  # alpha = (3, -1) / 2
  [[1.5, 0.0]]

  A Linen network is cut at a layer by `nets.features` and `nets.from_features`:

  >>> from medjax import nets
  >>> module = nets.SmallCNN(3, (4, 8))
  >>> seen, rest = (cut(module, "GroupNorm_0") for cut in (nets.features, nets.from_features))
  >>> def why(params, image, number):
  ...   return gradcam(lambda a: rest(params, a, image)[number], seen(params, image))
  >>> image = jnp.ones((16, 16, 1))
  >>> params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
  >>> jax.eval_shape(lambda params: why(params, image, 2), params).shape
  (8, 8)

  Args:
    score: `score(activations) -> scalar`: what the rest of the network makes of the layer, for
      example the logit of one class.
    activations: [*space, channel] of the layer for this image.
  Returns:
    [*space], 0 or more, in units of the score; 0 everywhere if no feature speaks for the score. It
    has the layer's resolution: `explain.picture` brings it to the image's.
  Raises:
    InputError: activations without a place or a channel.
  """
  check.require(
    activations.ndim >= 2, "activations [*space, channel]", f"{activations.shape}", "add the axis"
  )
  slopes = jax.grad(score)(activations)
  weights = slopes.mean(tuple(range(activations.ndim - 1)))  # alpha
  return jax.nn.relu(jnp.matmul(activations, weights, precision="highest"))
