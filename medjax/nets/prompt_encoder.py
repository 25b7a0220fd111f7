"""Prompts of a segmenter as tokens: clicks, corners of boxes, and the mask of an earlier answer.

Kirillov et al., "Segment Anything" (2023). A coordinate is brought to [-1, 1], multiplied by fixed
random frequencies F, and its sines and cosines are taken; what the token means is added:

  e(p, label) = [sin(2 pi F p), cos(2 pi F p)] + v_label

Coordinates are (x, y) in pixels of the network's input, x to the right; the middle of the first
pixel is (0, 0). They are differentiable, so that a prompt can be improved by its gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from medjax import check
from medjax.nets.attention import layer_norm
from medjax.nets.import_torch import TorchNames

IGNORED, NOT_A_POINT, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -2, -1, 0, 1, 2, 3
"""What a token of a prompt means. IGNORED is seen by nobody: it fills a batch of prompts up."""
_NAMES = ("not_a_point", "background", "foreground", "top_left", "bottom_right")


class Prompts(NamedTuple):
  """What a person asks for in one image; `jax.vmap` over it gives several answers at once.

  Attributes:
    coordinates: [token, 2] float32, (x, y) in pixels of the network's input.
    labels: [token] int32: 1 inside, 0 outside, 2 and 3 the corners of a box, -1 no point (SAM puts
      one behind clicks without a box), -2 ignored.
    mask: [4 h, 4 w, 1] logits of an earlier mask, h x w being the size of the embedding; None.
  """

  coordinates: Array
  labels: Array
  mask: Array | None = None


def no_prompt() -> Prompts:
  """Asks for whatever the network thinks best."""
  return Prompts(jnp.zeros((0, 2)), jnp.zeros(0, jnp.int32))


def point_prompt(
  points: Float[Array, "point 2"], labels: Int[Array, " label"], box: Array | None = None
) -> Prompts:
  """Clicks, with a box or without.

  >>> point_prompt(jnp.array([[3.0, 4.0]]), jnp.array([1])).labels
  Array([ 1, -1], dtype=int32)

  Args:
    points: (x, y) in pixels.
    labels: 1 for a click inside, 0 for one outside of what is wanted.
    box: (left, top, right, bottom) in pixels, None for clicks alone.
  Raises:
    InputError: points without a label each.
  """
  check.same_shape("labels", labels.shape, "points", points.shape[:1])
  # SAM was trained with a token of no point behind clicks that come without a box.
  more = jnp.zeros((1, 2)) if box is None else box.reshape(2, 2)
  kinds = [NOT_A_POINT] if box is None else [TOP_LEFT, BOTTOM_RIGHT]
  return Prompts(
    jnp.concatenate([points, more]),
    jnp.concatenate([labels.astype(jnp.int32), jnp.array(kinds, jnp.int32)]),
  )


def box_prompt(box: Float[Array, "4"]) -> Prompts:
  """A box (left, top, right, bottom) in pixels.

  >>> boxes = jnp.array([[1.0, 2.0, 8.0, 9.0], [0.0, 0.0, 4.0, 4.0]])
  >>> jax.vmap(box_prompt)(boxes).coordinates.shape  # several in one program
  (2, 2, 2)
  """
  return Prompts(box.reshape(2, 2), jnp.array([TOP_LEFT, BOTTOM_RIGHT], jnp.int32))


class PromptEncoder(nn.Module):
  """Tokens of a prompt, and the positions of the pixels of an embedding in the same code.

  >>> net, asked = PromptEncoder(width=8), box_prompt(jnp.array([1.0, 2.0, 8.0, 9.0]))
  >>> made = lambda key: net.init_with_output(key, asked, (4, 4), (16, 16))[0]
  >>> sparse, dense, positions = jax.eval_shape(made, jax.random.key(0))
  >>> sparse.shape, dense.shape, positions.shape
  ((2, 8), (4, 4, 8), (4, 4, 8))

  Attributes:
    width: channels of a token, an even number.
    mask_width: channels in which a mask is brought to the size of the embedding, divisible by 4.
  Guarantees: the frequencies get no gradient. They stand among the parameters, since a trained
    network is bound to them: leave "frequencies" out of what weight decay may touch.
  """

  width: int = 256
  mask_width: int = 16

  def __post_init__(self):
    super().__post_init__()
    check.require(self.width % 2 == 0, "an even width", f"{self.width}", "half are sines")

  @nn.compact
  def __call__(
    self, prompts: Prompts, embedding_shape: tuple[int, int], image_shape: tuple[int, int]
  ) -> tuple[Float[Array, "token width"], Float[Array, "h w width"], Float[Array, "h w width"]]:
    """Tokens, what is added to the embedding for the mask, and the positions of its pixels.

    Args:
      prompts: of one image.
      embedding_shape: (h, w) of the embedding.
      image_shape: (height, width) of the network's input.
    """
    normal = nn.initializers.normal(1.0)
    frequencies = self.param("frequencies", normal, (2, self.width // 2))
    frequencies = jax.lax.stop_gradient(frequencies)
    meanings = [self.param(name, normal, (self.width,)) for name in _NAMES]

    def code(share: jax.Array) -> jax.Array:
      """Sines and cosines of positions (x, y) as shares of the image's width and height."""
      angles = 2 * jnp.pi * ((2 * share - 1) @ frequencies)
      return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)

    height, width = image_shape
    share = (prompts.coordinates + 0.5) / jnp.array([[width, height]], jnp.float32)
    labels = prompts.labels[:, None]
    place = code(share)
    sparse = jnp.where(labels >= 0, place, 0.0)
    for label, meaning in enumerate(meanings, start=NOT_A_POINT):
      sparse = jnp.where(labels == label, sparse + meaning[None], sparse)
    rows, columns = embedding_shape
    y, x = jnp.meshgrid(
      (jnp.arange(rows) + 0.5) / rows, (jnp.arange(columns) + 0.5) / columns, indexing="ij"
    )
    positions = code(jnp.stack([x, y], -1))
    return sparse, self._dense(prompts.mask, embedding_shape), positions

  def torch_names(self) -> TorchNames:
    """Names of the released code."""
    embeddings = ("background", "foreground", "top_left", "bottom_right")
    vectors = {name: f"point_embeddings.{i}.weight" for i, name in enumerate(embeddings)}
    vectors |= {"not_a_point": "not_a_point_embed.weight", "no_mask": "no_mask_embed.weight"}
    layers = {"mask0": 0, "mask_norm0": 1, "mask1": 3, "mask_norm1": 4, "mask2": 6}
    return TorchNames(
      {
        **vectors,
        **{name: f"mask_downscaling.{i}" for name, i in layers.items()},
        "frequencies": "pe_layer.positional_encoding_gaussian_matrix",
      },
      layouts={name: lambda x: x[0] for name in vectors},
    )

  def _dense(self, mask: jax.Array | None, shape: tuple[int, int]) -> jax.Array:
    """[h, w, width] of a mask, or one learnt vector where there is none.

    The layers for masks are made in any case: whether a mask comes is not known at the start.
    """
    empty = self.param("no_mask", nn.initializers.normal(1.0), (self.width,))
    gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    given = jnp.zeros((4 * shape[0], 4 * shape[1], 1)) if mask is None else mask
    wanted = (4 * shape[0], 4 * shape[1], 1)
    check.require(
      given.shape == wanted,
      f"a mask of {wanted}, four times the embedding",
      f"{given.shape}",
      "resize its logits",
    )
    if mask is None and not self.is_initializing():
      return jnp.broadcast_to(empty, (*shape, self.width))
    halve = lambda n, name: nn.Conv(n, (2, 2), (2, 2), padding="VALID", name=name)  # noqa: E731
    x = gelu(layer_norm("mask_norm0")(halve(self.mask_width // 4, "mask0")(given)))
    x = gelu(layer_norm("mask_norm1")(halve(self.mask_width, "mask1")(x)))
    made = nn.Conv(self.width, (1, 1), name="mask2")(x)
    return jnp.broadcast_to(empty, made.shape) if mask is None else made
