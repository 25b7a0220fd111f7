"""A small transformer that learns from what it is shown: known samples in, labels of new ones out.

Trained once on many made-up problems, it classifies by reading known samples, without an update of
its weights (as TabPFN does, Hollmann et al. 2023). It stands in for a language model that is given
"feature is in class label" lines; see `medjax.inference.transduction`.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from medjax import check
from medjax.nets.attention import token_layer


class InContext(nn.Module):
  """Logits of every row of one problem from the rows whose label is given.

  A row is a token: its feature and its label, or a learnt mark where the label is unknown. Every
  row attends to the rows with labels, never to one without, so new samples do not see each other,
  and a row without a label never is its own key.

  >>> import jax
  >>> net = InContext(num_classes=2, width=8, num_layers=1, num_heads=2)
  >>> features, labels = jnp.ones((5, 3)), jnp.array([0, 1, 1, -1, -1])
  >>> params = net.init(jax.random.key(0), features, labels)
  >>> net.apply(params, features, labels).shape
  (5, 2)

  Attributes:
    num_classes: most classes that a problem can have.
    width: channels of a token, a multiple of `num_heads` and of 2.
    num_layers, num_heads: of the transformer.
    ordered: whether the order of the known rows counts. True gives each a position counted from the
      question backwards (the last known row is 1) and lets it see the rows before it only, as a
      language model reads. False makes them a set: any order gives the same logits.
  """

  num_classes: int
  width: int = 64
  num_layers: int = 3
  num_heads: int = 4
  ordered: bool = False

  def __post_init__(self):
    super().__post_init__()
    check.require(
      self.width % self.num_heads == 0 and self.width % 2 == 0,
      "a width that num_heads and 2 divide",
      f"width {self.width} and {self.num_heads} heads",
      "change one of them",
    )

  @nn.compact
  def __call__(
    self, features: Float[Array, "row feature"], labels: Int[Array, " row"]
  ) -> Float[Array, "row class"]:
    """Logits of rows; `labels` are class ids, below 0 where unknown. One known row at least."""
    known = labels >= 0
    marks = nn.Embed(self.num_classes + 1, self.width, name="label")
    x = nn.Dense(self.width, name="feature")(features)
    x = x + marks(jnp.where(known, labels, self.num_classes))
    seen = jnp.broadcast_to(known[None, :], (len(labels), len(labels)))
    if self.ordered:
      # Known rows from here to the end, 0 for a new one: its distance to the question.
      distance = jnp.where(known, jnp.cumsum(known[::-1])[::-1], 0)
      x = x + _waves(distance, self.width)
      behind = jnp.where(known[:, None], distance[None, :] >= distance[:, None], True)
      seen = seen & behind
    for layer in range(self.num_layers):
      x, _ = token_layer(layer, x, seen, num_heads=self.num_heads)
    return nn.Dense(self.num_classes, name="logits")(nn.LayerNorm(name="last")(x))


def _waves(position: Int[Array, " row"], width: int) -> Float[Array, "row width"]:
  """Sines and cosines of a position at wavelengths from 2 pi to about 6,000 rows."""
  rates = 1000.0 ** -(jnp.arange(width // 2) / (width // 2))
  angles = position[:, None].astype(jnp.float32) * rates[None, :]
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
