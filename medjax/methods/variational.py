"""A classifier on a code that must also describe the picture (VAE-DG, Chokuwa and Khan 2023).

  q(z | x) = N(mean(x), diag exp(log_variance(x))),   z = mean + exp(log_variance / 2) e
  loss = a CE(classify(z), y) + b KL(q || N(0, I)) + c BCE(decode(z), x)

The paper subtracts the class term, which would make the classes worse; the released code adds it,
as here. Prediction takes z = mean. Scales of the released code, a batch of B pictures with P
numbers and K latents: BCE summed over all, KL averaged over batch and latents, times 50,000, CE
summed, times 50,000. A picture's share, over 50,000:

  CE + KL / (B K) + BCE_sum / 50,000        (KL in summed nats)

so with P = 150,528 and B K = 66 * 256 the code costs 3.0 times the mean BCE of a number and
.00006 a nat. In the text, as printed, a nat counts as much as a class.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medjax import check, losses
from medjax.tree import at_least_float32, entry
from medjax.types import Array, Key, LossFn, Params, PyTree


class VariationalWeights(NamedTuple):
  """What the three terms count.

  Attributes:
    classes: of the cross-entropy.
    kl: of a nat of the divergence, summed over latents.
    reconstruction: of the mean binary cross-entropy of a number of the picture.
  """

  classes: float = 1.0
  kl: float = 6e-5
  reconstruction: float = 3.0


def released_weights(
  num_numbers: int, num_latents: int, batch_size: int, scale: float = 50_000.0
) -> VariationalWeights:
  """The released code's scales, over that of the classes.

  >>> weights = released_weights(3 * 224 * 224, 256, 66)
  >>> round(weights.kl, 6), round(weights.reconstruction, 2)
  (5.9e-05, 3.01)

  Args:
    num_numbers: pixels times channels of the picture that is decoded.
    num_latents: length of the code.
    batch_size: pictures an update.
    scale: alpha and beta of the paper.
  """
  return VariationalWeights(1.0, 1 / (batch_size * num_latents), num_numbers / scale)


def kl_to_normal(mean: Array, log_variance: Array) -> Array:
  """KL(N(mean, diag exp(log_variance)) || N(0, I)) in nats, summed over latents.

  >>> float(kl_to_normal(jnp.array([2.0, 0.0]), jnp.zeros(2)))
  2.0
  """
  mean, log_variance = at_least_float32(mean), at_least_float32(log_variance)
  return 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum()


def variational(
  encode: Callable[[Params, Array], tuple[Array, Array]],
  decode: Callable[[Params, Array], Array],
  classify: Callable[[Params, Array], Array],
  *,
  weights: VariationalWeights = VariationalWeights(),  # noqa: B008  immutable
  draw: bool = True,
  picture: str = "image",
) -> LossFn:
  """The loss of ONE example, for `supervised` or any Step of a `LossFn`.

  >>> encode = lambda p, x: (p * x, jnp.zeros_like(x))
  >>> loss = variational(encode, lambda p, z: z, lambda p, z: jnp.append(z, 0.0), draw=False)
  >>> example = {"image": jnp.zeros(1), "label": jnp.int32(0)}
  >>> round(float(loss(1.0, example, jax.random.key(0))), 4)  # log 2, and 3 log 2 of the picture
  2.7726

  Args:
    encode: `encode(params, image) -> (mean [latent], log_variance [latent])`.
    decode: `decode(params, z) -> logits` of the picture, in its shape. It is not called with a
      reconstruction of 0.
    classify: `classify(params, z) -> logits [class]`.
    weights: of the terms; a KL and a reconstruction of 0 without `draw` are a plain classifier.
    draw: whether z is drawn; False takes the mean, which with a KL of 0 is an autoencoder.
    picture: entry of an example that is reconstructed, in [0, 1]: "image", or a smaller copy.
  Raises:
    InputError: negative weights.
  """
  for name, value in weights._asdict().items():
    check.non_negative(name, value)

  def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
    mean, log_variance = encode(params, entry(example, "image"))
    z = mean
    if draw:
      z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)
    total = weights.classes * losses.cross_entropy(classify(params, z), entry(example, "label"))
    if weights.kl:
      total = total + weights.kl * kl_to_normal(mean, log_variance)
    if weights.reconstruction:
      seen = decode(params, z)
      target = entry(example, picture)
      check.same_shape("decoded picture", seen.shape, picture, target.shape)
      # -x log s(t) - (1 - x) log(1 - s(t)) with s the logistic function is softplus(t) - x t.
      total = total + weights.reconstruction * (jax.nn.softplus(seen) - target * seen).mean()
    return total

  return loss_fn
