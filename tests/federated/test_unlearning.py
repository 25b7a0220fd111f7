"""Ways to forget a client against closed forms on least squares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from medjax import federated, methods
from medjax.check import InputError
from medjax.federated import restart, unlearning
from tests.contracts.methods import batch_of

KEY, NUM, RATE, ROUNDS, GONE = jax.random.key(0), 3, 0.1, 3, 1
START = {"w": jnp.arange(3.0)}
STORE, PARTS = batch_of(1, 0, size=12), np.array_split(np.arange(12), NUM)


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image - example.label) ** 2


@functools.cache
def history():
  step = methods.supervised(loss_fn, optax.sgd(RATE))
  step = federated.federated(federated.local(step), num_clients=NUM, cohort=NUM, across="vmap")
  stream = federated.cohorts(
    STORE, PARTS, batch_size=4, local_steps=1, seed=0, weights=np.array([2.0, 1.0, 1.0])
  )
  return federated.History(step, stream, START, KEY)


@functools.cache
def past():
  return unlearning.recollect(history(), GONE, ROUNDS)


def update_of(client, w):
  """One step of descent on all of a client's cases: a batch holds them all."""
  x, y = STORE.image[PARTS[client]], STORE.label[PARTS[client]]
  return -RATE * x.T @ (x @ w - y) / len(y)


def by_hand():
  """FedAccum, the subtraction, norms, and the others' last model, after three rounds."""
  w, weights = np.arange(3.0), np.array([0.5, 0.25, 0.25])
  kept, norms, gone = w.copy(), [], np.zeros(3)
  for _ in range(ROUNDS):
    rows = np.stack([update_of(c, w) for c in range(NUM)])
    norms.append(np.linalg.norm(rows, axis=1))
    others = w + (2 * rows[0] + rows[2]) / 3
    kept, gone = kept + (2 * rows[0] + rows[2]) / 3, gone + weights[GONE] * rows[GONE]
    w = w + weights @ rows
  return kept, w - gone, np.array(norms), others


def test_one_walk_gives_replay_subtraction_and_drift():
  kept, subtracted, norms, others = by_hand()
  np.testing.assert_allclose(past().replayed["w"], kept, rtol=1e-4)
  np.testing.assert_allclose(past().subtracted["w"], subtracted, rtol=1e-4)
  np.testing.assert_allclose(past().norms, norms, rtol=1e-4)
  np.testing.assert_allclose(past().others["w"], others, rtol=1e-4)
  np.testing.assert_allclose(past().drift, [0, *np.cumsum(norms[:, GONE])], rtol=1e-4)


def test_erasing_takes_new_directions_and_old_lengths(monkeypatch):
  w, norms, asked = np.arange(3.0), by_hand()[2], []
  received = history().received_from

  def noted(state, done):
    asked.append(done)
    return received(state, done)

  monkeypatch.setattr(history(), "received_from", noted)
  for t in (0, 2):
    rows = {c: update_of(c, w) for c in (0, 2)}
    unit = {c: row / np.linalg.norm(row) * norms[t, c] for c, row in rows.items()}
    w = w + (2 * unit[0] + unit[2]) / 3
  known = past()
  asked.clear()
  found = unlearning.erased(history(), known, GONE, ROUNDS, every=2)
  assert asked == [0, 2]  # data, batches and keys of the rounds whose lengths are taken
  np.testing.assert_allclose(found["w"], w, rtol=1e-4)


def quadratic(clients):
  rows = np.concatenate([PARTS[c] for c in clients])
  x, y = jnp.asarray(STORE.image[rows]), jnp.asarray(STORE.label[rows])
  optimum = np.linalg.lstsq(np.asarray(x), np.asarray(y), rcond=None)[0]
  return lambda params: 0.5 * ((x @ params["w"] - y) ** 2).mean(), optimum


