"""Multi-head attention between two sets of tokens, and the two-layer network that follows it.

  softmax(Q K' / sqrt(d) + bias) V,   d: channels of a head

Projections of queries, keys and values are four plain `Dense` layers, so that low-rank updates
(`medjax.adapt`) find matrices of [in, out].
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from medjax import check
from medjax.nets.import_torch import TorchNames

NECK_NAMES = {
  "neck/narrow": "neck.0",
  "neck/norm0": "neck.1",
  "neck/smooth": "neck.2",
  "neck/norm1": "neck.3",
}
"""What the released code of SAM calls the layers of a `Neck`."""


class Attention(nn.Module):
  """What each query reads from the keys.

  >>> net = Attention(width=8, num_heads=2, inner_width=4)
  >>> q, k = jnp.ones((3, 8)), jnp.ones((5, 8))
  >>> params = net.init(jax.random.key(0), q, k, k)
  >>> net.apply(params, q, k, k).shape
  (3, 8)

  Attributes:
    width: channels that come out.
    num_heads: heads; they divide the inner width.
    inner_width: channels of queries, keys and values in all heads together; 0: `width`.
  """

  width: int
  num_heads: int
  inner_width: int = 0

  @nn.compact
  def __call__(
    self,
    queries: Float[Array, "*leading query channel"],
    keys: Float[Array, "*leading key channel"],
    values: Float[Array, "*leading key channel"],
    *,
    bias: Callable[[jax.Array], jax.Array] | None = None,
    is_key: Bool[Array, " key"] | None = None,
  ) -> Float[Array, "*leading query out"]:
    """Args:
    queries, keys, values: tokens; leading axes, such as windows, are apart from each other.
    bias: `bias(q)` with q of [*leading, query, head, d] -> [*leading, head, query, key] or
      [head, query, key], added to the scores.
    is_key: False where a key may not be looked at; one key at least may be.
    """
    inner = self.inner_width or self.width
    check.require(
      inner % self.num_heads == 0,
      "heads that divide the channels",
      f"{self.num_heads} heads and {inner} channels",
      "change one of them",
    )
    size = inner // self.num_heads

    def heads(name: str, x: jax.Array) -> jax.Array:
      return nn.Dense(inner, name=name)(x).reshape(*x.shape[:-1], self.num_heads, size)

    q, k, v = heads("query", queries), heads("key", keys), heads("value", values)
    scores = jnp.einsum("...ihc,...jhc->...hij", q * size**-0.5, k)
    if bias is not None:
      added = bias(q)
      scores = scores + added.reshape((1,) * (scores.ndim - added.ndim) + added.shape)
    if is_key is not None:
      # A finite bound: where no key may be looked at, the mean of all is read instead of NaN.
      allowed = is_key.reshape((1,) * (scores.ndim - 1) + is_key.shape)
      scores = jnp.where(allowed, scores, -1e9)
      # 0 * NaN is NaN: what stands in an ignored place must not come back through its weight of 0.
      v = jnp.where(is_key.reshape((1,) * (v.ndim - 3) + (-1, 1, 1)), v, 0.0)
    weights = jax.nn.softmax(scores, axis=-1)
    read = jnp.einsum("...hij,...jhc->...ihc", weights, v)
    return nn.Dense(self.width, name="out")(read.reshape(*queries.shape[:-1], inner))


def token_layer(
  number: int, x: Float[Array, "token width"], seen: Bool[Array, "token token"], *, num_heads: int
) -> tuple[Float[Array, "token width"], Float[Array, "head token token"]]:
  """A layer of a transformer whose tokens see some of the others, and where each of them looked.

    x + Attention(LN(x)),   then   x + MLP(LN(x))

  To be called in a compact module, whose own the parameters are, under the number of the layer.

  Args:
    number: of the layer, a part of the names of its parameters.
    x: tokens.
    seen: whether the token of the row looks at that of the column.
    num_heads: heads; they divide the width.
  """
  width = x.shape[-1]
  size = width // num_heads
  normed = nn.LayerNorm(name=f"norm{number}a")(x)
  q, k, v = (
    nn.Dense(width, name=f"{name}{number}")(normed).reshape(-1, num_heads, size)
    for name in ("query", "key", "value")
  )
  scores = jnp.einsum("ihc,jhc->hij", q, k) / jnp.sqrt(jnp.float32(size))
  # A finite bound: a token that sees nothing gets the mean of all instead of NaN.
  weights = jax.nn.softmax(jnp.where(seen[None], scores, -1e9), axis=-1)
  mixed = jnp.einsum("hij,jhc->ihc", weights, v).reshape(-1, width)
  x = x + nn.Dense(width, name=f"mix{number}")(mixed)
  inner = nn.Dense(2 * width, name=f"wide{number}")(nn.LayerNorm(name=f"norm{number}b")(x))
  return x + nn.Dense(width, name=f"back{number}")(nn.gelu(inner)), weights


def packed_names(own: str, packed: str, shape: tuple[int, ...], axis: int) -> TorchNames:
  """Names of the queries, keys and values that PyTorch keeps in one layer.

  Args:
    own: path of an `Attention`.
    packed: name of the layer in PyTorch, without ".weight".
      shape: how the rows of its weight are ordered; one entry of 3 for queries, keys and values.
    axis: the place of that entry.
  """
  modules, layouts = {}, {}
  for place, name in enumerate(("query", "key", "value")):

    def rows(array: np.ndarray, place: int = place) -> np.ndarray:
      if array.shape[0] % abs(math.prod(shape)):
        return array  # of another network: the import reports its shape
      apart = array.reshape(*shape, *array.shape[1:])
      kept = np.take(apart, place, axis)
      return kept.reshape(-1, *array.shape[1:]).T  # [out, in] -> [in, out]; of a bias nothing

    for leaf, last in (("kernel", "weight"), ("bias", "bias")):
      modules[f"{own}/{name}/{leaf}"] = f"{packed}.{last}"
      layouts[f"{own}/{name}/{leaf}"] = rows
  return TorchNames(modules, layouts=layouts)


class TokenMLP(nn.Module):
  """Two dense layers with a nonlinearity between them, on every token alike.

  Attributes:
    hidden_width: channels between the two.
    width: channels that come out.
    activation: between the two; exact GELU unless another one is given.
  """

  hidden_width: int
  width: int
  activation: Callable[[jax.Array], jax.Array] = lambda x: jax.nn.gelu(x, approximate=False)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.Dense(self.width, name="back")(
      self.activation(nn.Dense(self.hidden_width, name="wide")(x))
    )


def layer_norm(name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
  """LayerNorm over channels; the variance is a mean of squares, which cannot fall below 0."""
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


class Neck(nn.Module):
  """Brings what an encoder gives to the channels of a decoder: 1x1, norm, 3x3, norm.

  Attributes:
    width: channels that come out.
  """

  width: int

  @nn.compact
  def __call__(self, x: Float[Array, "h w channel"]) -> Float[Array, "h w width"]:
    x = nn.Conv(self.width, (1, 1), use_bias=False, name="narrow")(x)
    x = layer_norm("norm0")(x)
    x = nn.Conv(self.width, (3, 3), use_bias=False, name="smooth")(x)
    return layer_norm("norm1")(x)


def windows(
  x: Float[Array, "h w channel"], size: int
) -> tuple[Float[Array, "window token channel"], tuple[int, int]]:
  """The windows of size x size, padded with zeros right and below, and how many stand where."""
  height, width, channels = x.shape
  rows, columns = -(-height // size), -(-width // size)
  x = jnp.pad(x, ((0, rows * size - height), (0, columns * size - width), (0, 0)))
  x = x.reshape(rows, size, columns, size, channels).transpose(0, 2, 1, 3, 4)
  return x.reshape(rows * columns, size * size, channels), (rows, columns)


def unwindowed(
  x: Float[Array, "window token channel"], counts: tuple[int, int], shape: tuple[int, int]
) -> Float[Array, "h w channel"]:
  """Undoes `windows`; what was padded is cut off."""
  rows, columns = counts
  size = round(x.shape[1] ** 0.5)
  x = x.reshape(rows, columns, size, size, -1).transpose(0, 2, 1, 3, 4)
  return x.reshape(rows * size, columns * size, -1)[: shape[0], : shape[1]]
