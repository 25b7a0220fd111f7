"""A picture and the words that came with it: a class, and a map of where an expert looked.

Ketabi et al., "Multimodal Learning for Improving Performance and Explainability of Chest X-Ray
Classification" (2023): the mean of word vectors beside the code of the picture, or an LSTM over the
words that starts from that code (their Figures 1 and 3).
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax import check
from medjax.nets.blocks import NormedBlock
from medjax.ops import pooling


class ImageTextOutput(NamedTuple):
  """Attributes:
  logits: [class].
  heat: [*space] logits of a distribution over places; 0 of a network without a decoder.
  """

  logits: jax.Array
  heat: jax.Array


class ImageText(nn.Module):
  """Class and map of one image [*space, channel] and the vectors [word, width] of its text.

  The encoder's layers are "encoder0", "encoder1", ...; "decoder" starts the names of the map's own.

  >>> net = ImageText(3, widths=(4, 8), text="lstm", has_map=True)
  >>> inputs = jnp.zeros((8, 8, 1)), jnp.zeros((5, 6)), jnp.array([True, True, False, False, False])
  >>> found, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), *inputs)
  >>> found.logits.shape, found.heat.shape
  ((3,), (8, 8))

  Attributes:
    num_classes: of the logits.
    widths: channels of each level, finest first.
    text: "none"; "mean": the mean of the word vectors stands beside the code of the picture;
      "lstm": the last state of an LSTM that starts from the code stands beside it. In either case
      the decoder is told, too.
    num_states: of the LSTM.
    has_map: whether a decoder with skip connections makes a map.
    sees_image: False puts zeros in the place of the picture, as a control for what the text tells.
  """

  num_classes: int
  widths: tuple[int, ...] = (8, 16, 32)
  text: Literal["none", "mean", "lstm"] = "none"
  num_states: int = 32
  has_map: bool = False
  sees_image: bool = True

  def __post_init__(self):
    super().__post_init__()
    check.one_of("text", self.text, ("none", "mean", "lstm"))

  @nn.compact
  def __call__(self, image: jax.Array, words: jax.Array, is_word: jax.Array) -> ImageTextOutput:
    """`is_word` [word] is False where the text has ended; words there change nothing."""
    x, skips = image[None] if self.sees_image else jnp.zeros_like(image)[None], []
    for level, width in enumerate(self.widths):
      x = pooling.mean_pool(x) if level else x
      x = NormedBlock(width, name=f"encoder{level}")(x)
      skips.append(x)
    code = x.mean(tuple(range(1, x.ndim - 1)))[0]
    known = self._known(code, words, is_word)
    logits = nn.Dense(self.num_classes, name="head")(known)
    return ImageTextOutput(logits, self._heat(skips, known))

  def _known(self, code: jax.Array, words: jax.Array, is_word: jax.Array) -> jax.Array:
    """What the picture and the text say, as one vector."""
    if self.text == "none":
      return code
    if self.text == "mean":
      total = jnp.where(is_word[:, None], words, 0.0).sum(0)
      return jnp.concatenate([code, total / jnp.maximum(is_word.sum(), 1)])
    cell = nn.OptimizedLSTMCell(self.num_states, name="lstm")
    start = nn.tanh(nn.Dense(self.num_states, name="lstm_start")(code))
    carry = jnp.zeros_like(start), start
    clean = jnp.where(is_word[:, None], words, 0.0)

    def read(
      cell: nn.Module, carry: tuple[jax.Array, jax.Array], word: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
      vector, is_there = word
      new, _ = cell(carry, vector)
      return jax.tree.map(lambda a, b: jnp.where(is_there, a, b), new, carry), None

    scan = nn.scan(read, variable_broadcast="params", split_rngs={"params": False})
    (_, state), _ = scan(cell, carry, (clean, is_word))
    return jnp.concatenate([code, state])

  def _heat(self, skips: list[jax.Array], known: jax.Array) -> jax.Array:
    shape = skips[0].shape[1:-1]
    if not self.has_map:
      return jnp.zeros(shape)
    told = nn.Dense(self.widths[-1], name="decoder_told")(known)
    x = skips[-1] + told.reshape((1,) * (skips[-1].ndim - 1) + told.shape)
    for level in reversed(range(len(self.widths) - 1)):
      x = pooling.upsample_linear(x, skips[level].shape[1:-1])
      x = jnp.concatenate([x, skips[level]], axis=-1)
      x = NormedBlock(self.widths[level], name=f"decoder{level}")(x)
    return nn.Dense(1, name="decoder_head")(x)[0, ..., 0]
