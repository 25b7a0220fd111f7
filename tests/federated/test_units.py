"""Differential privacy of whole clients: what a client can change is its clipped update."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import federated, methods, privacy, train
from medjax.check import InputError
from medjax.privacy import audit, check_update
from tests.contracts.methods import batch_of

KEY = jax.random.key(0)
NUM, RATE = 4, 0.1
START = {"w": jnp.arange(3.0)}


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image - example.label) ** 2


LOCAL = methods.supervised(loss_fn, optax.sgd(RATE))
CLIENT = federated.local(LOCAL)
LOSS = federated.client_loss(CLIENT, local_steps=1, batch_size=6)


def units():
  store = batch_of(1, 0, size=20)
  return federated.client_units(store, np.split(np.arange(20), [2, 8, 14]))


def plan(**options):
  options = {"noise_multiplier": 0.0, "max_norm": 100.0, **options}
  return privacy.DPPlan(
    num_examples=NUM,
    expected_batch_size=2,
    num_steps=5,
    delta=0.01,
    unit="example",
    example_name="hospital",
    vault=privacy.Vault.from_seed(0),
    **options,
  )


def deltas(held):
  """[clients, 3] one step of descent on all cases of a client, in NumPy."""
  found = []
  for c in range(NUM):
    on = held["cases"].weight[c] > 0
    x, y = held["cases"].image[c][on], held["cases"].label[c][on]
    # Six draws go round the client's cases: every case equally often where it has 2 or 6.
    found.append(-RATE * x.T @ (x @ np.arange(3.0) - y) / len(y))
  return np.array(found)


def released(held, weight, **options):
  step = methods.private(LOSS, optax.sgd(1.0), plan(**options))
  chunk = {**held, "weight": np.float32(weight), "index": np.arange(NUM, dtype=np.int32)}
  state, _ = jax.jit(step.update)(step.init(START, KEY), chunk, KEY)
  return np.asarray(state.params["w"]) - np.arange(3.0)


def test_without_noise_and_clipping_it_is_federated_averaging_by_a_fixed_number():
  held = units()
  np.testing.assert_allclose(released(held, [1, 1, 1, 0]), deltas(held)[:3].sum(0) / 2, rtol=1e-5)


def test_a_client_moves_the_release_by_its_clipped_update_alone():
  held = units()
  held["cases"].image[2] *= 50  # a hospital that would drag everybody along
  without, everybody = released(held, [1, 1, 0, 1], max_norm=0.01), released(
    held, [1, 1, 1, 1], max_norm=0.01
  )  # fmt: skip
  assert np.linalg.norm(everybody - without) == pytest.approx(0.01 / 2, rel=1e-3)


def test_the_plan_trains_on_its_samples_and_speaks_of_hospitals():
  own = plan(noise_multiplier=1.0, max_norm=0.5)
  step = methods.private(LOSS, optax.sgd(1.0), own)
  found = train.fit(
    step, own.stream(units(), chunk=2), START, KEY, num_steps=3, log_every=1, progress=False
  )
  assert np.isfinite(found.history[-1]["release_norm"]) and "loss" not in found.history[-1]
  assert "hospital" in own.statement()


SIGMA, NORM = 1.5, 0.5


def noisy():
  return methods.private(LOSS, optax.sgd(1.0), plan(noise_multiplier=SIGMA, max_norm=NORM))


def test_the_proof_follows_a_client_through_its_local_training():
  step, held = noisy(), units()
  chunk = {**held, "weight": np.ones(NUM, np.float32), "index": np.arange(NUM, dtype=np.int32)}
  state = jax.eval_shape(step.init, START, KEY)
  state = state.replace(extra=state.extra._replace(max_norm=NORM))
  found = check_update(step.chunked, state, chunk, KEY)
  assert found.mu == pytest.approx(1 / SIGMA, rel=1e-6)
  assert len(found.releases) == 1  # one leaf


@pytest.mark.parametrize(
  ("claim", "verdict"),
  [
    (1 / SIGMA, "not refuted"),
    pytest.param(0.5 / SIGMA, "refuted", marks=pytest.mark.slow),
  ],
)
def test_a_game_on_a_whole_hospital_meets_what_is_paid_and_refutes_half_of_it(claim, verdict):
  """The hospital's update is far beyond the norm, so that its clipped one is as long as it may."""
  step = noisy()
  held = jax.tree.map(np.array, units())
  held["cases"] = held["cases"].replace(label=np.full_like(held["cases"].label, 1e4))
  chunk = {**held, "index": np.arange(NUM, dtype=np.int32)}
  without, there = ({**chunk, "weight": np.float32(w)} for w in ([0] * NUM, [0, 0, 1, 0]))
  release = audit.of_step(step, step.init(START, KEY))
  towards = jax.jit(lambda batch: step.update(step.init(START, KEY), batch, KEY)[0].params["w"])
  away = towards(there) - towards(without)  # the same noise in both
  game = audit.Game("hospital", without, there, score=lambda w: w @ away)
  found = audit.audit_step(
    lambda batch, key: release(batch, key)["w"], [game], claim=claim, key=KEY, trials=4000,
    held_out=1000,
  )  # fmt: skip
  assert found.verdict == verdict
  assert found.mu_lower > 0.75 / SIGMA


def test_bad_input_is_one_clear_line():
  adam = methods.supervised(loss_fn, optax.adam(RATE))
  keeps = federated.local(adam, keep=("opt_state",))
  loss = federated.client_loss(keeps, local_steps=1, batch_size=2)
  unit = jax.tree.map(lambda x: x[0], units())
  with pytest.raises(InputError, match="keeps no state and sends parameters alone"):
    loss(START, unit, KEY)
  store = batch_of(1, 0, size=4)
  with pytest.raises(InputError, match="cases at client 1, got none"):
    federated.client_units(store, [np.arange(4), np.arange(0)])
  with pytest.raises(InputError, match="each person at one client"):
    federated.client_units(store, [np.arange(4), np.arange(2)])
