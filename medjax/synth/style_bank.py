"""Styles of a pool of images as a table on the device, drawn at random for other images.

A style is small (a number for each of a few bands): those of ten thousand slices fit in a megabyte,
no style image is read during training, and stylising costs a wavelet pyramid.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from medjax import check
from medjax.ops import style
from medjax.types import Batch, Key, Provenance


class StyleTransfer(NamedTuple):
  """A way to describe and to change styles, of ONE image.

  Attributes:
    statistics: `statistics(image) -> array`, the style.
    transfer: `transfer(image, statistics) -> image` of the same shape.
    transfer_many: `transfer_many(image, [style, ...] statistics) -> [style, ...] images`.
  """

  statistics: Callable[[jax.Array], jax.Array]
  transfer: Callable[[jax.Array, jax.Array], jax.Array]
  transfer_many: Callable[[jax.Array, jax.Array], jax.Array]


def wavelet_style(levels: int = 3) -> StyleTransfer:
  """Training-free: adaptive instance normalisation of Haar bands, see `medjax.ops.style`."""
  check.require(levels >= 1, "levels >= 1", f"{levels=}", "pass 1 or more")
  functions = (style.statistics, style.transfer, style.transfer_many)
  return StyleTransfer(*(functools.partial(function, levels=levels) for function in functions))


@dataclasses.dataclass(frozen=True, eq=False)
class StyleBank:
  """`bank(key, image) -> image` in the style of a random member of the pool; use `style_bank`.

  Attributes:
    statistics: [style, ...] of the pool.
    weights: [style] chances, sum 1.
    subjects: [style] codes of the people as in `Batch.subject`, None where they are not known.
    how: the transfer.
    is_public: whether every image of the pool, and whatever `how` was learnt from, is public: then
      a drawn style reveals nobody.
  """

  statistics: jax.Array
  weights: jax.Array
  subjects: jax.Array | None
  how: StyleTransfer
  is_public: bool

  @property
  def provenance(self) -> Provenance:
    """Whose data reach a stylised example; private training refuses "other subjects"."""
    return "public" if self.is_public else "other subjects"

  def __len__(self) -> int:
    return len(self.weights)

  def styles(self, key: Key, count: int) -> Shaped[Array, "count ..."]:
    """Statistics of `count` randomly drawn styles."""
    return self.statistics[jax.random.categorical(key, jnp.log(self.weights), shape=(count,))]

  def draw(self, key: Key, shape: tuple[int, ...]) -> Shaped[Array, "..."]:
    """Statistics of one randomly drawn style, for an image of any shape."""
    del shape
    return self.statistics[jax.random.categorical(key, jnp.log(self.weights))]

  def apply(self, parameters: Shaped[Array, "..."], image: jax.Array) -> jax.Array:
    """The image in a style given by its statistics."""
    return self.how.transfer(image, parameters)

  def __call__(self, key: Key, image: Float[Array, "*space channel"]) -> jax.Array:
    """The image in one drawn style."""
    return self.apply(self.draw(key, image.shape), image)

  def many(self, key: Key, image: Float[Array, "*space channel"], count: int) -> jax.Array:
    """[count, *space, channel]: the image in `count` drawn styles, one matrix product."""
    return self.how.transfer_many(image, self.styles(key, count))

  def own_subject(self) -> "OwnSubjectStyles":
    """Styles of the example's own person alone, for training that is private per person.

    Raises:
      InputError: a bank without subjects.
    """
    check.require(
      self.subjects is not None, "a bank that knows subjects", "none", "style_bank(subjects=...)"
    )
    return OwnSubjectStyles(self)


@dataclasses.dataclass(frozen=True, eq=False)
class OwnSubjectStyles:
  """Draws among the styles of the example's own subject; use `StyleBank.own_subject`."""

  bank: StyleBank
  provenance: Provenance = "own subject"

  def of_example(self, key: Key, example: Batch) -> jax.Array:
    """The example's image in another style of the same person; unchanged where there is none."""
    bank = self.bank
    is_own = bank.subjects == example.subject
    logits = jnp.where(is_own & (bank.weights > 0), jnp.log(bank.weights), -jnp.inf)
    found = jnp.any(jnp.isfinite(logits))
    chosen = jax.random.categorical(key, jnp.where(found, logits, 0.0))
    # Nothing found: zeros in, so that nobody else's statistics are in the graph of this example.
    drawn = jnp.where(found, bank.statistics[chosen], 0.0)
    return jnp.where(found, bank.how.transfer(example.image, drawn), example.image)


def style_bank(
  images: Iterable[Any],
  *,
  how: StyleTransfer | None = None,
  subjects: Sequence[int] | np.ndarray | None = None,
  weights: Sequence[float | int] | np.ndarray | None = None,
  is_public: bool = False,
) -> StyleBank:
  """Reads the styles of a pool, once.

  Args:
    images: [*space, channel] each, of any sizes; labelled or not. Take them from source sites only.
    how: `wavelet_style(3)` by default.
    subjects: code of each image's person, as in `Batch.subject`.
    weights: chance of each image, up to a factor; equal by default, as published. One over the
      number of images of its vendor balances vendors.
    is_public: every image is public, and so is what `how` was learnt from.
  Raises:
    InputError: no image, one that is not finite, images of different channels or number of axes, or
      lists of other lengths.

  >>> bank = style_bank([jnp.ones((8, 8, 1)), jnp.eye(8)[..., None]])
  >>> jax.jit(bank)(jax.random.key(0), jnp.zeros((16, 16, 1))).shape
  (16, 16, 1)
  """
  how = wavelet_style() if how is None else how
  compute = jax.jit(how.statistics)
  found = [np.asarray(compute(jnp.asarray(image, jnp.float32))) for image in images]
  check.require(found, "at least one style image", "none", "check the source sites")
  for position, one in enumerate(found):
    check.require(
      one.shape == found[0].shape,
      "style images that agree in channels and number of axes",
      f"styles of shape {found[0].shape} and, image {position}, {one.shape}",
      "leave the others out",
    )
    check.require(
      np.all(np.isfinite(one)), "finite style images", f"NaN in image {position}", "leave it out"
    )
  for name, values in (("subjects", subjects), ("weights", weights)):
    check.require(
      values is None or len(values) == len(found),
      f"{name}, one per style image ({len(found)})",
      f"{len(values) if values is not None else None}",
      "give one number an image",
    )
  chances = np.ones(len(found)) if weights is None else np.asarray(weights, np.float64)
  check.require(
    np.all(chances >= 0) and chances.sum() > 0,
    "weights of 0 or more, one above",
    f"{chances.min()} to {chances.max()}",
    "pass chances",
  )
  return StyleBank(
    statistics=jnp.asarray(np.stack(found)),
    weights=jnp.asarray(chances / chances.sum(), jnp.float32),
    subjects=None if subjects is None else jnp.asarray(subjects, jnp.int32),
    how=how,
    is_public=is_public,
  )
