"""Mixing baselines around `supervised`: Mixup, MixStyle, random convolutions, random styles.

supervised(transformed(loss_fn, randconv()), tx)          another image, the same label
supervised(transformed(loss_fn, style_bank), tx)          a random style each time
paired(supervised(mixup(predict, loss), tx))              an example and a partner of its batch
paired(supervised(mixstyle(nets.mixstyle(module), loss), tx))
paired(..., choose=fusestyle.least_similar(...))          the least similar partner of its batch
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check, rng
from medjax.ops import conv
from medjax.tree import entry
from medjax.types import Batch, Key, Leaf, LossFn, Metrics, Params, PyTree, Step, TrainState

KeyedTransform = Callable[[Key, jax.Array], jax.Array]
"""`transform(key, image) -> image` of ONE example, such as a `synth.StyleBank`."""
Choice = Callable[[Params, PyTree, Key], jax.Array]
"""`choose(params, batch, key) -> [batch]` positions of the partners."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pair:
  """An example and a partner; its weight, index and draw are the example's."""

  example: Leaf
  partner: Leaf

  @property
  def weight(self) -> Any:
    return entry(self.example, "weight")

  @property
  def index(self) -> Any:
    return entry(self.example, "index")

  @property
  def draw(self) -> Any:
    return entry(self.example, "draw")


def paired(step: Step, *, choose: Choice | None = None) -> Step:
  """The same training, whose loss gets a `Pair`: each example with another of its batch.

  A random cycle through the examples of weight above 0 says who follows whom; it depends on their
  ids, so that padding and order change nothing. One example alone is its own partner.

  Args:
    step: a Step whose loss takes a `Pair`.
    choose: `choose(params, batch, key) -> [batch]` positions of the partners, in place of the
      cycle; see `fusestyle.least_similar`. The metric "partners" then says how many different
      examples were chosen, as a share of those that chose (1 for a cycle, 1 / n for one hub), and
      "hub" the share of those that chose the one that is chosen most.
  Raises:
    InputError: a Step whose examples may not meet (private training), or one in chunks.
  """
  check.require(
    step.releases_per_sample is None and step.chunked is None,
    "a Step that takes whole batches and lets examples meet",
    "one that is private or works in chunks",
    "leave out paired(...): a pair puts two people into one gradient",
  )

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    own_key = rng.stream(key, "pairs")
    partner = partners(own_key, batch) if choose is None else choose(state.params, batch, own_key)
    pairs = Pair(batch, jax.tree.map(lambda x: x[partner], batch))
    state, metrics = step.update(state, pairs, key)
    if choose is not None:
      weight = entry(batch, "weight")
      counts = jnp.ones(len(partner)) if weight is None else (weight > 0).astype(jnp.float32)
      times = jnp.zeros(len(partner)).at[partner].add(counts)
      total = jnp.maximum(counts.sum(), 1.0)
      metrics = {**metrics, "partners": (times > 0).sum() / total, "hub": times.max() / total}
    return state, metrics

  return dataclasses.replace(step, update=update, manifest={**step.manifest, "paired": True})


def partners(key: Key, batch: PyTree) -> jax.Array:
  """[batch] positions; examples of weight 0 are nobody's partner but their own."""
  size = jax.tree.leaves(batch)[0].shape[0]
  weight = entry(batch, "weight")
  place = jax.vmap(jax.random.uniform)(rng.example_keys(key, batch))
  counts = jnp.ones(size, bool) if weight is None else weight > 0
  order = jnp.argsort(jnp.where(counts, place, 2.0))
  following = order[(jnp.arange(size) + 1) % jnp.maximum(counts.sum(), 1)]
  found = jnp.zeros(size, order.dtype).at[order].set(following)
  return jnp.where(counts, found, jnp.arange(size))


