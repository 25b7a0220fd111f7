"""Learnable augmentation by a network that adds a residual.

Learn2Synth (Hu et al., ICCV 2025, arXiv 2411.16719), "Nonparametric Augmentation Model":

  x <- x + A_theta([x, xi]),   xi ~ N(0, 1) per voxel, one channel
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check, rng
from medjax.types import Key, Model, Params


@dataclasses.dataclass(frozen=True)
class UNetResidual:
  """x + gain * A([x, xi]) with a network A (Learn2Synth, nonparametric model).

  theta are the parameters of the network.

  DEVIATION: the released code gives A no noise channel and adds sigma * eps after it; here xi is a
  channel of the input, as the paper says.

  Attributes:
    model: any network from [*space, channel + 1] to [*space, channel] without batch statistics.
    gain: constant factor of the residual, unitless. 1 is the paper; a small one (0.1) starts near
      the identity, while Adam still moves the weights at full speed.
  """

  model: Model
  gain: float = 1.0

  def init(self, key: Key, image: Float[Array, "*space channel"]) -> Params:
    """Parameters of the network for images like `image`.

    Raises:
      InputError: the network keeps state besides its parameters, or returns another shape.
    """
    inputs = jnp.concatenate([image, image[..., :1]], axis=-1)
    params, state = self.model.init(key, inputs)
    check.require(
      not jax.tree.leaves(state), "a network without batch statistics", "one with", "use GroupNorm"
    )
    output, _ = jax.eval_shape(self.model.apply, params, inputs)
    check.same_shape("the network's output", output.shape, "its image", image.shape)
    return params

  def draw(self, key: Key, shape: tuple[int, ...]) -> Float[Array, "*space 1"]:
    """Noise channel xi for an image of `shape` = [*space, channel]."""
    return jax.random.normal(rng.stream(key, "xi"), (*shape[:-1], 1))

  def apply(
    self, theta: Params, draws: Array, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """Augmented image; a network that returns zeros gives the image back."""
    residual, _ = self.model.apply(theta, jnp.concatenate([image, draws], axis=-1))
    return image + self.gain * residual

  def __call__(
    self, theta: Params, key: Key, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """`apply(theta, draw(key, image.shape), image)`."""
    return self.apply(theta, self.draw(key, image.shape), image)

  def describe(self, theta: Params) -> dict[str, Array]:
    """Size of the parameters: their Euclidean norm, as "parameter_norm"."""
    total = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(theta))
    return {"parameter_norm": jnp.sqrt(jnp.asarray(total))}
