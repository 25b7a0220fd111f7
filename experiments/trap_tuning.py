"""A choice of channels that is learnt: its settings follow the gradient through a refit last layer.

Not a study: the arms "tuned" and "refit" of `experiments.test_time_selection`. The paper sets alpha
by hand and chooses hard. Here the choice is soft, and its settings theta are alpha, the share of
points on the artefact among the negative ones, and the temperature. They solve

  min_theta L_fair(w*(theta), theta),   w*(theta) = a step down L_train(w, theta) from w

by `grads.hypergradient`: L_train is the last layer's loss on training pictures, where the artefact
tells the class, L_fair the loss on a few pictures where it says nothing. That is more than the
other arms are told, so "refit" trains the last layer alone on the same few pictures, with the same
number of steps and no choice.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import data, grads, inference, losses
from medjax.types import Array, Key, Params, PyTree

HeadLogits = Callable[[Params, Array, Array], Array]
"""`head(params, features [height, width, channel], image) -> logits [class]`, what follows the
features; weights before them have no part in it and so do not move."""


class Choice(NamedTuple):
  """Settings of a soft choice, each free of bounds.

  Attributes:
    alpha: logit of the weight of the positive points.
    artefact: logit of the share of the negative points that lie on the artefact.
    heat: logarithm of the temperature, in deviations of the scores.
  """

  alpha: Array
  artefact: Array
  heat: Array


def start() -> Choice:
  """alpha .3, both kinds of negative points alike, a temperature of one deviation."""
  return Choice(jnp.log(jnp.float32(0.3 / 0.7)), jnp.float32(0), jnp.float32(0))


def softly_chosen(choice: Choice, example: PyTree, share: float) -> Array:
  """The features of an example with each channel weighted by the choice.

  Args:
    choice: see above.
    example: "features" [height, width, channel], "image", and points "lesion", "background" and
      "artefact" [point, 2].
    share: of the channels that stay.
  """
  size = example["image"].shape[:2]
  scores = functools.partial(
    inference.channel_scores,
    example["features"],
    example["lesion"],
    size=size,
    alpha=jax.nn.sigmoid(choice.alpha),
  )
  on_artefact = jax.nn.sigmoid(choice.artefact)
  own = on_artefact * scores(example["artefact"]) + (1 - on_artefact) * scores(
    example["background"]
  )
  # The points of a picture say how large its scores are; a temperature shall not hang on that.
  own = own / (jnp.std(own) + 1e-6)
  weights = inference.softly_highest(own, share, jnp.exp(choice.heat))
  return example["features"] * weights[None, None]


def tuned(
  head: HeadLogits,
  params: Params,
  train: PyTree,
  fair: PyTree,
  key: Key,
  *,
  share: float,
  num_steps: int = 100,
  batch_size: int = 32,
  rate: float = 0.1,
  choice_rate: float = 0.05,
) -> tuple[Choice, Params]:
  """The learnt choice, and the weights with the last layer that was refit under it.

  Args:
    head: what follows the features.
    params: as the network was trained.
    train, fair: examples as of `softly_chosen`, with "label" and "index".
    key: of the batches.
    share: of the channels that stay.
    num_steps, batch_size: updates, and examples of each kind in one.
    rate: of gradient descent on the last layer.
    choice_rate: of Adam on the choice.
  """
  update = _update(head, share, rate, choice_rate)
  choice: Any = start()
  state = optax.adam(choice_rate).init(choice)
  streams = [data.batches(own, batch_size, key, name=name)
             for name, own in (("train", train), ("fair", fair))]  # fmt: skip
  for step in range(num_steps):
    choice, params, state = update(choice, params, state, *(s(step) for s in streams), key)
  return choice, params


@functools.lru_cache(maxsize=4)  # one program for all trainings of a study
def _update(head: HeadLogits, share: float, rate: float, choice_rate: float) -> Callable[..., Any]:
  def loss(params: Params, choice: Choice, example: PyTree, key: Key) -> Array:
    del key
    features = softly_chosen(choice, example, share)
    return losses.cross_entropy(head(params, features, example["image"]), example["label"])

  descent, adam = optax.sgd(rate), optax.adam(choice_rate)
  slope = grads.hypergradient(loss, loss, descent, outer_takes_theta=True)

  @jax.jit
  def update(choice: Any, params: Any, state: Any, inner: Any, outer: Any, key: Key) -> Any:
    inner = jax.tree.map(lambda x: x[None], inner)  # of one step
    found = slope(choice, params, descent.init(params), inner, outer, key)
    updates, state = adam.update(found.grad, state, choice)
    return optax.apply_updates(choice, updates), found.params, state

  return update


def refit(
  head: HeadLogits,
  params: Params,
  fair: PyTree,
  key: Key,
  *,
  num_steps: int = 100,
  batch_size: int = 32,
  rate: float = 0.1,
) -> Params:
  """The weights after as many steps of the last layer on the fair examples alone: the control.

  Args:
    head, params, fair, key, num_steps, batch_size, rate: as for `tuned`.
  """
  descend = _descend(head, rate)
  stream = data.batches(fair, batch_size, key, name="fair")
  for step in range(num_steps):
    params = descend(params, stream(step), key)
  return params


@functools.lru_cache(maxsize=4)
def _descend(head: HeadLogits, rate: float) -> Callable[..., Any]:
  def loss(params: Params, example: PyTree, key: Key) -> Array:
    del key
    logits = head(params, example["features"], example["image"])
    return losses.cross_entropy(logits, example["label"])

  @jax.jit
  def descend(params: Any, batch: Any, key: Key) -> Any:
    mean = lambda p: grads.batch_mean(lambda example, own: loss(p, example, own), batch, key)  # noqa: E731
    return jax.tree.map(lambda x, g: x - rate * g, params, jax.grad(mean)(params))

  return descend
