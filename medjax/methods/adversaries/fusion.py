"""An image fused with a stylised version of itself: the samples of the style curriculum.

Liu et al., "Style Curriculum Learning for Robust Medical Image Segmentation", MICCAI 2021 (LSCL):

  z_i = Gamma_i * z + (1 - Gamma_i) * x                     (Algorithm 1, line 4)
  Gamma_{i+1} = Gamma_i + LGS(grad_{z_i} Phi),  Gamma_0 = 0   (line 6, Eq. 2)

Since d z_i / d Gamma = z - x, the loss grows with Gamma where grad_{z_i} Phi * (z - x) > 0. The
published rule leaves (z - x) out: where z < x it makes the sample easier.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check, rng
from medjax.methods.adversaries.adversary import Adversary
from medjax.ops.local_gradient_sign import (
  Order,
  Upsample,
  local_gradient_sign,
  pixel_gradient_sign,
  random_cells,
)
from medjax.types import Batch, Json, Key, Leaf, Metrics

FusionDirection = Literal["paper", "chain", "random"]


class Fusion(NamedTuple):
  """[*space, 1] weight Gamma in [0, 1], [*space, channel] stylised image z, which never changes."""

  weight: Leaf
  styled: Leaf


def lgs_fusion(
  style_fn: Any,
  *,
  eps: float | int = 0.25,
  pool: int | tuple[int, ...] = 4,
  order: Order = "sign_of_mean",
  direction: FusionDirection = "paper",
  upsample: Upsample = "nearest",
  interval: tuple[float | int, float | int] | None = None,
) -> Adversary:
  """Fusion whose weight grows by the local gradient sign.

  Args:
    style_fn: `style_fn(key, image) -> image` of ONE example, such as a `synth.StyleBank`; what has
      `of_example(key, example)` gets the whole example instead, and `provenance` says whose data
      it draws on; without one it is taken to be other people's.
    eps, pool, order, upsample: see `ops.local_gradient_sign`.
    direction: of what the sign is taken, summed over channels: "paper" grad_z Phi; "chain"
      grad_z Phi * (z - x), the gradient in Gamma; "random" half of the cells at random, a control
      that knows nothing of the loss.
    interval: the fused image is clipped to it. The authors' code clips to (0, 1).
  Returns:
    Adversary from the image itself (Gamma = 0); its metrics are "fusion_weight", the mean of Gamma,
    and "wrong_way", the share of voxels with a positive gradient in which z < x.
  Guarantees: Gamma never falls and stays in [0, 1]; no gradient flows through z or Gamma.
  """
  check.one_of("direction", direction, ("paper", "chain", "random"))
  settings = {"eps": eps, "pool": pool, "order": order, "upsample": upsample}

  def increment(ascent: jax.Array, key: Key) -> jax.Array:
    if direction == "random":
      cells = random_cells(rng.stream(key, "cells"), ascent.shape[:-1], pool=pool)
      ascent = cells.astype(ascent.dtype)
    return local_gradient_sign(ascent, **settings)

  options = {**settings, "pool": str(pool), "kind": "lgs_fusion"}
  return _fusion(style_fn, increment, direction, interval, options)


def scl_fusion(
  style_fn: Any,
  *,
  eps: float | int = 0.25,
  direction: Literal["paper", "chain"] = "paper",
  interval: tuple[float | int, float | int] | None = None,
) -> Adversary:
  """The ablation without pooling (SCL), by the authors' rule: gradients of exactly 0 step too.

  `lgs_fusion(..., pool=1)` is the same without that.
  """
  check.one_of("direction", direction, ("paper", "chain"))

  def increment(ascent: jax.Array, key: Key) -> jax.Array:
    del key
    return pixel_gradient_sign(ascent, eps=eps)

  options = {"eps": eps, "kind": "scl_fusion"}
  return _fusion(style_fn, increment, direction, interval, options)


def _fusion(
  style_fn: Any,
  increment: Callable[[jax.Array, Key], jax.Array],
  direction: FusionDirection,
  interval: tuple[float | int, float | int] | None,
  options: dict[str, Json],
) -> Adversary:
  if interval is not None:
    check.ordered("interval", interval)

  def parameters(key: Key, example: Batch) -> Fusion:
    style_key = rng.stream(key, "style")
    if hasattr(style_fn, "of_example"):
      styled = style_fn.of_example(style_key, example)
    else:
      styled = style_fn(style_key, example.image)
    check.same_shape("the stylised image", styled.shape, "its image", example.image.shape)
    weight = jnp.zeros((*example.image.shape[:-1], 1), example.image.dtype)
    return Fusion(weight, jax.lax.stop_gradient(styled))

  def render(a: Fusion, example: Batch) -> jax.Array:
    fused = a.weight * a.styled + (1 - a.weight) * example.image  # z_i, Algorithm 1, line 4
    return fused if interval is None else jnp.clip(fused, *interval)

  def project(a: Fusion, image_gradient: jax.Array, example: Batch, key: Key) -> Fusion:
    ascent = image_gradient
    if direction == "chain":
      ascent = image_gradient * (a.styled - example.image)  # d Phi / d Gamma
    step = increment(ascent.sum(-1, keepdims=True), key)
    return a._replace(weight=jnp.clip(a.weight + step, 0.0, 1.0))

  def describe(a: Fusion, image_gradient: jax.Array, example: Batch) -> Metrics:
    rises = image_gradient > 0
    falls_short = rises & (a.styled < example.image)
    return {
      "fusion_weight": a.weight.mean(),
      "wrong_way": falls_short.sum() / jnp.maximum(rises.sum(), 1),
    }

  return Adversary(
    parameters,
    render,
    project,
    describe=describe,
    provenance=getattr(style_fn, "provenance", "other subjects"),
    options={**options, "direction": direction, "interval": str(interval)},
  )
