"""A promptable network on pictures of any size: embeddings are kept, masks lie in own pixels."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, files, programs
from medjax.types import Params

_CHUNK = 8  # prompts that one program answers
_UNSEEN = -2  # label of a token that is seen by nobody, `nets.IGNORED`


class PixelPrompt(NamedTuple):
  """One prompt in pixels of the picture, as numpy arrays.

  Attributes:
    coordinates: [token, 2], (x, y); the middle of the first pixel is (0, 0).
    labels: [token], as in `nets.Prompts`: 1 inside, 0 outside, 2 and 3 the corners of a box.
  """

  coordinates: np.ndarray
  labels: np.ndarray


class Embedded(NamedTuple):
  """What a network knows of a picture.

  Attributes:
    embedding: [h, w, channel].
    shape: (rows, columns) of the picture.
    scale: pixels of the network's input beside one of the picture.
  """

  embedding: jax.Array
  shape: tuple[int, int]
  scale: float


class Prompted:
  """Answers prompts; the encoder runs once a picture, also over several processes.

  Pictures come to the network by fixed rules: intensities of the picture from its least to its
  greatest go to [0, 1]; the longer side is scaled to `size`, and zeros are put right and below; a
  picture of one channel is repeated for a network of three, and one of three is averaged for a
  network of one.

  Args:
    embed, decode: as in `nets.Promptable`; `decode` gets a tuple of the fields of `Prompts`.
    params: of the network.
    size: side of its input in pixels.
    channels: of its input.
    cache: folder for embeddings, named by a digest of weights and pixels; None keeps none.
    best_of_three: take the best of the masks 1 to 3 by the network's own estimate, for a click that
      may mean a whole or a part; False: mask 0.
  """

  def __init__(
    self,
    embed: Callable[[Params, jax.Array], jax.Array],
    decode: Callable[[Params, jax.Array, Any], Any],
    params: Params,
    *,
    size: int,
    channels: int,
    cache: pathlib.Path | None = None,
    best_of_three: bool = False,
  ):
    self.params, self.size, self.channels, self.cache = params, size, channels, cache
    self._best_of_three = best_of_three
    self._embed = jax.jit(embed)
    self._weights = programs.of_arrays(params["encoder"]) if cache is not None else ""

    def answer(params: Params, embedding: jax.Array, prompts: Any) -> tuple[jax.Array, jax.Array]:
      out = decode(params, embedding, prompts)
      best = jnp.int32(0)
      if best_of_three and out.quality.shape[0] > 1:
        best = 1 + jnp.argmax(out.quality[1:])
      return jnp.take(out.logits, best, axis=-1), out.quality[best]

    self._answer = jax.jit(jax.vmap(answer, (None, None, 0)))

  def embedded(self, picture: np.ndarray) -> Embedded:
    """The embedding of [row, column(, channel)], from the cache where it is there."""
    image, scale = self.fitted(picture)
    shape = (picture.shape[0], picture.shape[1])
    if self.cache is None:
      return Embedded(self._embed(self.params, jnp.asarray(image)), shape, scale)
    path = self.cache / f"{programs.of_arrays({'image': image, 'of': self._weights})}.npy"
    if path.exists():
      return Embedded(jnp.asarray(np.load(path)), shape, scale)
    found = np.asarray(self._embed(self.params, jnp.asarray(image)))
    self.cache.mkdir(parents=True, exist_ok=True)
    with files.replacing(path, suffix=".npy") as temporary:
      np.save(temporary, found)
    return Embedded(jnp.asarray(found), shape, scale)

  def fitted(self, picture: np.ndarray) -> tuple[np.ndarray, float]:
    """The network's input [size, size, channels] for a picture, and the scale."""
    values = np.asarray(picture, np.float32)
    values = values[..., None] if values.ndim == 2 else values
    self.check_channels(values.shape[-1])
    if values.shape[-1] != self.channels:
      grey = values.mean(-1, keepdims=True)
      values = np.repeat(grey, self.channels, axis=-1)
    low, high = float(values.min()), float(values.max())
    values = (values - low) / max(high - low, 1e-8)
    rows, columns = values.shape[:2]
    scale = self.size / max(rows, columns)
    inner = self._inner((rows, columns), scale)
    scaled = np.asarray(jax.image.resize(values, (*inner, self.channels), "linear"))
    image = np.zeros((self.size, self.size, self.channels), np.float32)
    image[: inner[0], : inner[1]] = scaled
    return image, scale

  def check_channels(self, channels: int, what: str = "a picture") -> None:
    """Holds a picture to the rule of channels: those of the network, or 1 on either side.

    Raises:
      InputError: other channels, such as four for a network of three.
    """
    check.require(
      channels == self.channels or 1 in (channels, self.channels),
      f"{what} of 1 or {self.channels} channels",
      f"{channels}",
      "give one of them",
    )

  def masks(
    self, embedded: Embedded, asked: Sequence[PixelPrompt]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Logits [prompt, row, column] on the picture's grid, and the network's estimates [prompt]."""
    inner = self._inner(embedded.shape, embedded.scale)
    logits, quality = [], []
    for start in range(0, len(asked), _CHUNK):
      part = asked[start : start + _CHUNK]
      found, own = self._answer(self.params, embedded.embedding, self._batch(part, embedded.scale))
      # Masks have a quarter of the resolution of an encoder of stride 16, that of one of stride 4.
      share = found.shape[1] / self.size
      cut = [max(1, round(n * share)) for n in inner]
      large = jax.image.resize(
        found[: len(part), : cut[0], : cut[1]], (len(part), *embedded.shape), "linear"
      )
      logits.append(np.asarray(large))
      quality.append(np.asarray(own[: len(part)]))
    return np.concatenate(logits), np.concatenate(quality)

  def _inner(self, shape: tuple[int, int], scale: float) -> tuple[int, int]:
    rows, columns = (min(self.size, max(1, round(n * scale))) for n in shape)
    return rows, columns

  def _batch(self, asked: Sequence[PixelPrompt], scale: float) -> Any:
    """Prompts of one static shape; tokens and prompts that fill it up are seen by nobody."""
    longest = max(len(one.labels) for one in asked)
    tokens = 1 << max(longest - 1, 0).bit_length() if longest > 1 else 2
    coordinates = np.zeros((_CHUNK, tokens, 2), np.float32)
    labels = np.full((_CHUNK, tokens), _UNSEEN, np.int32)
    for i, one in enumerate(asked):
      count = len(one.labels)
      # Middles of pixels: x is at the share (x + 1/2) / width of the picture's width.
      coordinates[i, :count] = (one.coordinates + 0.5) * scale - 0.5
      labels[i, :count] = one.labels
    return _Prompts(jnp.asarray(coordinates), jnp.asarray(labels), None)


class _Prompts(NamedTuple):
  """As `nets.Prompts`, which stands in a room beside this one."""

  coordinates: Any
  labels: Any
  mask: Any


def distinct(
  masks: np.ndarray, quality: np.ndarray, *, least_quality: float = 0.7, overlap: float = 0.7
) -> list[int]:
  """Masks [n, row, column] worth keeping, best first: sure enough, not empty, none of them twice.

  >>> masks = np.zeros((3, 4, 4), bool); masks[0, :2] = True; masks[1, :2] = True; masks[2, 3] = 1
  >>> distinct(masks, np.array([0.8, 0.9, 0.75]))
  [1, 2]

  Args:
    masks: booleans.
    quality: [n] the network's estimates.
    least_quality: below it a mask is left out.
    overlap: intersection over union from which the less sure of two masks is left out.
  """
  kept: list[int] = []
  for i in np.argsort(-quality, kind="stable"):
    if quality[i] < least_quality or not masks[i].any():
      continue
    shares = [(masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum() for j in kept]
    if max(shares, default=0.0) <= overlap:
      kept.append(int(i))
  return kept
