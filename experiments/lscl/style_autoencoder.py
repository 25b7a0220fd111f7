"""Style transfer by an autoencoder that is trained on the data at hand, content and style in pairs.

  z = P((f_x - mean f_x) / std f_x * std f_s + mean f_s)      f: last decoder features, P: affine

One adaptive instance normalisation, before the last convolution, as in the authors' code of LSCL:
z is affine in (mean, std) of the style, so that K styles of an image are one matrix product. Loss:

  1000 MSE(r, x) + 10 sum_l MSE(E_l(r), E_l(x))                       r: reconstruction (WCT2)
  + 10 sum_l (|mean E_l(z) - mean E_l(s)|^2 + |std E_l(z) - std E_l(s)|^2)

Train with `paired(supervised(style_loss(network), tx))`; then style_transfer(network, params) is a
`how` of `synth.style_bank`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from medjax import check
from medjax.methods.mixing import Pair
from medjax.nets.wavelet_autoencoder import WaveletAutoencoder
from medjax.ops import conv, style
from medjax.synth.style_bank import StyleTransfer
from medjax.types import Key, LossFn, Params


def style_loss(
  network: WaveletAutoencoder,
  *,
  reconstruction: float | int = 1000.0,
  feature: float | int = 10.0,
  transfer: float | int = 10.0,
) -> LossFn:
  """Loss of a `Pair`: reconstruct the example, and give it the partner's style.

  Features are compared by the encoder as it stands: they teach what is put in, not the encoder,
  which could make all features equal by making them 0.

  Args:
    network: the autoencoder.
    reconstruction, feature, transfer: weights of the three terms.
  """
  for name, value in (("reconstruction", reconstruction), ("feature", feature)):
    check.non_negative(name, value)
  check.non_negative("transfer", transfer)

  def loss_fn(params: Params, pair: Pair, key: Key) -> jax.Array:
    del key
    image, other = pair.example.image, pair.partner.image
    how = style_transfer(network, params)
    restored = _run(network, params, "__call__", image)
    styled = how.transfer(image, how.statistics(other))

    def judged(x: jax.Array) -> tuple[jax.Array, ...]:
      return _run(network, jax.lax.stop_gradient(params), "encode", x).features

    total = reconstruction * jnp.mean(jnp.square(restored - image))
    for x, want in zip(judged(restored), judged(image), strict=True):
      total += feature * jnp.mean(jnp.square(x - want))
    for x, want in zip(judged(styled), judged(other), strict=True):
      total += transfer * jnp.mean(jnp.square(style.moments(x) - style.moments(want)))
    return total

  return loss_fn


def style_transfer(network: WaveletAutoencoder, params: Params) -> StyleTransfer:
  """How a trained network describes and changes styles; a style is [2, widths[0]].

  Its own style gives an image's reconstruction, not the image.
  """

  def features(image: jax.Array) -> jax.Array:
    return _run(network, params, "features", image)

  def statistics(image: jax.Array) -> jax.Array:
    return style.moments(features(image))

  def transfer(image: jax.Array, target: jax.Array) -> jax.Array:
    changed = style.with_moments(features(image), target)
    return _cropped(_run(network, params, "paint", changed), image)

  def transfer_many(image: jax.Array, targets: jax.Array) -> jax.Array:
    head = params["head"]["conv"]
    normalised = style.normalised(features(image))
    parts = _cropped(_by_channel(normalised, head["kernel"]), image)
    # Borders are mirrored, so that a constant image gives the same value everywhere: the sum of the
    # kernel over space.
    of_mean = head["kernel"].sum(tuple(range(image.ndim - 1)))
    highest = jax.lax.Precision.HIGHEST
    styled = jnp.einsum("kc,...co->k...o", targets[:, 1], parts, precision=highest)
    level = jnp.matmul(targets[:, 0], of_mean, precision=highest) + head["bias"][None]
    return styled + level.reshape(len(level), *(1,) * (image.ndim - 1), -1)

  return StyleTransfer(statistics, transfer, transfer_many)


def _run(network: WaveletAutoencoder, params: Params, method: str, x: jax.Array) -> Any:
  return network.apply({"params": params}, x, method=method)


def _by_channel(features: jax.Array, kernel: jax.Array) -> jax.Array:
  """[*space, width, output]: what each channel adds to the convolution."""
  ndim, (width, outputs) = features.ndim - 1, kernel.shape[-2:]
  padded = jnp.pad(features, [*((1, 1),) * ndim, (0, 0)], mode="reflect")
  axes = "DHW"[-ndim:]
  out = conv.conv_general_dilated(
    padded[None],
    kernel.reshape(*kernel.shape[:-2], 1, width * outputs),
    (1,) * ndim,
    "VALID",
    dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    feature_group_count=width,
  )
  return out[0].reshape(*features.shape[:-1], width, outputs)


def _cropped(x: jax.Array, image: jax.Array) -> jax.Array:
  return x[tuple(slice(0, size) for size in image.shape[:-1])]
