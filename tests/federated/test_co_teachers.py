"""Fed-CoT's teachers by hand, and what leaves a client."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import federated
from medjax.check import InputError
from medjax.federated.co_teachers import Boxes, OwnTeacher, co_teachers
from medjax.types import IGNORE, Batch

KEY, RATE, A1, A2, SIDE, NUM = jax.random.key(0), 0.5, 0.8, 0.3, 4, 2
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(12, SIDE, SIDE, 1)).astype(np.float32)
LABEL = (IMAGE[..., 0] > 0).astype(np.int32)
LABEL[[1, 2, 4, 5, 7, 8, 10, 11]] = IGNORE  # two of three pictures


def predict(params, image):
  return params["w"] * image[..., 0] + params["b"]


def told(logits, label):
  return ((logits - label) ** 2).mean()


def made(**options):
  options = {"weight": lambda t: 1.0, "boxes": Boxes(2, (1, 3)), "alpha": A1, **options}
  return co_teachers(predict, told, optax.sgd(RATE), alpha_round=A2, **options)


START = {"w": jnp.float32(0.5), "b": jnp.float32(-0.2)}


@functools.cache
def federation():
  client = federated.local(made(), keep=("extra",), metrics=("loss", "agreement"))
  return federated.federated(client, num_clients=NUM, cohort=NUM, across="vmap")


def cohorts():
  n = np.arange(12, dtype=np.int32)
  store = Batch(IMAGE, LABEL, n, n, n, np.ones(12, np.float32), n)
  return federated.cohorts(store, [n[:6], n[6:]], batch_size=6, local_steps=1, seed=0)


@functools.cache
def two_rounds():
  step, stream = federation(), cohorts()
  update, state = jax.jit(step.update), step.init({"student": START, "sync": START}, KEY)
  states = [state]
  for t in range(2):
    state, _ = update(state, stream(t)[0], jax.random.fold_in(KEY, t))
    states.append(state)
  return states


def test_teachers_are_moving_averages_and_only_one_is_averaged_over_clients():
  first, one, two = (jax.device_get(state) for state in two_rounds())
  assert (one.extra.clients.kept["extra"].round == 0).all()
  # After one local update u = a1 w0 + (1 - a1) w, and the mean of v is that of the mean student.
  w0, w = START["w"], one.params["student"]["w"]
  np.testing.assert_allclose(one.params["sync"]["w"], A1 * w0 + (1 - A1) * w, rtol=1e-5)
  own = one.extra.clients.kept["extra"].params["w"]
  students = (own - A1 * w0) / (1 - A1)
  assert abs(own[0] - own[1]) > 1e-4
  np.testing.assert_allclose(students.mean(), w, rtol=1e-4)
  # In the second round u starts from a2 u + (1 - a2) w, with w from the server.
  later = two.extra.clients.kept["extra"].params["w"]
  started = A2 * own + (1 - A2) * w
  students = (later - A1 * started) / (1 - A1)
  np.testing.assert_allclose(students.mean(), two.params["student"]["w"], rtol=1e-4)


def test_students_see_mixed_pictures_and_teachers_answers_are_mixed_alike():
  """A linear network answers a mixed picture with the mixed answer: then nothing disagrees."""
  n = np.arange(6, dtype=np.int32)
  batch = Batch(IMAGE[:6], LABEL[:6], n, n, n, np.ones(6, np.float32), n)
  broadcast = federated.Broadcast({"student": START, "sync": START}, {}, (), 0)
  found = {}
  for mixes in (True, False):
    step = made(mixes_targets=mixes)(broadcast)
    state = step.init(broadcast.params, KEY)
    found[mixes] = float(step.update(state, batch, KEY)[1]["agreement"])
  assert found[True] < 1e-12 < 1e-4 < found[False]


def test_the_weight_is_that_of_the_round_and_the_global_teacher_is_the_one_that_was_sent():
  n = np.arange(6, dtype=np.int32)
  batch = Batch(IMAGE[:6], LABEL[:6], n, n, n, np.ones(6, np.float32), n)
  sent = {"w": jnp.float32(0.9), "b": jnp.float32(0.1)}
  broadcast = federated.Broadcast({"student": sent, "sync": sent}, {}, (), 3)
  step = made(teachers=("global",), weight=lambda t: 10.0 * t, boxes=Boxes(0, (1, 1)))(broadcast)
  state = step.init({"student": START, "sync": START}, KEY)  # a student that has moved since
  _, metrics = step.update(state, batch, KEY)
  x = IMAGE[[1, 2, 4, 5], ..., 0]
  apart = jax.nn.sigmoid(0.5 * x - 0.2) - jax.nn.sigmoid(0.9 * x + 0.1)
  np.testing.assert_allclose(metrics["agreement"], 0.5 * (apart**2).mean(), rtol=1e-4)
  expected = metrics["supervised"] + 30 * metrics["agreement"]
  np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("asked", [2, 3])
def test_a_teacher_is_the_one_that_is_named_and_its_own_takes_up_what_was_sent_once(asked):
  """In round 3: u moves towards the sent student if it was last asked in round 2."""
  student, sync, own = ({"w": jnp.float32(w), "b": jnp.float32(-0.2)} for w in (0.5, 0.8, 1.3))
  broadcast = federated.Broadcast({"student": student, "sync": sync}, {}, (), 3)
  n = np.arange(6, dtype=np.int32)
  weight = np.float32([1, 1, 1, 1, 1, 0])  # the last picture only fills the batch
  batch = Batch(IMAGE[:6], LABEL[:6], n, n, n, weight, n)
  x = IMAGE[[1, 2, 4], ..., 0]
  begun = 1.3 if asked == 3 else A2 * 1.3 + (1 - A2) * 0.5
  for name, w in {"sync": 0.8, "own": begun}.items():
    step = made(teachers=(name,), boxes=Boxes(0, (1, 1)))(broadcast)
    state = step.init(broadcast.params, KEY).replace(extra=OwnTeacher(own, jnp.int32(asked)))
    new, metrics = step.update(state, batch, KEY)
    apart = jax.nn.sigmoid(0.5 * x - 0.2) - jax.nn.sigmoid(w * x - 0.2)
    np.testing.assert_allclose(metrics["agreement"], 0.5 * (apart**2).mean(), rtol=1e-4)
    after = new.params["student"]["w"]
    np.testing.assert_allclose(new.params["sync"]["w"], A1 * 0.8 + (1 - A1) * after, rtol=1e-5)
    np.testing.assert_allclose(new.extra.params["w"], A1 * begun + (1 - A1) * after, rtol=1e-5)


def test_supervised_training_ignores_the_unlabelled():
  broadcast = federated.Broadcast({"student": START, "sync": START}, {}, (), 0)
  step = made(teachers=())(broadcast)
  n = np.arange(6, dtype=np.int32)
  batch = Batch(IMAGE[:6], LABEL[:6], n, n, n, np.ones(6, np.float32), n)
  new, metrics = step.update(step.init(broadcast.params, KEY), batch, KEY)
  x, y = IMAGE[[0, 3], ..., 0], LABEL[[0, 3]]
  residual = 0.5 * x - 0.2 - y
  np.testing.assert_allclose(metrics["loss"], (residual**2).mean(), rtol=1e-5)
  w = 0.5 - RATE * 2 * (residual * x).mean()
  np.testing.assert_allclose(new.params["student"]["w"], w, rtol=1e-5)


def test_boxes_have_their_sides_and_stay_inside():
  masks = jax.vmap(lambda k: Boxes(1, (2, 3)).mask(k, (5, 4)))(jax.random.split(KEY, 50))
  for mask in np.asarray(masks):
    rows, columns = mask.any(1).sum(), mask.any(0).sum()
    assert 2 <= rows <= 3 and 2 <= columns <= 3 and mask.sum() == rows * columns
  assert not Boxes(0, (1, 1)).mask(KEY, (3,)).any()
  with pytest.raises(InputError, match="sides"):
    Boxes(1, (3, 2))