def test_the_newton_step_on_a_quadratic_is_training_anew():
  loss, optimum = quadratic((0, 2))
  found = unlearning.influence_removed(loss, START)
  np.testing.assert_allclose(found["w"], optimum, atol=1e-4)
  # Much damping: a short step against the gradient.
  damped = unlearning.influence_removed(loss, START, damping=1e4)
  slope = jax.grad(loss)(START)["w"]
  np.testing.assert_allclose((damped["w"] - START["w"]) * 1e4, -slope, rtol=1e-2)


def test_ascent_stays_in_its_ball_and_climbs():
  loss, _ = quadratic((GONE,))
  centre = {"w": jnp.ones(3)}
  found = unlearning.ascended(loss, START, centre, radius=0.5, rate=0.1, num_steps=200)
  assert np.linalg.norm(found["w"] - 1) == pytest.approx(0.5, rel=1e-4)
  # On the sphere's highest point the slope points outwards.
  slope, away = np.asarray(jax.grad(loss)(found)["w"]), np.asarray(found["w"] - 1)
  assert slope @ away / np.linalg.norm(slope) / np.linalg.norm(away) == pytest.approx(1, abs=1e-3)


def test_ifu_restarts_at_the_last_round_within_the_limit():
  drift = past().drift
  assert restart.restart_round(drift, 0) == 0
  assert restart.restart_round(drift, drift[2]) == 2
  assert restart.restart_round(drift, 1e9) == ROUNDS
  noisy = restart.perturbed({"w": jnp.zeros(40_000)}, 2.5, KEY)["w"]
  assert float(noisy.std()) == pytest.approx(2.5, rel=0.02)


@pytest.mark.parametrize("mu", (0.01, 0.5, 3.0, 100.0))
def test_epsilon_of_ifu_is_the_exact_one_of_two_normal_laws(mu):
  delta = 0.025
  epsilon = restart.epsilon_of(2 * mu, 2.0, delta)

  def excess(epsilon):
    """The integral of max(p - e^epsilon q, 0) for N(mu, 1) and N(0, 1): the definition of delta."""
    edge = epsilon / mu + mu / 2  # where p = e^epsilon q
    normal = scipy.stats.norm
    return normal.sf(edge - mu) - np.exp(epsilon + normal.logsf(edge))

  assert excess(epsilon) <= delta * (1 + 1e-9)
  if mu < 0.05:  # total variation alone is below delta
    assert epsilon == 0
    return
  assert excess(epsilon * (1 - 1e-6)) > delta
  assert restart.noise_of(2 * mu, epsilon, delta) == pytest.approx(2.0, rel=1e-6)
  classical = mu * np.sqrt(2 * np.log(1.25 / delta))
  assert (epsilon < classical) == (mu < 1)  # beyond epsilon 1 it promises too much


def test_membership_is_a_ratio_of_normal_laws():
  random = np.random.default_rng(0)
  inside, outside = random.normal(2, 1, (4, 5)), random.normal(0, 2, (3, 5))
  scores = random.normal(size=5)
  expected = 0.0
  for sign, table in ((1, inside), (-1, outside)):
    deviation = np.sqrt(table.var(0, ddof=1).mean())
    expected = expected + sign * scipy.stats.norm.logpdf(scores, table.mean(0), deviation)
  np.testing.assert_allclose(federated.membership_ratio(scores, inside, outside), expected)
  np.testing.assert_array_equal(federated.membership_ratio(scores, inside, inside), 0)


@pytest.mark.parametrize(
  ("call", "message"),
  (
    (lambda: unlearning.recollect(history(), 3, 1), "client in \\[0, 2\\], got client=3"),
    (lambda: restart.noise_of(1.0, 0.0, 0.1), "epsilon > 0"),
    (lambda: restart.noise_of(1.0, 1.0, 0.0), "delta in"),
    (lambda: restart.epsilon_of(1.0, 1.0, 1.0), "delta in"),
    (lambda: restart.epsilon_of(1.0, 0.0, 0.1), "sigma > 0"),
    (lambda: restart.restart_round(np.zeros(2), -1.0), "limit >= 0"),
    (
      lambda: federated.membership_ratio(np.zeros(3), np.zeros((1, 3)), np.zeros((2, 3))),
      "inside as",
    ),
  ),
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message):
    call()
