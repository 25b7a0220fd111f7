"""Replay with differential privacy: a centre's people and the remembered ones are one population.

A memory of patients, or a synthesiser trained on them, protects nobody: whoever has it, or a
network trained on it without noise, may learn who is in it. Here every centre's training is DP-SGD
on Poisson samples of the union of its people and the memory, so that a remembered person is treated
like any other. The memory is drawn at random, never by what cases look like.

Protected are the data of one person: neighbouring data sets hold a blank in place of all volumes of
one person, who then adds nothing to any sum. Who takes part, how many they are, how they are split
and who is remembered are public (drawn from the seed, never from the data), so that the blank
stands in the same samples as the person did. For such neighbours the accounting for adding or
removing one holds, at every centre.

Plans compose over centres: who is remembered takes part in every later training too, and pays for
each. With plain composition a remembered person of the j-th of K centres has (K - j + 1) epsilon
and delta, others of that centre epsilon and delta. Courses in several orders or seeds add up.
People tested on are outside of the guarantee.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.ms_replay.hospitals import Setting
from medjax import methods, privacy, rng
from medjax.data.streams.volume_pool import mirrored
from medjax.types import Key, LossFn, Params, Step, Stream


class PrivateTraining(NamedTuple):
  """A private training at one centre."""

  step: Step
  stream: Stream
  plan: privacy.DPPlan


def training(
  setting: Setting,
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  rows: Sequence[int],
  vault: privacy.Vault,
  *,
  patch: tuple[int, ...],
  num_steps: int,
  expected_batch_size: int,
  epsilon: float | int,
  delta: float,
  max_norm: float | int,
) -> PrivateTraining:
  """DP-SGD over the people of `rows`: centre and memory together.

  Args:
    setting: the pool.
    loss_fn: of one patch {"image", "label"}.
    tx: optimiser.
    rows: volumes of the population.
    vault: keys of sampling and noise, for this training alone.
    patch: voxels an axis of the patch that each volume gives at each of its turns.
    num_steps, expected_batch_size, epsilon, delta, max_norm: see `DPPlan`.
  """
  store = population(setting, rows)
  people = len(np.unique(store["subject"]))
  is_grouped = people < len(rows)
  plan = privacy.DPPlan(
    num_examples=people,
    expected_batch_size=min(expected_batch_size, people),
    num_steps=num_steps,
    delta=delta,
    max_norm=max_norm,
    unit="group" if is_grouped else "example",
    max_group_size=2 if is_grouped else None,
    target_epsilon=epsilon,
    vault=vault,
  )
  step = methods.private(of_random_patch(loss_fn, patch), tx, plan)
  return PrivateTraining(step, plan.stream(store, chunk=min(expected_batch_size, people)), plan)


def population(setting: Setting, rows: Sequence[int]) -> dict[str, np.ndarray]:
  """Whole volumes on the host, with their people."""
  index = np.asarray(rows)
  people = sorted({setting.subjects[i] for i in rows})
  return {
    "image": setting.image[index],
    "label": setting.label[index],
    "index": index.astype(np.int32),
    "subject": np.array([people.index(setting.subjects[i]) for i in rows], np.int32),
    "weight": np.ones(len(rows), np.float32),
  }


def of_random_patch(loss_fn: LossFn, patch: tuple[int, ...]) -> LossFn:
  """The loss of a patch of a volume, in half of all cases around a lesion voxel; all by the key."""

  def loss(params: Params, volume: Any, key: Key) -> jax.Array:
    space = volume["label"].shape
    last = jnp.asarray([s - p for s, p in zip(space, patch, strict=True)])
    where, which, flips, network = rng.streams(key, "where", "which", "flips", "network")
    lesion = volume["label"].reshape(-1) > 0
    chance = jax.random.uniform(where, lesion.shape) + lesion * (jax.random.uniform(which) < 0.5)
    middle = jnp.stack(jnp.unravel_index(chance.argmax(), space))
    corner = tuple(jnp.clip(middle - jnp.asarray(patch) // 2, 0, last))
    size = (*patch, volume["image"].shape[-1])
    image = jax.lax.dynamic_slice(volume["image"], (*corner, 0), size)
    label = jax.lax.dynamic_slice(volume["label"], corner, patch)
    image, label = mirrored((image, label), flips, len(patch), 0.5, 0.0)
    return loss_fn(params, {"image": image, "label": label}, network)

  return loss


def cost(
  epsilon: float,
  delta: float,
  orders: Sequence[Sequence[str]],
  *,
  num_people: int,
  note: str = "",
) -> dict[str, Any]:
  """What remembered people of each centre pay, by plain composition over all trainings.

  Args:
    epsilon, delta: of one training.
    orders: centres of every course in the order of training.
    num_people: that are trained on in all.
    note: what the vaults say of their secrets.
  """
  centres = orders[0]
  trainings = {c: sum(len(order) - order.index(c) for order in orders) for c in centres}
  largest = delta * max(trainings.values())
  return {
    "epsilon_a_training": epsilon,
    "num_courses": len(orders),
    "epsilon_by_centre": {c: n * epsilon for c, n in trainings.items()},
    "delta_by_centre": {c: n * delta for c, n in trainings.items()},
    "statement": "Protected: the data of one person that is trained on, all volumes of it, against"
    " a blank in their place. Who takes part, how many they are and who is remembered are public."
    " Remembered people take part in every later training and pay for each; the figures are of all"
    " courses of this run together."
    + (
      f" The composed delta reaches {largest:.2g}, which is not small beside 1 / {num_people}"
      " people: lower private_delta."
      if largest * num_people >= 1
      else ""
    )
    + " A memory, or a synthesiser, that was made without privacy protects nobody. The other arms"
    " of this run, and its trainings at one centre or at all, protect nobody: what is derived from"
    " their networks is not private, differences between arms included. Nor is anyone protected"
    " whom networks are tested on."
    + (f" Keys come from the seed, which stands in config.json: {note}." if note else ""),
  }
