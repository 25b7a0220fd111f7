"""FedProx and SCAFFOLD against their formulas; the history of a training against the training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import federated, methods, train
from medjax.check import InputError
from medjax.federated import aggregate
from tests.contracts import rounds
from tests.contracts.methods import batch_of

KEY = jax.random.key(0)
NUM, RATE, STEPS = 3, 0.1, 2
START = {"w": jnp.arange(3.0)}


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image - example.label) ** 2


def make(loss):
  return methods.supervised(loss, optax.sgd(RATE))


def stream(size=NUM):
  store, parts = batch_of(1, 0, size=12), np.array_split(np.arange(12), NUM)
  return federated.cohorts(
    store, parts, batch_size=2, local_steps=STEPS, seed=0, size=size, weights=np.ones(NUM)
  )


def descent(block, slot, start, change):
  """Local descent whose gradient is changed by `change(w)`, in NumPy."""
  w = np.array(start, np.float64)
  for t in range(STEPS):
    x, y = block.batches.image[slot, t], block.batches.label[slot, t]
    w = w - RATE * (x.T @ (x @ w - y) / len(y) + change(w))
  return w


def test_fedprox_adds_its_pull():
  client = federated.fedprox(make, loss_fn, 0.7)
  step = federated.federated(client, num_clients=NUM, cohort=NUM, across="vmap")
  (block,) = stream()(0)
  state, metrics = jax.jit(step.update)(step.init(START, KEY), block, KEY)
  start = np.arange(3.0)
  each = [descent(block, c, start, lambda w: 0.7 * (w - start)) for c in range(NUM)]
  np.testing.assert_allclose(state.params["w"], np.mean(each, 0), rtol=1e-5)
  assert step.manifest["fedprox_mu"] == 0.7


def test_scaffold_is_the_papers_with_clients_that_come_and_go():
  client = federated.scaffold(make, loss_fn, learning_rate=RATE)
  step = federated.federated(client, num_clients=NUM, cohort=2, across="vmap")
  state, update = step.init(START, KEY), jax.jit(step.update)
  x, c, own = np.arange(3.0), np.zeros(3), np.zeros((NUM, 3))
  for t in range(4):
    (block,) = stream(size=2)(t)
    moved, changes = [], []
    for slot, i in enumerate(block.client):
      y = descent(block, slot, x, lambda w, add=c - own[i]: add)
      new = own[i] - c + (x - y) / (STEPS * RATE)
      moved.append(y - x)
      changes.append((i, new))
    change = sum(new - own[i] for i, new in changes)
    for i, new in changes:
      own[i] = new
    x, c = x + np.mean(moved, 0), c + change / NUM
    state, metrics = update(state, block, KEY)
    np.testing.assert_allclose(state.params["w"], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.extra.clients.kept["w"], own, rtol=1e-4, atol=1e-5)
  assert float(metrics["megabytes_up"]) == pytest.approx(2 * 2 * 12 / 1e6)  # control variates too


def test_scaffolds_shown_loss_is_the_loss():
  plain, corrected = (
    federated.federated(client, num_clients=NUM, cohort=NUM, across="vmap")
    for client in (
      federated.local(make(loss_fn)),
      federated.scaffold(make, loss_fn, learning_rate=RATE),
    )
  )
  (block,) = stream()(0)
  shown = [
    float(jax.jit(step.update)(step.init(START, KEY), block, KEY)[1]["loss"])
    for step in (plain, corrected)
  ]
  assert shown[0] == pytest.approx(shown[1], rel=1e-6)


@pytest.mark.parametrize("on_disk", (pytest.param(False, marks=pytest.mark.slow), True))
def test_history_recomputes_every_round_to_the_bit(on_disk, tmp_path):
  row, cohorts = rounds.ROWS[1], rounds.stream()
  step, params = row.step("auto"), rounds.params()
  folder = tmp_path / "states" if on_disk else None
  whole = federated.History(step, cohorts, params, KEY, folder)

  def fit(num_rounds, **options):
    return train.fit(
      step, cohorts, params, KEY, num_steps=num_rounds, log_every=1, progress=False, **options
    ).state

  last = fit(5, evaluators={"history": whole}, eval_every=3)
  assert whole.rounds() == [0, 3, 5]
  from_scratch = federated.History(step, cohorts, params, KEY)
  jax.tree.map(np.testing.assert_array_equal, whole.state(5), last)
  jax.tree.map(np.testing.assert_array_equal, from_scratch.state(5), last)
  for t in (1, 4):
    a, b = whole.received(t), from_scratch.received(t)
    np.testing.assert_array_equal(a.rows, b.rows)
    on = np.asarray(a.weight) > 0
    asked = cohorts(t)[0]
    assert sorted(np.asarray(a.client)[on]) == sorted(asked.client[asked.weight > 0])
    assert (np.asarray(a.rows)[on] != 0).any(1).all()


def test_a_mean_of_the_recomputed_rows_is_the_round():
  client = federated.local(make(loss_fn))
  step = federated.federated(client, num_clients=NUM, cohort=NUM, aggregate=aggregate.mean())
  past = federated.History(step, stream(), START, KEY)
  rows = past.received(1).rows
  np.testing.assert_allclose(
    past.state(2).params["w"] - past.state(1).params["w"], rows.mean(0), rtol=1e-4, atol=1e-6
  )


def test_bad_input_is_one_clear_line():
  with pytest.raises(InputError, match="a Step in chunks, from federated"):
    federated.History(make(loss_fn), stream(), START, KEY)
  with pytest.raises(InputError, match="mu >= 0"):
    federated.fedprox(make, loss_fn, -1.0)
  with pytest.raises(InputError, match="learning_rate > 0"):
    federated.scaffold(make, loss_fn, learning_rate=0.0)
