"""FuseStyle: in style mixing an example takes its style from the least similar of its batch.

Khamankar et al., "Histopathological Image Analysis with Style-Augmented Feature Domain Mixing for
Improved Generalization" (MICCAI workshops 2023), mix feature statistics as MixStyle does, with

  j(i) = argmin_j <z_i, z_j>    the partner of example i, z the features of a layer (Eq. 3)
  m = a mean_i + (1 - a) mean_j,   s = a std_i + (1 - a) std_j,   a ~ Beta(.3, .3)
  y_i = s (z_i - mean_i) / std_i + m

The text takes z as it is. Features behind a ReLU are not negative, so the product is smallest with
the shortest z, and one example becomes the partner of nearly the whole batch (`similarity="raw"`).
The released code normalises every channel of z over space first, which is the default here:
`similarity="instance"`. The paper's design analysis has the partner at the largest distance and the
one of the largest KL divergence beside it ("euclid", "kl"). The mixing is that of `nets.mixstyle`:

  predict = nets.mixstyle(module, layers=layers, alpha=0.3)
  choose = fusestyle.least_similar(nets.features(module, layers[0]))
  step = mixing.paired(supervised(mixing.mixstyle(predict, loss), tx), choose=choose)

DEVIATION: the paper draws once a batch whether to mix, and chooses partners at every mixed layer
anew; here each example draws, and the partner of the first layer serves all of them.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from medjax import check
from medjax.grads.batch import entry
from medjax.types import Key, Params, PyTree

Similarity = Literal["instance", "pearson", "raw", "euclid", "kl"]


def least_similar(
  features: Callable[[Params, jax.Array], jax.Array], *, similarity: Similarity = "instance"
) -> Callable[[Params, PyTree, Key], jax.Array]:
  """Chooses the partners of `mixing.paired`; no gradient flows through the choice.

  >>> images = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])[:, :, None]
  >>> choose = least_similar(lambda params, image: image, similarity="raw")
  >>> choose({}, {"image": images}, jax.random.key(0)).tolist()
  [2, 2, 0]

  Args:
    features: `features(params, image) -> [*space, channel]` of ONE example, see `nets.features`.
    similarity: by products of "raw" features as in the paper's text; "instance": of features whose
      channels have mean 0 and variance 1 over space, as in the released code; "pearson": by the
      correlation of whole feature maps; "euclid": by the distance of raw features; "kl": by
      KL(softmax z_i, softmax z_j) over all entries of a map. DEVIATION: the paper does not say of
      what it takes the divergence.
  Returns:
    `choose(params, batch, key) -> [batch]` positions. Examples of weight 0 are chosen by nobody.
    The key is not used: the choice is not random.
  """
  check.one_of("similarity", similarity, get_args(Similarity))

  def vector(params: Params, image: jax.Array) -> jax.Array:
    z = features(params, image)
    if similarity == "instance":
      axes = tuple(range(z.ndim - 1))
      z = (z - z.mean(axes, keepdims=True)) * jax.lax.rsqrt(z.var(axes, keepdims=True) + 1e-6)
    elif similarity == "pearson":
      z = (z - z.mean()) * jax.lax.rsqrt(z.var() + 1e-6)
    return z.reshape(-1)

  def choose(params: Params, batch: PyTree, key: Key) -> jax.Array:
    del key
    z = jax.lax.stop_gradient(jax.vmap(vector, (None, 0))(params, entry(batch, "image")))
    products, weight = _similarities(z, similarity), entry(batch, "weight")
    if weight is not None:  # padding is never the least similar
      products = jnp.where(weight[None] > 0, products, jnp.inf)
    return products.argmin(1)

  return choose


def _similarities(z: jax.Array, similarity: str) -> jax.Array:
  """[batch, batch] of vectors [batch, number]; a row may be moved by a constant."""
  if similarity == "euclid":
    square = (z**2).sum(1)
    return 2 * z @ z.T - square[None]  # |z_i|^2 - |z_i - z_j|^2
  if similarity == "kl":
    log_p = jax.nn.log_softmax(z)
    return jnp.exp(log_p) @ log_p.T  # sum_k p_i log p_i - KL(p_i, p_j)
  return z @ z.T
