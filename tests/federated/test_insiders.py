"""Privacy inside each client: the same samples, noise and ledger as a training by itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import federated, methods, privacy, train
from medjax.check import InputError
from medjax.privacy import audit
from medjax.privacy.sensitivity import checker, outputs, update
from tests.contracts.methods import batch_of

KEY, LOCAL, SIZE, SIGMA, NORM = jax.random.key(0), 2, 8, 1.5, 0.5
START = {"w": jnp.arange(3.0)}
STORE = batch_of(1, 0, size=30)
PARTS = np.split(np.arange(30), [10, 18])


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image - example.label) ** 2


def plans(vaults, sizes=(10, 8, 12), **options):
  setting = {"expected_batch_size": 3, "num_steps": 8, "delta": 0.01, "max_norm": NORM}
  setting |= {
    "unit": "example",
    "max_sample_size": SIZE,
    "noise_multiplier": SIGMA,
    "accountant": "rdp",
  }
  return federated.client_plans(sizes, vaults=vaults, **{**setting, **options})


def seeded(*seeds):
  return [privacy.Vault.from_seed(seed) for seed in seeds]


FIXED = {"sampling": "fixed", "max_sample_size": None}  # whose accountant takes no time


def made(vaults, parts=PARTS, *, plan_options=None, **options):
  own = plans(vaults, tuple(map(len, parts)), **(plan_options or {}))
  clients = federated.private_clients(STORE, parts, own, local_steps=LOCAL, **options)
  client = federated.local_private(
    lambda plan: methods.private(loss_fn, optax.adam(0.1), plan),
    clients,
    keep=("opt_state", "extra"),
  )
  number = len(parts)
  step = federated.federated(client, num_clients=number, cohort=number, across="vmap")
  return clients, step


def fitted(step, stream, rounds, **options):
  return train.fit(
    step, stream, START, KEY, num_steps=rounds, log_every=1, progress=False, **options
  )


def test_a_federation_of_one_client_is_the_private_training_of_that_client():
  clients, step = made(seeded(5), [np.arange(30)])
  found = fitted(step, clients, 3)
  (plan,) = plans(seeded(5), (30,))
  alone = methods.private(loss_fn, optax.adam(0.1), plan)
  expected = fitted(alone, plan.stream(STORE, chunk=SIZE), 3 * LOCAL)
  np.testing.assert_allclose(found.state.params["w"], expected.state.params["w"], rtol=1e-5)
  assert clients.plans[0].secrets.trainings[-1].num_released == 3 * LOCAL
  norms = [row["release_norm"] for row in expected.history]
  np.testing.assert_allclose(
    [row["release_norm"] for row in found.history], np.reshape(norms, (3, 2)).mean(1), rtol=1e-5
  )


@functools.cache
def one_client():
  """A client's program on samples [LOCAL, SIZE] and keys [LOCAL], and such samples."""
  clients, _ = made(seeded(1, 2, 3))
  client = federated.local_private(
    lambda plan: methods.private(loss_fn, optax.sgd(1.0), plan), clients
  )
  blocks = clients(0)
  clients.admit(0, blocks)
  return client, jax.tree.map(lambda x: x[0], blocks[0].batches)


def sent(sample, keys):
  """All that leaves a client."""
  client, _ = one_client()
  broadcast = federated.Broadcast({"w": jnp.zeros(3)}, {}, ())
  report = client.run(broadcast, client.init(START, KEY)[0], {"sample": sample, "noise": keys}, KEY)
  return report.delta, report.kept, report.metrics, report.weight


def test_what_a_client_sends_is_made_of_its_release_alone(monkeypatch):
  """The proof of whole updates, on one local update; more of them compose."""
  _, batches = one_client()
  shaped = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches["sample"])

  def whole(batch, given, key):
    del given
    return sent(jax.tree.map(lambda x: x[None], batch), key[None])

  # The walk follows keys, not the words that they are sent as.
  monkeypatch.setattr(jax.random, "wrap_key_data", lambda key, impl: key)
  traced = checker.traced(whole, shaped, [], jax.eval_shape(lambda: KEY))
  traced.ledger.released = []
  results = dict(zip(traced.paths, traced.walk(max_weight=1.0), strict=True))
  for path, value in results.items():
    checker.refuse_private(path, value)
  sums = {f"release {n}: {where}": v for n, (where, v) in enumerate(traced.ledger.released)}
  outputs.check_noise(traced.ledger, {**sums, **results}, None)
  (released,) = update._update(traced.ledger, sums).releases
  assert released.bound == pytest.approx(NORM, rel=1e-4)
  assert released.std >= SIGMA * NORM


def worlds(*places):
  """Samples without and with one person, who is in the local updates named."""
  _, batches = one_client()
  sample = jax.tree.map(np.array, batches["sample"])
  # With so large a label the clipped gradient is the same wherever the noise has led.
  image, label = np.ones_like(sample.image), np.full_like(sample.label, 1e6)
  sample = sample.replace(image=image, label=label, weight=sample.weight * 0)
  weight = sample.weight.copy()
  weight[list(places), 0] = 1
  return sample, sample.replace(weight=weight)


