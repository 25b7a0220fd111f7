"""Fed-MAS's weights of clients against the paper's sums in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import federated, methods
from medjax.check import InputError
from medjax.types import Batch

KEY, RATE, CLASSES = jax.random.key(0), 0.1, 4
START = {"w": jnp.array([0.5, -1.0])}
# Client 0 has the classes 0 and 1, client 1 class 2 alone; nobody has class 3.
LABELS = np.array([[0, 0, 1, 1, 0, 1], [2, 2, 2, 2, 2, 2]], np.int32)
FEATURES = np.random.default_rng(0).normal(size=(2, 6, 2)).astype(np.float32)


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image - 1.0) ** 2


def divergence(params, example):
  return (params["w"] @ example.image) ** 2


def round_of(scaled, weight=None):
  shape = (2, 3, 2)  # clients, local steps, batch
  weight = np.ones(shape, np.float32) if weight is None else weight
  number = np.arange(12, dtype=np.int32).reshape(shape)
  image, label = FEATURES.reshape(*shape, 2), LABELS.reshape(shape)
  batches = Batch(image, label, number, number, number, weight, number)
  names = np.arange(2, dtype=np.int32)
  block = federated.Cohort(names, names, np.ones(2, np.float32), batches)
  step = methods.supervised(loss_fn, optax.sgd(RATE))
  client = federated.rescued(step, divergence, CLASSES, scaled=scaled)
  step = federated.federated(client, num_clients=2, cohort=2, across="vmap")
  assert step.manifest["rescue"] == scaled
  return jax.jit(step.update)(step.init(START, KEY), block, KEY)


def by_hand(scaled, size=6):
  """Each client's parameters and RF, by its first `size` cases, which are at most one short."""
  found = []
  for x, label in zip(FEATURES.astype(np.float64)[:, :size], LABELS[:, :size], strict=True):
    start = w = np.array([0.5, -1.0])
    parts = []
    for t in range(3):
      rows = slice(2 * t, 2 * t + 2)
      parts.append((x[rows] @ w) ** 2)  # before the update
      w = w - RATE * x[rows].T @ (x[rows] @ w - 1) / len(x[rows])
    here = np.unique(label)
    before = np.array([((x[label == k] @ start) ** 2).mean() for k in here])
    during = np.array([np.concatenate(parts)[label == k].mean() for k in here])
    if scaled == "code":
      before, during = before / before.sum(), during / during.sum()
    found.append((w, (before * during).sum()))
  return found


@pytest.mark.parametrize("scaled", ("text", "code"))
def test_the_round_is_the_papers(scaled):
  state, metrics = round_of(scaled)
  (w0, f0), (w1, f1) = by_hand(scaled)
  expected = (f0 * w0 + f1 * w1) / (f0 + f1)
  np.testing.assert_allclose(state.params["w"], expected, rtol=1e-5)
  np.testing.assert_allclose(metrics["rescue"], (f0**2 + f1**2) / (f0 + f1), rtol=1e-5)
  np.testing.assert_allclose(metrics["top_weight"], max(f0, f1) / (f0 + f1), rtol=1e-5)
  if scaled == "code":
    assert f1 == 1  # one class, whatever its divergence


def test_padding_is_not_measured():
  weight = np.ones((2, 3, 2), np.float32)
  weight[:, 2, 1] = 0
  state, metrics = round_of("text", weight)
  (w0, f0), (w1, f1) = by_hand("text", 5)
  np.testing.assert_allclose(state.params["w"], (f0 * w0 + f1 * w1) / (f0 + f1), rtol=1e-5)
  np.testing.assert_allclose(metrics["rescue"], (f0**2 + f1**2) / (f0 + f1), rtol=1e-5)


def test_a_client_that_owns_no_data_counts_as_absent():
  weight = np.ones((2, 3, 2), np.float32)
  weight[1] = 0
  state, metrics = round_of("text", weight)
  np.testing.assert_allclose(state.params["w"], by_hand("text")[0][0], rtol=1e-5)
  assert metrics["clients"] == 1 and metrics["top_weight"] == 1


def test_bad_input_is_one_clear_line():
  step = methods.supervised(loss_fn, optax.sgd(RATE))
  with pytest.raises(InputError, match="num_classes > 0"):
    federated.rescued(step, divergence, 0)
