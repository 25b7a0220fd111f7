"""Attention over a bag of tiles: one answer for all of them, and how much each one counted.

  a_k = softmax_k(w' phi(h_k)),      z = sum_k a_k h_k,      logits = head(z)

Ilse et al., "Attention-based Deep Multiple Instance Learning" (2018); Gu et al., "Cellular Features
Based Interpretable Network for Classifying Cell-Of-Origin from Whole Slide Images for Diffuse Large
B-Cell Lymphoma Patients" (CellFiNet, 2023). DEVIATION: no batch normalisation in phi, which would
make the tiles of one patient depend on who else is in the batch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from medjax import check


class BagOutput(NamedTuple):
  """What the network says of a bag.

  Attributes:
    logits: [output].
    attention: [tile], 0 or more; sums to 1, and is 0 for padding. All 0 for a bag without a tile.
    bag: [feature], z: the mean of the tiles by their attention.
  """

  logits: Array
  attention: Array
  bag: Array


class AttentionMIL(nn.Module):
  """Logits of ONE bag; `jax.vmap` gives those of a batch.

  >>> net = AttentionMIL(num_outputs=2)
  >>> features, is_tile = jnp.ones((5, 3)), jnp.arange(5) < 4  # four tiles, one place of padding
  >>> params = jax.eval_shape(net.init, jax.random.key(0), features, is_tile)
  >>> jax.eval_shape(net.apply, params, features, is_tile).bag.shape
  (3,)

  Attributes:
    num_outputs: logits of a bag.
    width: channels of the layers of phi.
    num_layers: of phi, each linear and rectified.
    hidden: channels of the head's hidden layer; 0 for a linear head, whose parts can be told
      exactly, see `explain.linear_parts`.
    is_uniform: True weighs all tiles alike: the mean of the tiles, the control of attention.
  """

  num_outputs: int
  width: int = 32
  num_layers: int = 2
  hidden: int = 32
  is_uniform: bool = False

  @nn.compact
  def __call__(
    self, features: Float[Array, "tile feature"], is_tile: Bool[Array, " mask"]
  ) -> BagOutput:
    """Answers for the tiles [tile, feature] whose `is_tile` is True; the others may hold anything.

    Raises:
      InputError: a bag longer than its mask.
    """
    check.same_shape("tiles", features.shape[:1], "mask", is_tile.shape)
    tiles = jnp.where(is_tile[:, None], features, 0)
    x = tiles
    for layer in range(self.num_layers):
      x = nn.relu(nn.Dense(self.width, name=f"phi{layer}")(x))
    scores = nn.Dense(1, name="attention")(x)[:, 0]
    scores = jnp.zeros_like(scores) if self.is_uniform else scores
    # A finite bound, and padding set to 0 afterwards: a bag without a tile gives 0 and no NaN.
    attention = jax.nn.softmax(jnp.where(is_tile, scores, -1e9)) * is_tile
    bag = jnp.matmul(attention, tiles, precision="highest")
    return BagOutput(self._head(bag), attention, bag)

  def _head(self, bag: Float[Array, " feature"]) -> Float[Array, " output"]:
    if self.hidden:
      bag = nn.relu(nn.Dense(self.hidden, name="hidden")(bag))
    return nn.Dense(self.num_outputs, name="logits")(bag)
