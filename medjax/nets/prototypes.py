"""Classes by the likeness of an image, and of its places, to learnt prototypes.

  f^G = W2 relu(W1 mean_j F_j),   f^L_j = V2 relu(V1 F_j)             one image, one a place j
  s^G_ck = cos(p^G_ck, f^G),      s^L_ck = max_j cos(p^L_ck, f^L_j)
  y^G = softmax_c(sum_k s^G_ck / (K t)),   y^L likewise,   y = (y^G + y^L) / 2           (Eq. 4)

Santiago et al., "Global and Local Explanations for Skin Cancer Diagnosis Using Prototypes" (2023).
F is the map of a backbone. The released code divides by a temperature t = .07 and ends both
branches in a sigmoid, of which the paper does not speak.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from medjax import check


class PrototypeOutput(NamedTuple):
  """What the network sees of one image.

  Attributes:
    logits: [branch, class], the branch of the image first; their softmaxes are averaged.
    likeness: [branch, class, prototype] cosines s.
    maps: [height, width, class, prototype] cosines of the places.
    image: [width] f^G.
    places: [height, width, width of a code] f^L.
  """

  logits: Float[Array, "2 class"]
  likeness: Float[Array, "2 class prototype"]
  maps: Float[Array, "height width class prototype"]
  image: Float[Array, " code"]
  places: Float[Array, "height width code"]

  @property
  def probabilities(self) -> Float[Array, " class"]:
    """y of Eq. 4."""
    return jax.nn.softmax(self.logits).mean(0)


class Prototypes(nn.Module):
  """One image [height, width, channel], or the map of a backbone that stays as it is.

  Attributes:
    num_classes: C.
    num_prototypes: K of each class and branch; the paper has 10.
    code: width of f^G and f^L; the paper has 128 or 256.
    widths: channels of convolutions of stride 2 that make the map; () takes the input as the map.
    temperature: t; 1 is the paper's formula, .07 the code's.
    has_sigmoid: whether the branches end in one, as in the code.
  """

  num_classes: int
  num_prototypes: int = 10
  code: int = 128
  widths: tuple[int, ...] = ()
  temperature: float = 0.07
  has_sigmoid: bool = True

  def setup(self):
    check.positive("num_prototypes", self.num_prototypes)
    check.positive("temperature", self.temperature)
    self.backbone = [nn.Conv(width, (3, 3), strides=(2, 2)) for width in self.widths]
    self.image_layers = [nn.Dense(self.code), nn.Dense(self.code)]
    self.place_layers = [nn.Dense(self.code), nn.Dense(self.code)]
    shape = (2, self.num_classes, self.num_prototypes, self.code)
    self.prototypes = self.param("prototypes", nn.initializers.normal(1.0), shape)

  def features(self, image: Float[Array, "rows columns channel"]) -> Float[Array, "h w feature"]:
    """F: what the branches look at, and a map of GradCAM explains."""
    x = image[None]
    for layer in self.backbone:
      x = nn.relu(layer(x))
    return x[0]

  def from_features(self, features: Float[Array, "h w feature"]) -> PrototypeOutput:
    """The branches alone."""
    image = self._coded(self.image_layers, features.mean((0, 1)))
    places = self._coded(self.place_layers, features)
    unit = _unit(self.prototypes)
    of_image = jnp.einsum("ckd,d->ck", unit[0], _unit(image), precision="highest")
    maps = jnp.einsum("ckd,hwd->hwck", unit[1], _unit(places), precision="highest")
    likeness = jnp.stack([of_image, maps.max((0, 1))])
    return PrototypeOutput(likeness.mean(-1) / self.temperature, likeness, maps, image, places)

  def __call__(self, image: Float[Array, "rows columns channel"]) -> PrototypeOutput:
    return self.from_features(self.features(image))

  def _coded(self, layers: Sequence[nn.Dense], x: jax.Array) -> jax.Array:
    found = layers[1](nn.relu(layers[0](x)))
    return nn.sigmoid(found) if self.has_sigmoid else found


def _unit(x: jax.Array) -> jax.Array:
  """Length 1; the root is kept from 0, where it has no slope."""
  return x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)
