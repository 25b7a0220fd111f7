"""Random changes of an image in two steps: draw all randomness, then apply it without any.

Whoever holds the draws can repeat a change, or fix a part of it: tests compare it with its closed
form, studies change two images alike. `synth` and `data.augmentation` hold the transforms.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from medjax import check, rng
from medjax.types import Key, PyTree


@runtime_checkable
class Transform(Protocol):
  """A random change of ONE image; `jax.vmap` adds the batch.

  `draw(key, shape)` gives the parameters for an image of `shape` = [*space, channel], and
  `apply(parameters, image)` the changed image, of the same shape. What changes label maps has the
  same two functions for maps of `shape` = [*space].
  """

  def draw(self, key: Key, shape: tuple[int, ...], /) -> PyTree: ...

  def apply(self, parameters: Any, image: Array, /) -> Array: ...


@dataclasses.dataclass(frozen=True)
class Fixed:
  """A change without randomness, `function(image) -> image`, among others that have some."""

  function: Callable[[Array], Array]

  def draw(self, key: Key, shape: tuple[int, ...]) -> tuple[()]:
    del key, shape
    return ()

  def apply(self, parameters: tuple[()], image: Float[Array, "*any"]) -> Float[Array, "*any"]:
    del parameters
    return self.function(image)


class SometimesParameters(NamedTuple):
  """[channel] bool, which channels change; what the transform itself drew."""

  is_on: Bool[Array, " channel"]
  inner: PyTree


@dataclasses.dataclass(frozen=True)
class Sometimes:
  """A transform that only some images undergo; the others stay as they are, bit for bit.

  The transform is always computed and its result taken or not: a branch would cost the same under
  `jax.vmap`.

  Attributes:
    transform: what may happen.
    probability: probability of an image, in [0, 1].
    channel_probability: probability of each channel of such an image; None changes all channels.
  """

  transform: Transform
  probability: float
  channel_probability: float | None = None

  def __post_init__(self):
    check.probability("probability", self.probability)
    if self.channel_probability is not None:
      check.probability("channel_probability", self.channel_probability)

  def draw(self, key: Key, shape: tuple[int, ...]) -> SometimesParameters:
    """The choice comes from the stream "gate" of the key, the rest from the transform's streams."""
    channels = shape[-1:]
    gate_key = rng.stream(key, "gate")
    if self.channel_probability is None:
      is_on = jnp.broadcast_to(jax.random.bernoulli(gate_key, self.probability), channels)
    else:
      image_key, channel_key = rng.streams(gate_key, "example", "channel")
      is_on = jax.random.bernoulli(image_key, self.probability)
      is_on &= jax.random.bernoulli(channel_key, self.channel_probability, channels)
    return SometimesParameters(is_on, self.transform.draw(key, shape))

  def apply(
    self, parameters: SometimesParameters, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    changed = self.transform.apply(parameters.inner, image)
    return jnp.where(parameters.is_on, changed, image)


@dataclasses.dataclass(frozen=True)
class AboveMinimum:
  """A transform of magnitudes, for images such as z-scored ones that go below 0.

  In every channel the lowest value counts as 0, as air does for a scanner:
  y = T(x - min x) + min x.
  """

  transform: Transform

  def draw(self, key: Key, shape: tuple[int, ...]) -> PyTree:
    return self.transform.draw(key, shape)

  def apply(
    self, parameters: PyTree, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    low = jnp.min(image, tuple(range(image.ndim - 1)), keepdims=True)
    return self.transform.apply(parameters, image - low) + low


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """Transforms one after the other, each under a name; make one with `pipeline`.

  Attributes:
    steps: (name, transform) in the order in which they are applied.
  """

  steps: tuple[tuple[str, Transform], ...] = ()

  def draw(self, key: Key, shape: tuple[int, ...]) -> dict[str, PyTree]:
    """Parameters by name, each from the stream of its name.

    Guarantees: adding, removing or moving a step leaves the draws of the others as they are.
    """
    return {name: step.draw(rng.stream(key, name), shape) for name, step in self.steps}

  def apply(
    self, parameters: dict[str, PyTree], image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """The image after all steps; `parameters` may hold more than their names."""
    for name, step in self.steps:
      image = step.apply(parameters[name], image)
    return image

  def __call__(
    self, key: Key, image: Float[Array, "*space channel"]
  ) -> Float[Array, "*space channel"]:
    """`apply(draw(key, image.shape), image)`."""
    return self.apply(self.draw(key, image.shape), image)

  def __getitem__(self, name: str) -> Transform:
    return dict(self.steps)[name]

  def replace(self, **changes: Transform | None) -> "Pipeline":
    """Other transforms under the names given; None removes one, new names come last."""
    return pipeline(**(dict(self.steps) | changes))


def pipeline(**steps: Transform | None) -> Pipeline:
  """The transforms in the order of the call, without those that are None.

  >>> change = pipeline(double=Fixed(lambda x: 2 * x), nothing=None, shift=Fixed(lambda x: x + 1))
  >>> change(jax.random.key(0), jnp.ones((2, 1))).tolist()
  [[3.0], [3.0]]
  """
  return Pipeline(tuple((name, step) for name, step in steps.items() if step is not None))


@dataclasses.dataclass(frozen=True)
class OneOf:
  """One of several transforms, each as likely; make one with `one_of`.

  Attributes:
    choices: (name, transform).
  """

  choices: tuple[tuple[str, Transform], ...]

  def draw(self, key: Key, shape: tuple[int, ...]) -> tuple[Int[Array, ""], dict[str, PyTree]]:
    """Which one, and the parameters of all, each from the stream of its name."""
    which = jax.random.randint(rng.stream(key, "choice"), (), 0, len(self.choices))
    return which, {name: one.draw(rng.stream(key, name), shape) for name, one in self.choices}

  def apply(
    self,
    parameters: tuple[Int[Array, ""], dict[str, PyTree]],
    image: Float[Array, "*space channel"],
  ) -> Float[Array, "*space channel"]:
    which, drawn = parameters
    branches = [lambda x, one=one, p=drawn[name]: one.apply(p, x) for name, one in self.choices]
    return jax.lax.switch(which, branches, image)


def one_of(**choices: Transform) -> OneOf:
  """One of the transforms of the call.

  >>> change = one_of(double=Fixed(lambda x: 2 * x), negate=Fixed(lambda x: -x))
  >>> change.apply((jnp.int32(1), {"double": (), "negate": ()}), jnp.ones((1, 1))).tolist()
  [[-1.0]]
  """
  check.require(choices, "at least one transform", "none", "name one")
  return OneOf(tuple(choices.items()))
