"""A classifier of lesions, and what test-time methods make of one picture.

Not a study: the network and the methods of `experiments.test_time_selection`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import trap_sets, trap_tuning
from medjax import inference, losses, methods, nets, rng
from medjax.data.seeds import generator
from medjax.types import Array, Key, Params, Step


class Network(nn.Module):
  """Four convolutions on a map of a quarter of the side, a mean over it and a dense layer."""

  width: int

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image[None]
    for stride in (2, 1, 2, 1):
      x = nn.Conv(self.width, (3, 3), strides=(stride, stride))(x)
      x = Rectified()(x)
    return nn.Dense(2)(x.mean((1, 2))[0])


class Rectified(nn.Module):
  """ReLU as a layer with a name, so that what it hands on can be read and replaced."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.relu(x)


class Case(NamedTuple):
  """What a test-time method is given of one picture."""

  image: Array
  lesion: Array
  points: trap_sets.Points
  key: Key


class Task:
  """The network, how it is trained, and what each arm makes of a picture."""

  def __init__(
    self,
    width: int,
    learning_rate: float,
    *,
    num_points: int,
    keep_share: float,
    num_copies: int,
    tent_rate: float,
  ):
    module = Network(width)
    self.num_points, self.keep_share = num_points, keep_share
    self.num_copies, self.tent_rate = num_copies, tent_rate
    self.model = nets.from_linen(module)
    self.tx = optax.adam(learning_rate)
    self.seen = nets.features(module, "Rectified_3")
    self.head = nets.from_features(module, "Rectified_3")

  def predict(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0]

  def step(self) -> Step:
    def loss_fn(params: Params, example: Any, key: Key) -> Array:
      del key
      return losses.cross_entropy(self.predict(params, example["image"]), example["label"])

    return methods.supervised(loss_fn, self.tx)

  def plain(self, params: Params, case: Case) -> Array:
    return self.predict(params, case.image)

  def copies(self, params: Params, case: Case) -> Array:
    return inference.over_copies(
      self.predict, params, case.image, case.key, vary=vary, num_copies=self.num_copies
    )

  def tent(self, params: Params, case: Case) -> Array:
    return inference.tent(
      self.predict,
      params,
      case.image,
      case.key,
      vary=vary,
      num_copies=self.num_copies,
      is_adapted=lambda name: name.endswith("bias") or name.startswith("Dense"),
      rate=self.tent_rate,
    )

  def noise(self, params: Params, case: Case) -> Array:
    return self.predict(params, inference.noise_outside(case.key, case.image, case.lesion))

  def selected(
    self, params: Params, case: Case, *, kind: str, alpha: float, num: int = 0, by: Any = "activity"
  ) -> Array:
    """Logits of the channels that points leave: the paper's method.

    Args:
      params, case: see above.
      kind: which points are the negative ones, "background" or "artefact".
      alpha: weight of the positive ones.
      num: points of each kind, 0 for all.
      by: "activity" of a channel, activity times "slope", or "random".
    """
    num = num or self.num_points
    positive, negative = (
      jnp.asarray(own)[:num] for own in (case.points.lesion, getattr(case.points, kind))
    )
    if by != "random":
      return inference.select_channels(
        self.seen, self.head, params, case.image, positive, negative, alpha=alpha,
        share=self.keep_share, by=by,
      )  # fmt: skip
    features = self.seen(params, case.image)
    scores = jax.random.uniform(case.key, features.shape[-1:])
    return self.head(
      params, features * inference.highest(scores, self.keep_share)[None, None], case.image
    )

  def examples(
    self, params: Params, cases: Case, store: dict[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """What `trap_tuning` learns from; `store` holds label and index of the cases."""
    features = jax.lax.map(lambda image: self.seen(params, image), cases.image, batch_size=64)
    points = {name: jnp.asarray(getattr(cases.points, name)) for name in trap_sets.Points._fields}
    own = {"features": features, "image": cases.image, **points}
    found = {name: np.asarray(value) for name, value in own.items()}
    return {**found, "label": store["label"], "index": store["index"]}

  def tuned(self, learnt: tuple[trap_tuning.Choice, Params], case: Case) -> Array:
    """Logits under a learnt choice and the last layer that was refit with it."""
    choice, params = learnt
    example = {"features": self.seen(params, case.image), "image": case.image}
    example |= {name: jnp.asarray(own) for name, own in case.points._asdict().items()}
    chosen = trap_tuning.softly_chosen(choice, example, self.keep_share)
    return self.head(params, chosen, case.image)

  def surest(self, params: Params, case: Case) -> Array:
    choices = [("background", 0.2), ("background", 0.4), ("artefact", 0.2), ("artefact", 0.4)]
    return inference.surest(
      jnp.stack([self.selected(params, case, kind=kind, alpha=alpha) for kind, alpha in choices])
    )


def vary(key: Key, image: Array) -> Array:
  """The picture mirrored, and shifted by up to a sixteenth of its side."""
  flip_key, shift_key = rng.streams(key, "flip", "shift")
  reach = image.shape[0] // 16
  image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
  return jnp.roll(image, jax.random.randint(shift_key, (2,), -reach, reach + 1), (0, 1))


def cases_of(
  held: trap_sets.TrapSet, rows: Sequence[int], is_trap: np.ndarray, num_points: int, seed: int
) -> Case:
  """Test pictures with outlines and points, stacked; `is_trap` says who shows the artefact."""
  test, scenes = held.store(rows, is_trap), [held.scenes[i] for i in rows]
  points = [
    trap_sets.points_of(scene, bool(shows), num_points, generator(seed, "points", int(i)))
    for scene, shows, i in zip(scenes, is_trap, rows, strict=True)
  ]
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.asarray(test["index"]))
  return Case(
    jnp.asarray(test["image"]),
    jnp.asarray(np.stack([scene.lesion for scene in scenes])),
    jax.tree.map(lambda *own: np.stack(own), *points),
    keys,
  )


def each(adapt: Callable[[Params, Case], Array]) -> Callable[[Params, Case], Array]:
  """Over chunks of pictures: selections of one picture each, none of which sees another."""
  return lambda params, cases: jax.lax.map(lambda c: adapt(params, c), cases, batch_size=64)
