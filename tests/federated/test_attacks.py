"""Attacks against their definitions: closed forms in NumPy, bounds kept and spent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from medjax import federated, methods
from medjax.check import InputError
from medjax.federated import aggregate, attacks
from tests.contracts.methods import batch_of

CLIENTS, SIZE, WRONG = 10, 3, 4
PARAMS = {"w": jnp.zeros(SIZE)}
DATA = batch_of(0, 0, size=12)


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image - example.label) ** 2


def drawn(seed=0):
  return np.random.default_rng(seed).normal(1, 1, (CLIENTS, SIZE)).astype(np.float32)


def sent(attack, rows, weight=None, client=None):
  """Rows that arrive at the server."""
  weight = jnp.ones(len(rows)) if weight is None else jnp.asarray(weight)
  client = jnp.arange(len(rows)) if client is None else jnp.asarray(client)
  call = jax.jit(
    lambda r, w, c: attack(
      r,
      w,
      c,
      params=PARAMS,
      unravel=lambda row: {"w": row},
      ravel=lambda tree: tree["w"],
      key=jax.random.key(0),
    )
  )
  return np.asarray(call(jnp.asarray(rows), weight, client))


ATTACKS = (
  attacks.sign_flip(WRONG),
  attacks.ipm(WRONG),
  attacks.lie(WRONG),
  attacks.mimic(WRONG),
  attacks.random_direction(WRONG),
  attacks.min_max(WRONG),
  attacks.min_max(WRONG, attacks.std, sees_all=True),
  attacks.min_sum(WRONG, attacks.sign),
  attacks.fang(WRONG),
  attacks.disbelieve_parameters(WRONG, loss_fn, DATA, num_steps=3),
  attacks.disbelieve_gradients(WRONG, loss_fn, DATA, num_steps=2),
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.name} {' '.join(a.sees)}")
def test_only_present_wrong_clients_lie_and_see_what_they_may(attack):
  rows, weight = drawn(), np.ones(CLIENTS)
  weight[[1, 7]] = 0
  rows[[1, 7]] = 0
  found = sent(attack, rows, weight)
  honest = [1, *range(WRONG, CLIENTS)]
  np.testing.assert_array_equal(found[honest], rows[honest])
  assert np.isfinite(found).all() and (found[[0, 2, 3]] != rows[[0, 2, 3]]).any()
  changed = rows.copy()
  changed[WRONG:7] += np.float32(np.random.default_rng(5).normal(size=(3, SIZE)))
  is_blind = "all updates" not in attack.sees
  assert (sent(attack, changed, weight)[:WRONG] == found[:WRONG]).all() == is_blind


def test_closed_forms():
  rows = drawn()
  own, honest = rows[:WRONG], rows[WRONG:]
  z = scipy.stats.norm.ppf((6 - (10 // 2 + 1 - 4)) / 6)
  expected = {
    attacks.sign_flip(WRONG, 2.0): -2 * own,
    attacks.ipm(WRONG, 0.3): -0.3 * honest.mean(0),
    attacks.lie(WRONG): own.mean(0) - z * own.std(0),
    attacks.lie(WRONG, z=1.5): own.mean(0) - 1.5 * own.std(0),
    attacks.mimic(WRONG, victim=6): rows[6],
  }
  for attack, vector in expected.items():
    np.testing.assert_allclose(
      sent(attack, rows)[:WRONG],
      np.broadcast_to(vector, (WRONG, SIZE)),
      rtol=1e-5,
      atol=1e-6,
      err_msg=attack.name,
    )


def test_mimic_copies_the_client_that_lies_furthest_along_the_main_direction():
  rows = drawn()
  rows[8] += 20
  np.testing.assert_array_equal(sent(attacks.mimic(WRONG), rows)[0], rows[8])


def spread(rows):
  return ((rows[:, None] - rows[None]) ** 2).sum(-1)


@pytest.mark.parametrize(
  ("direction", "sees_all"),
  ((attacks.unit, False), (attacks.sign, False), (attacks.std, True)),
)
def test_min_max_and_min_sum_keep_their_bounds_and_spend_them(direction, sees_all):
  rows = drawn().astype(np.float64)
  seen = rows if sees_all else rows[:WRONG]
  steps = {attacks.unit: -seen.mean(0), attacks.sign: -np.sign(seen.mean(0)),
           attacks.std: -seen.std(0)}[direction]  # fmt: skip
  sums = spread(seen).sum(1)
  cases = (
    (attacks.min_max(WRONG, direction, sees_all=sees_all), np.max, spread(seen).max()),
    (attacks.min_sum(WRONG, direction, sees_all=sees_all), np.sum, sums.max()),
    (attacks.min_sum(WRONG, direction, sees_all=sees_all, bound="min"), np.sum, sums.min()),
  )
  for attack, measure, bound in cases:
    vector = sent(attack, rows.astype(np.float32))[0].astype(np.float64)
    moved = vector - seen.mean(0)
    np.testing.assert_allclose(  # along the direction, forwards
      moved / np.linalg.norm(moved), steps / np.linalg.norm(steps), atol=1e-3
    )
    assert measure(((vector - seen) ** 2).sum(1)) <= bound * (1 + 1e-4)
    further = seen.mean(0) + 1.01 * moved
    assert measure(((further - seen) ** 2).sum(1)) > bound


def test_fang_is_chosen_by_krum_and_no_larger_one_on_its_way_is():
  rows, rule = drawn(), aggregate.krum(3)
  attack = attacks.fang(3)
  arrived = sent(attack, rows)
  chosen = rule(arrived, np.ones(CLIENTS)).weights.argmax()
  assert chosen < 3
  np.testing.assert_array_equal(np.sign(arrived[0]), -np.sign(rows.mean(0)))
  larger = arrived.copy()
  larger[:3] *= 2
  assert rule(larger, np.ones(CLIENTS)).weights.argmax() >= 3


def test_disbelieve_in_parameters_spends_its_ball_up_the_loss():
  rows = 0.1 * drawn()
  attack = attacks.disbelieve_parameters(WRONG, loss_fn, DATA, num_steps=30)
  vector, own = sent(attack, rows)[0], rows[:WRONG]

  def loss(w):
    return 0.5 * ((DATA.image @ w - DATA.label) ** 2).mean()

  radius = np.sqrt(spread(own).max())
  away = np.linalg.norm(vector - own.mean(0))
  assert away == pytest.approx(radius, rel=1e-4)
  # The loss is a quadratic: no point of the ball that was tried is worse.
  random = np.random.default_rng(0).normal(size=(2000, SIZE))
  tried = own.mean(0) + radius * random / np.linalg.norm(random, axis=1, keepdims=True)
  assert loss(vector) >= max(map(loss, tried)) * 0.999
  half = attacks.disbelieve_parameters(WRONG, loss_fn, DATA, num_steps=30, radius=0.5)
  away = np.linalg.norm(sent(half, rows)[0] - own.mean(0))
  assert away == pytest.approx(radius / 2, rel=1e-4)


def test_disbelieve_in_gradients_corrected_and_as_published():
  # Clients that differ by more than their mean is long: a bound can be kept.
  rows = 3 * (drawn() - 1)
  own = rows[:WRONG].astype(np.float64)
  squared = spread(own)[~np.eye(WRONG, dtype=bool)]
  attack = attacks.disbelieve_gradients(WRONG, loss_fn, DATA, num_steps=1, rate=1e-3)
  vector = sent(attack, rows)[0].astype(np.float64)
  far = ((vector - own.mean(0)) ** 2).sum()
  assert far == pytest.approx(squared.min(), rel=1e-4)
  further = ((1.01 * vector - own.mean(0)) ** 2).sum()
  assert further > squared.min()
  # Up the loss at mu: the gradient of the quadratic there, to the small rate.
  w = own.mean(0)
  slope = (DATA.image.T @ (DATA.image @ w - DATA.label)) / len(DATA.label)
  cosine = vector @ slope / np.linalg.norm(vector) / np.linalg.norm(slope)
  assert cosine > 0.999
  published = attacks.disbelieve_gradients(WRONG, loss_fn, DATA, num_steps=1, bisection="published")
  assert np.linalg.norm(sent(published, rows)[0]) == pytest.approx(1000, rel=1e-4)


def test_the_nearest_scale_is_taken_where_none_fits():
  # |s u - mu|^2 is least at s = <u, mu> = 2, where it is 9 > 4.
  scale = attacks.scale_within(jnp.array([1.0, 0.0]), jnp.array([2.0, 3.0]), jnp.float32(4.0))
  assert scale == pytest.approx(2.0)
  scale = attacks.scale_within(jnp.array([1.0, 0.0]), jnp.array([-2.0, 3.0]), jnp.float32(4.0))
  assert scale == 0


def test_the_control_is_as_long_as_the_attack():
  rows = drawn()
  vector = sent(attacks.random_direction(WRONG), rows)[0]
  away = np.linalg.norm(vector - rows[:WRONG].mean(0))
  assert away == pytest.approx(np.sqrt(spread(rows[:WRONG]).max()), rel=1e-4)


def test_an_attack_inside_a_round_moves_the_mean_as_computed():
  # Two of four clients send minus their update, so the mean is (-d0 - d1 + d2 + d3) / 4.
  local = federated.local(methods.supervised(loss_fn, optax.sgd(0.1)))
  parts = np.array_split(np.arange(12), 4)
  block = federated.cohorts(DATA, parts, batch_size=3, seed=0, weights=np.ones(4))(0)[0]

  def moved(attack):
    step = federated.federated(local, num_clients=4, cohort=4, attack=attack, across="vmap")
    state, _ = jax.jit(step.update)(step.init(PARAMS, jax.random.key(0)), block, jax.random.key(0))
    return np.asarray(state.params["w"])

  x, y = block.batches.image[:, 0], block.batches.label[:, 0]
  deltas = 0.1 * np.einsum("cb,cbf->cf", y, x) / 3
  np.testing.assert_allclose(moved(None), deltas.mean(0), rtol=1e-5)
  signs = np.array([-1, -1, 1, 1])
  np.testing.assert_allclose(moved(attacks.sign_flip(2)), signs @ deltas / 4, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
  ("call", "message"),
  (
    (lambda: attacks.ipm(0), "at least one wrong client, got f=0"),
    (lambda: attacks.mimic(3, victim=1), "an honest victim, of id >= 3, got 1"),
    (lambda: attacks.min_sum(2, bound="mean"), "bound to be one of 'max', 'min'"),
    (lambda: attacks.sign_flip(2, 0), "scale > 0"),
    (
      lambda: attacks.disbelieve_parameters(2, loss_fn, DATA, batch_size=13),
      r"batch_size in \[1, 12\]",
    ),
    (
      lambda: federated.federated(
        federated.local(methods.supervised(loss_fn, optax.sgd(0.1))),
        num_clients=4,
        cohort=4,
        attack=attacks.ipm(5),
      ),
      r"f of the attack in \[1, 4\]",
    ),
  ),
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message):
    call()