def mixup(
  predict: Callable[[Params, jax.Array, Key], Any],
  loss: Callable[[Any, jax.Array], jax.Array],
  *,
  alpha: float | int = 0.4,
) -> LossFn:
  """Loss of a `Pair` on the weighted mean of both images (Zhang et al., ICLR 2018).

    x = m x_1 + (1 - m) x_2,   m loss(f(x), y_1) + (1 - m) loss(f(x), y_2),   m ~ Beta(alpha, alpha)

  Args:
    predict: `predict(params, image, key) -> logits`; runs once a pair.
    loss: `loss(logits, label)`, as in `medjax.losses`.
    alpha: above 0; the larger, the more even the mixture.
  """
  check.positive("alpha", alpha)

  def loss_fn(params: Params, pair: Pair, key: Key) -> jax.Array:
    first, second = pair.example, pair.partner
    share = jax.random.beta(rng.stream(key, "mixup"), alpha, alpha)
    logits = predict(params, share * first.image + (1 - share) * second.image, key)
    return share * loss(logits, first.label) + (1 - share) * loss(logits, second.label)

  return loss_fn


def mixstyle(
  predict: Callable[[Params, jax.Array, jax.Array, Key], Any],
  loss: Callable[[Any, jax.Array], jax.Array],
) -> LossFn:
  """Loss of a `Pair` on an image whose features take part of their style from the partner.

  Args:
    predict: `predict(params, image, partner_image, key) -> logits`, see `nets.mixstyle`.
    loss: `loss(logits, label)`, as in `medjax.losses`.
  """

  def loss_fn(params: Params, pair: Pair, key: Key) -> jax.Array:
    logits = predict(params, pair.example.image, pair.partner.image, rng.stream(key, "mixstyle"))
    return loss(logits, pair.example.label)

  return loss_fn


def transformed(
  loss_fn: LossFn, transform: KeyedTransform, *, probability: float | int = 1.0
) -> LossFn:
  """The loss on a randomly changed image.

  Args:
    loss_fn: of ONE example with an image.
    transform: `transform(key, image) -> image` of the same shape.
    probability: that the image is changed, in [0, 1].
  """
  check.in_interval("probability", probability, 0.0, 1.0)

  def changed(params: Params, example: Batch, key: Key) -> jax.Array:
    draw_key, coin_key = rng.streams(key, "transform", "coin")
    image = transform(draw_key, example.image)
    check.same_shape("the transformed image", image.shape, "the image", example.image.shape)
    is_changed = jax.random.bernoulli(coin_key, probability)
    return loss_fn(params, example.replace(image=jnp.where(is_changed, image, example.image)), key)

  return changed


def randconv(*, sizes: tuple[int, ...] = (1, 3, 5, 7), mix: bool = True) -> KeyedTransform:
  """A random convolution: shapes stay, texture and contrast change (Xu et al., ICLR 2021).

    y = a x + (1 - a) W * x,   W ~ N(0, 1 / (channels * size^d)),   a ~ U(0, 1)

  Args:
    sizes: odd; each image draws one.
    mix: False sets a = 0; the paper then keeps every second image as it is
      (`transformed(..., probability=0.5)`).
  Returns:
    `transform(key, image)`; zeros lie outside the image. Normalise intensities after it.
  """
  check.require(
    sizes and all(size >= 1 and size % 2 for size in sizes),
    "odd sizes of 1 or more",
    f"{sizes=}",
    "pass for example (1, 3, 5, 7)",
  )
  reach = max(sizes) // 2

  def transform(key: Key, image: Float[Array, "*space channel"]) -> jax.Array:
    size_key, weight_key, share_key = rng.streams(key, "size", "weight", "share")
    ndim, channels = image.ndim - 1, image.shape[-1]
    size = jax.random.choice(size_key, jnp.asarray(sizes))
    near = jnp.abs(jnp.arange(-reach, reach + 1)) <= size // 2
    window = jnp.ones((1,) * ndim, image.dtype)
    for axis in range(ndim):
      window = window * near.reshape([-1 if a == axis else 1 for a in range(ndim)])
    std = jax.lax.rsqrt(channels * size.astype(image.dtype) ** ndim)
    kernel = std * jax.random.normal(weight_key, (*window.shape, channels, channels), image.dtype)
    axes = "DHW"[-ndim:]
    convolved = conv.conv_general_dilated(
      image[None],
      kernel * window[..., None, None],
      (1,) * ndim,
      "SAME",
      dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
    )[0]
    share = jax.random.uniform(share_key) if mix else 0.0
    return share * image + (1 - share) * convolved

  return transform
