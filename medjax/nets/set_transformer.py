"""A transformer over a set of items, with a mask for sets of different size.

  E_l = E_{l-1} + Attention(LN(E_{l-1})),   then   E_l + FFN(LN(E_l)),   Attention = softmax(QK'/sqrt(d)) V

Akash et al., "Evidence-Driven Differential Diagnosis of Malignant Melanoma" (MelDD, 2023): the
items are the lesions of a patient, their kind is the site on the body, and further tokens say the
patient's age and sex. DEVIATION: the paper prints one residual round attention and network, and the
root of the whole width; here are the usual two residuals, and the width d of a head.
"""  # noqa: E501

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from medjax import check
from medjax.nets.attention import token_layer


class SetOutput(NamedTuple):
  """What the network says of each item, and where it looked.

  Attributes:
    logits: [item, output]; those of padded items mean nothing.
    attention: [layer, head, token, token], for `explain.attention_rollout`; tokens are those of
      `about`, then the items. Nobody attends to a padded item.
  """

  logits: Array
  attention: Array


class SetTransformer(nn.Module):
  """Logits of every item in the light of the other items of its set.

  >>> import jax
  >>> net = SetTransformer(num_outputs=1, width=8, num_layers=1, num_heads=2, num_kinds=3)
  >>> features, kinds = jnp.ones((4, 5)), jnp.array([0, 2, 2, 0])
  >>> is_item = jnp.array([True, True, True, False])  # three items, one place of padding
  >>> given = (features, is_item, kinds, (jnp.ones(2),))  # and one vector about the set
  >>> params = jax.eval_shape(net.init, jax.random.key(0), *given)
  >>> jax.eval_shape(net.apply, params, *given).attention.shape
  (1, 2, 5, 5)

  Attributes:
    num_outputs: logits of an item.
    width: channels of a token, a multiple of `num_heads`.
    num_layers, num_heads: of the transformer.
    num_kinds: kinds of items, each with a vector that is added to the item's; 0 for none.
    has_context: False lets an item see itself and `about` only, with the same weights: what the
      others add is then the difference of two networks of one size.
  Guarantees: the order of the items changes nothing but the order of the logits, and what stands in
    a padded place changes no item's logits, NaN included.
  """

  num_outputs: int
  width: int = 64
  num_layers: int = 4
  num_heads: int = 4
  num_kinds: int = 0
  has_context: bool = True

  def __post_init__(self):
    super().__post_init__()
    check.require(
      self.width % self.num_heads == 0,
      "a width that num_heads divides",
      f"width {self.width} and {self.num_heads} heads",
      "change one of them",
    )

  @nn.compact
  def __call__(
    self,
    features: Float[Array, "item feature"],
    is_item: Bool[Array, " mask"],
    kinds: Int[Array, " item"] | None = None,
    about: Sequence[Float[Array, " _"]] = (),
  ) -> SetOutput:
    """Logits of the items of ONE set; `jax.vmap` gives those of a batch.

    Args:
      features: [item, feature]; rows of padding hold anything.
      is_item: [item], False for padding.
      kinds: [item] in [0, num_kinds), wanted if there are kinds.
      about: vectors of any lengths, each a token that says something of the whole set.
    Raises:
      InputError: a set longer than its mask, or kinds without num_kinds or the other way round.
    """
    check.same_shape("items", features.shape[:1], "mask", is_item.shape)
    check.require(
      (kinds is not None) == (self.num_kinds > 0),
      "kinds of items where num_kinds > 0, and only there",
      f"{'kinds' if kinds is not None else 'none'} and num_kinds={self.num_kinds}",
      "pass both or neither",
    )
    x = nn.Dense(self.width, name="feature")(jnp.where(is_item[:, None], features, 0))
    if kinds is not None:
      x = x + nn.Embed(self.num_kinds, self.width, name="kind")(jnp.where(is_item, kinds, 0))
    num_about = len(about)
    if num_about:
      told = [nn.Dense(self.width, name=f"about{i}")(own) for i, own in enumerate(about)]
      types = nn.Embed(num_about + 1, self.width, name="type")(jnp.arange(num_about + 1))
      x = jnp.concatenate([jnp.stack(told) + types[:-1], x + types[-1:]])
    is_token = jnp.concatenate([jnp.ones(num_about, bool), is_item])
    seen = jnp.broadcast_to(is_token[None, :], (len(is_token), len(is_token)))
    if not self.has_context:
      # A token of `about` may see no item either: through it the next layer would see the others.
      place = jnp.arange(len(is_token))
      seen = seen & ((place[:, None] == place[None, :]) | (place < num_about)[None, :])
    maps = []
    for layer in range(self.num_layers):
      x, weights = token_layer(layer, x, seen, num_heads=self.num_heads)
      maps.append(weights)
    logits = nn.Dense(self.num_outputs, name="logits")(nn.LayerNorm(name="last")(x[num_about:]))
    return SetOutput(logits, jnp.stack(maps))
