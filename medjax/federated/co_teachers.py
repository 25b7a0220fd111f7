"""Two teachers of a client for pictures without labels: Fed-CoT (Zhan et al., DeCaF 2023).

  w: student,  v: teacher that the server averages,  u: teacher that never leaves the client
  at the start of a round   u <- EMA(u, w, a2)             w as it came from the server
  at each local update      w <- w - r grad L;   v <- EMA(v, w, a1);   u <- EMA(u, w, a1)
  L = supervised(labelled) + lambda / 2 sum_teachers |p_w(mix(x)) - mix(p_teacher(x))|^2
  EMA(a, b, alpha) = alpha a + (1 - alpha) b

The paper shows teachers the pictures as they are and does not say that their answers are mixed as
the student's picture is; without that the student is taught what lies elsewhere.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng
from medjax.federated.client import Broadcast
from medjax.types import IGNORE, Batch, Key, Leaf, Metrics, Params, PyTree, Step, TrainState

Teacher = Literal["sync", "own", "global"]
"""The averaged one, the client's own, or the global student as it came at the round's start."""


class OwnTeacher(NamedTuple):
  """What a client keeps.

  Attributes:
    params: of its own teacher, u.
    round: in which it was last asked, -1 for never.
  """

  params: Params
  round: Leaf


@dataclasses.dataclass(frozen=True)
class Boxes:
  """Boxes that are pasted from one picture into another.

  Attributes:
    number: of boxes a picture.
    sides: smallest and largest side in voxels, both included; no side is longer than the picture.
  """

  number: int
  sides: tuple[int, int]

  def __post_init__(self):
    check.non_negative("number", self.number)
    check.require(
      0 < self.sides[0] <= self.sides[1], "sides (a, b) with 0 < a <= b", f"{self.sides}", "swap"
    )

  def mask(self, key: Key, shape: Sequence[int]) -> jax.Array:
    """[*shape] bool: inside one of the boxes."""
    inside = jnp.zeros(tuple(shape), bool)
    for number in range(self.number):
      box = jnp.ones(tuple(shape), bool)
      for axis, length in enumerate(shape):
        own = jax.random.fold_in(jax.random.fold_in(key, number), axis)
        size_key, place_key = rng.streams(own, "side", "place")
        side = jax.random.randint(size_key, (), self.sides[0], self.sides[1] + 1)
        side = jnp.minimum(side, length)
        start = jax.random.randint(place_key, (), 0, length - side + 1)
        at = jnp.arange(length)
        line = (at >= start) & (at < start + side)
        box &= line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
      inside |= box
    return inside


def ema(old: PyTree, new: PyTree, alpha: float | int) -> PyTree:
  """alpha old + (1 - alpha) new, leaf by leaf.

  >>> float(ema(1.0, 3.0, 0.5))
  2.0
  """
  return jax.tree.map(lambda a, b: alpha * a + (1 - alpha) * b, old, new)


def half_squared(logits: jax.Array, target: jax.Array) -> jax.Array:
  """Mean over voxels of |sigmoid(logits) - target|^2 / 2."""
  return 0.5 * ((jax.nn.sigmoid(logits) - target) ** 2).mean()


def co_teachers(
  predict: Callable[[Params, jax.Array], jax.Array],
  supervised: Callable[[jax.Array, jax.Array], jax.Array],
  tx: optax.GradientTransformation,
  *,
  weight: Callable[[Any], Any],
  boxes: Boxes,
  teachers: Sequence[Teacher] = ("sync", "own"),
  alpha: float = 0.99,
  alpha_round: float = 0.9,
  agree: Callable[[jax.Array, jax.Array], jax.Array] = half_squared,
  mixes_targets: bool = True,
) -> Callable[[Broadcast], Step]:
  """Students with teachers, for `local(co_teachers(...), keep=("extra",))`.

  The parameters of the federation are {"student": w, "sync": w}, from the same first weights; both
  are sent and averaged.

  Args:
    predict: `predict(params, image) -> logits [*space]` of ONE picture, one logit a voxel.
    supervised: `supervised(logits, label) -> scalar` of one picture.
    tx: optimiser of the student, anew in each round.
    weight: `weight(round) -> lambda >= 0`.
    boxes: pasted from one unlabelled picture of a batch into the next, for the student.
    teachers: whose answers count, each with weight lambda; () for supervised training.
    alpha: a1 in [0, 1], of each update.
    alpha_round: a2 in [0, 1], of the own teacher at the start of a round.
    agree: `agree(logits of the student, target in [0, 1]) -> scalar` of one picture.
    mixes_targets: whether teachers' answers are mixed as the student's pictures are.
  Returns:
    Step of `Batch`es; a picture whose labels are all `IGNORE` is unlabelled. Metrics: "loss",
    "supervised" and "agreement", means over the labelled and the unlabelled pictures of a batch (0
    where there are none).
  """
  for name, value in {"alpha": alpha, "alpha_round": alpha_round}.items():
    check.in_interval(name, value, 0, 1)
  for teacher in teachers:
    check.one_of("teachers", teacher, ("sync", "own", "global"))

  def make(broadcast: Broadcast) -> Step:
    def init(params: Params, key: Key) -> TrainState:
      del key
      student = params["student"]
      own = OwnTeacher(student, jnp.int32(-1))
      return TrainState.start(params, tx.init(student), extra=own)

    def update(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
      student, sync = state.params["student"], state.params["sync"]
      now = jnp.asarray(broadcast.round, jnp.int32)
      own = _where(state.extra.round != now, ema(state.extra.params, student, alpha_round), state)
      known = {"sync": sync, "own": own, "global": broadcast.params["student"]}
      image, label = jnp.asarray(batch.image), jnp.asarray(batch.label)
      is_real = jnp.asarray(batch.weight) > 0
      is_free = (label == IGNORE).reshape(len(label), -1).all(1) & is_real
      is_labelled = ~is_free & is_real
      partner = partners(is_free)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(label)))
      mask = jax.vmap(lambda k: boxes.mask(k, image.shape[1:-1]))(keys)
      mask &= is_free.reshape(-1, *[1] * (mask.ndim - 1))
      seen = jnp.where(mask[..., None], image[partner], image)
      answers = jax.vmap(predict, (None, 0))
      targets = [jax.nn.sigmoid(answers(known[name], image)) for name in teachers]
      if mixes_targets:
        targets = [jnp.where(mask, found[partner], found) for found in targets]

      def loss_fn(params: Params) -> tuple[jax.Array, Metrics]:
        logits = answers(params, seen)
        told = _mean(jax.vmap(supervised)(logits, label), is_labelled)
        agreed = [_mean(jax.vmap(agree)(logits, found), is_free) for found in targets]
        agreement = jnp.stack([jnp.float32(0), *agreed]).sum()
        loss = told + weight(now) * agreement
        return loss, {"loss": loss, "supervised": told, "agreement": agreement}

      gradient, metrics = jax.grad(loss_fn, has_aux=True)(student)
      updates, opt_state = tx.update(gradient, state.opt_state, student)
      student = optax.apply_updates(student, updates)
      new = state.replace(
        step=state.step + 1,
        params={"student": student, "sync": ema(sync, student, alpha)},
        opt_state=opt_state,
        extra=OwnTeacher(ema(own, student, alpha), now),
      )
      return new, metrics

    return Step(init, update)

  return make


def partners(is_free: jax.Array) -> jax.Array:
  """[batch] for each unlabelled picture the next unlabelled one in a cycle; others have themselves.

  >>> partners(jnp.array([True, False, True, True])).tolist()
  [2, 1, 3, 0]
  """
  count = is_free.sum()
  order = jnp.argsort(~is_free, stable=True)  # the unlabelled first
  place = jnp.cumsum(is_free) - 1
  following = order[(place + 1) % jnp.maximum(count, 1)]
  return jnp.where(is_free, following, jnp.arange(len(is_free)))


def _where(is_new: jax.Array, new: PyTree, state: TrainState) -> PyTree:
  return jax.tree.map(lambda a, b: jnp.where(is_new, a, b), new, state.extra.params)


def _mean(values: jax.Array, counts: jax.Array) -> jax.Array:
  return jnp.where(counts, values, 0).sum() / jnp.maximum(counts.sum(), 1)
