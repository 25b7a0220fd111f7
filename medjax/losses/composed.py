"""One loss from several, and one loss at several resolutions."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from medjax import check

SegmentationLoss: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


def weighted_sum(*terms: tuple[float, SegmentationLoss]) -> SegmentationLoss:
  """One loss from (weight, loss) pairs.

  >>> import functools
  >>> from medjax.losses import cross_entropy, soft_dice
  >>> dice_and_ce = weighted_sum((1.0, soft_dice), (1.0, cross_entropy))
  >>> squared = weighted_sum((1.0, functools.partial(soft_dice, denominator="squares")))
  """
  check.require(terms, "at least one (weight, loss) pair", "none", "pass (1.0, soft_dice)")

  def loss(logits: jax.Array, label: jax.Array) -> jax.Array:
    total = jnp.zeros(())
    for weight, term in terms:
      total = total + weight * term(logits, label)
    return total

  return loss


def deep_supervision(
  loss: SegmentationLoss, weights: tuple[float, ...] | None = None
) -> Callable[[jax.Array | tuple[jax.Array, ...], jax.Array], jax.Array]:
  """Weighted mean of a loss over logits at several resolutions (nnU-Net; Isensee et al. 2021).

  Args:
    loss: of one pair of logits and label map.
    weights: one a resolution, finest first; they are divided by their sum. None: 1, 1/2, 1/4, ...
  Returns:
    `loss(logits, label)` for a tuple of logits, finest first, the i-th at ceil(space / 2^i), or for
    one array, which it hands on. The label map of level i is every 2^i-th voxel of the finest.
  Raises:
    InputError: weights that do not match the logits or sum to 0.
  """

  def total(logits: jax.Array | tuple[jax.Array, ...], label: jax.Array) -> jax.Array:
    if not isinstance(logits, tuple):
      return loss(logits, label)
    shares = weights or tuple(0.5**level for level in range(len(logits)))
    check.require(
      len(shares) == len(logits) and sum(shares) > 0,
      f"{len(logits)} weights with a positive sum",
      f"{shares}",
      "give one weight a resolution, finest first",
    )
    strides = [(slice(None, None, 2**level),) * label.ndim for level in range(len(logits))]
    parts = [
      share / sum(shares) * loss(output, label[stride])
      for share, output, stride in zip(shares, logits, strides, strict=True)
    ]
    return jnp.stack(parts).sum()

  return total