@functools.cache
def release():
  """What leaves a client, with keys of its own for every trial."""

  def run(sample, key):
    keys = jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(LOCAL))
    return sent(sample, jax.vmap(jax.random.key_data)(keys))[0]["w"]

  return run


def played(*places, claim):
  """A game of one person who is all of the samples named, or nobody is."""
  game = audit.Game("alone", *worlds(*places), score=jnp.sum)
  return audit.audit_step(release(), [game], claim=claim, key=KEY, trials=4000, held_out=1000)


@pytest.mark.slow
def test_local_updates_leak_what_is_paid_for_and_a_sample_of_nobody_is_released_too():
  once, twice = played(1, claim=1 / SIGMA), played(0, 1, claim=2**0.5 / SIGMA)
  assert once.verdict == twice.verdict == "not refuted"
  # Only the sum of both releases is sent: whoever is in one of them has the noise of two.
  assert once.mu_lower > 0.75 / SIGMA / 2**0.5 and twice.mu_lower > 0.75 * 2**0.5 / SIGMA


def test_each_local_update_has_noise_of_its_own():
  """With one key for both the deviation would be 2, not sqrt 2."""
  keys = jax.random.split(jax.random.key(7), 2000)
  found = jax.jit(jax.vmap(release(), (None, 0)))(worlds(0)[0], keys)
  assert float(found.std()) == pytest.approx(2**0.5 * SIGMA * NORM / 3, rel=0.05)


def test_whoever_takes_part_and_every_release_are_in_the_books(tmp_path):
  def vaults(*others):
    opened = [privacy.Vault.open(tmp_path / f"v{c}") for c in range(2)]
    return [*opened, *(others or [privacy.Vault.open(tmp_path / "v2")])]

  own = vaults()
  clients, step = made(own, plan_options=FIXED)
  whole = fitted(step, clients, 2, workdir=tmp_path / "run", checkpoint_every=1)
  for vault in own:
    vault.close()
  own = vaults()
  clients, step = made(own, plan_options=FIXED)
  further = fitted(step, clients, 3, workdir=tmp_path / "run", checkpoint_every=1)
  assert [vault.trainings[-1].num_released for vault in own] == [3 * LOCAL] * 3
  assert all(len(vault.trainings) == 1 for vault in own)
  assert not np.array_equal(whole.state.params["w"], further.state.params["w"])
  text = clients.statement()
  assert text.count("Protected: one image.") == 3 and "6 of 8 samples" in text
  # A client with other secrets beside them: other sums under the same noise, so another training.
  for vault in own:
    vault.close()
  clients, step = made(vaults(privacy.Vault.in_memory()), plan_options=FIXED)
  with pytest.raises(InputError, match="changed: federation"):
    fitted(step, clients, 3)


def test_samples_are_fed_as_they_were_drawn():
  clients, step = made([privacy.Vault.in_memory() for _ in PARTS], chunk=2)
  assert [block.client.tolist() for block in clients(0)] == [[0, 1], [2, 3]]
  with pytest.raises(InputError, match="secrets of the operating system"):
    step.update(step.init(START, KEY), clients(0)[0], KEY)
  with pytest.raises(InputError, match="a training under way"):
    clients.admit(0, clients(0))

  def changed(t):
    blocks = clients(t)
    blocks[1].batches["sample"].image[0, 0, 0] += 1
    return blocks

  with pytest.raises(InputError, match="the samples that the clients drew for round 0"):
    fitted(step, changed, 1)
  with pytest.raises(InputError, match="at most 4 rounds of 2 local updates"):
    fitted(step, clients, 5)
  with pytest.raises(InputError, match="clients whose updates may be computed again"):
    federated.History(step, clients, START, KEY)


def test_groups_are_as_large_as_the_largest_of_any_client():
  store = dataclasses.replace(STORE, subject=STORE.subject // 2)
  own = plans(seeded(1, 2), (5, 10), unit="group", **FIXED)
  clients = federated.private_clients(store, np.split(np.arange(30), [10]), own, local_steps=1)
  assert clients(0)[0].batches["sample"]["members"].image.shape[:4] == (2, 1, 3, 2)
  assert clients(0)[0].weight.tolist() == [5, 10]
  assert set(clients(0)[0].batches) == {"sample", "noise"}  # by a weight a sample might be skipped
  text = clients.statement()
  assert "for one patient at one client" in text and "what is true of its patients" in text


@pytest.mark.parametrize(
  ("options", "message"),
  (
    ({"vaults": [1, 1, 2]}, "a vault for every client"),
    ({"max_sample_size": None}, "plans with max_sample_size"),
    ({"parts": [np.arange(20), np.arange(10, 18), np.arange(18, 30)]}, "each person at one client"),
    ({"uneven": True}, "plans of one multipliers"),
  ),
)
def test_bad_input_is_one_clear_line(options, message):
  options = dict(options)
  vaults = seeded(*options.pop("vaults", (1, 2, 3)))
  parts, uneven = options.pop("parts", PARTS), options.pop("uneven", False)
  own = plans(vaults, tuple(map(len, parts)), **options)
  if uneven:
    own[0] = dataclasses.replace(own[0], noise_multiplier=9.0)
  with pytest.raises(InputError, match=message):
    federated.private_clients(STORE, parts, own, local_steps=LOCAL)
