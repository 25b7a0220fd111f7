"""A federated round against the same round by hand, and what it must never do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import data, federated, methods, train
from medjax.check import InputError
from medjax.federated import aggregate
from medjax.types import Step, TrainState
from tests.contracts.methods import batch_of

KEY = jax.random.key(0)
NUM, SIZE, RATE = 4, 3, 0.1
START = {"b": jnp.float32(0.5), "w": jnp.arange(3.0)}


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image + params["b"] - example.label) ** 2


PLAIN = methods.supervised(loss_fn, optax.sgd(RATE))


def store(size=24):
  return batch_of(1, 0, size=size)


def cohorts(**options):
  parts = np.array_split(np.arange(24), NUM)
  options = {"batch_size": 2, "local_steps": 2, "seed": 0, **options}
  return federated.cohorts(store(), parts, **options)


def federation(client=None, **options):
  client = federated.local(PLAIN) if client is None else client
  options = {"across": "vmap", **options}  # compiles fastest
  return federated.federated(client, num_clients=NUM, cohort=NUM, **options)


_COMPILED = {}


def one_round(step, block, state=None):
  _, init, update = _COMPILED.setdefault(id(step), (step, jax.jit(step.init), jax.jit(step.update)))
  state = init(START, KEY) if state is None else state
  return update(state, block, KEY)


@functools.cache
def averaging():
  return federation()


def test_clients_know_the_number_of_the_round():
  """A client that reports it, for schedules over rounds."""

  def run(broadcast, kept, batches, key):
    number = jnp.asarray(broadcast.round, jnp.float32)
    delta = jax.tree.map(jnp.zeros_like, broadcast.params)
    return federated.ClientReport(delta, kept, {}, {"loss": number})

  step = federation(federated.Client(lambda params, key: ((), {}), run))
  (block,) = cohorts()(0)
  state, found = None, []
  for _ in range(3):
    state, metrics = one_round(step, block, state)
    found.append(float(metrics["loss"]))
  assert found == [0.0, 1.0, 2.0]


def by_hand(block):
  """[clients] parameters after each client's local descent, in NumPy."""
  found = []
  for c in range(len(block.client)):
    w, b = np.arange(3.0), 0.5
    for t in range(block.batches.image.shape[1]):
      x, y = block.batches.image[c, t], block.batches.label[c, t]
      residual = x @ w + b - y
      w, b = w - RATE * residual @ x / len(x), b - RATE * residual.mean()
    found.append((w, b))
  return found


def test_federated_averaging_is_the_weighted_mean_of_the_clients():
  (block,) = cohorts()(0)
  block = block.replace(weight=np.float32([1, 2, 0, 3]))
  state, metrics = one_round(averaging(), block)
  trained, weights = by_hand(block), np.array([1, 2, 0, 3]) / 6
  expected = sum(share * w for share, (w, _) in zip(weights, trained, strict=True))
  np.testing.assert_allclose(state.params["w"], expected, rtol=1e-5)
  assert (metrics["clients"], metrics["absent"], metrics["top_weight"]) == (3, 0, 0.5)


def test_the_server_optimiser_sees_minus_the_mean():
  # Two rounds of FedAvgM: m <- 0.6 m + d, theta <- theta + 0.5 m.
  step, momentum = federation(server=optax.sgd(0.5, momentum=0.6)), 0.0
  state, w = step.init(START, KEY), START["w"]
  blocks = [cohorts(weights=np.ones(NUM))(t)[0] for t in range(2)]
  plain = averaging()
  for block in blocks:
    start = state.params
    mean = one_round(plain, block, plain.init(start, KEY))[0].params["w"] - start["w"]
    momentum = 0.6 * momentum + mean
    w = w + 0.5 * momentum
    state, _ = one_round(step, block, state)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)


def test_an_empty_round_changes_nothing_but_the_counter():
  step = federation(server=optax.adam(0.1), aggregate=aggregate.centred_clipping(1.0))
  state, before = one_round(step, cohorts()(0)[0])
  (block,) = cohorts()(1)
  after, metrics = one_round(step, block.replace(weight=np.zeros(NUM, np.float32)), state)
  jax.tree.map(np.testing.assert_array_equal, after.replace(step=1), state)
  assert after.step == 2
  assert (metrics["clients"], metrics["update_norm"], metrics["too_few"]) == (0, 0, 0)
  assert metrics["loss"] == before["loss"]


@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_a_client_that_is_not_finite_is_absent_and_counted(bad):
  (block,) = cohorts()(0)
  image = block.batches.image.copy()
  image[1] = bad
  broken = block.replace(batches=block.batches.replace(image=image))
  client = federated.local(methods.supervised(loss_fn, optax.adam(RATE)), keep=("opt_state",))
  step = federation(client)
  state, metrics = one_round(step, broken)
  absent = block.replace(weight=block.weight * [1, 0, 1, 1])
  expected, _ = one_round(step, absent)
  jax.tree.map(np.testing.assert_array_equal, state, expected)
  assert (metrics["clients"], metrics["absent"]) == (3, 1)


def test_running_statistics_are_averaged_and_never_optimised():
  def loss(params, example, key, model_state):
    return loss_fn(params, example, key), {"mean": example.image}

  local = methods.supervised(loss, optax.sgd(RATE), model_state={"mean": jnp.zeros(3)})
  (block,) = cohorts(local_steps=1, weights=[1, 1, 1, 5])(0)
  for server in (optax.sgd(1.0), optax.adam(10.0)):
    state, _ = one_round(federation(federated.local(local), server=server), block)
    means = block.batches.image[:, 0].mean(1)
    np.testing.assert_allclose(
      state.model_state["mean"], np.average(means, axis=0, weights=[1, 1, 1, 5]), rtol=1e-5
    )
  robust = federation(federated.local(local), aggregate=aggregate.krum(0))
  state, metrics = one_round(robust, block)
  assert metrics["top_weight"] == 1
  assert (
    min(np.abs(means - np.asarray(state.model_state["mean"])[None]).max(1)) < 1e-6
  )  # the chosen client's


def test_parts_that_are_never_sent_stay_with_their_clients():
  parts = (federated.Part("own", lambda path: path == "b", None),)
  step = federation(parts=parts, server=optax.adamw(0.1, weight_decay=0.5))
  stream = cohorts(local_steps=1)
  state = step.init(START, KEY)
  for t in range(2):
    state, metrics = one_round(step, stream(t)[0], state)
  assert state.params["b"] == START["b"]  # not even weight decay
  own = [federated.params_of(state, c, parts)["b"] for c in range(NUM)]
  assert len({float(b) for b in own}) == NUM
  # One round from the start: the client's own step of descent on b.
  first, _ = one_round(step, stream(0)[0])
  expected = [b for _, b in by_hand(stream(0)[0])]
  np.testing.assert_allclose(first.extra.clients.own["b"], expected, rtol=1e-5)
  assert float(metrics["megabytes_up"]) == pytest.approx(NUM * 3 * 4 / 1e6)


def test_a_part_has_its_own_rule():
  parts = (federated.Part("offset", lambda path: path == "b", aggregate.median()),)
  (block,) = cohorts(weights=np.ones(NUM))(0)
  state, metrics = one_round(federation(parts=parts), block)
  trained = by_hand(block)
  np.testing.assert_allclose(state.params["b"], np.median([b for _, b in trained]), rtol=1e-5)
  np.testing.assert_allclose(state.params["w"], np.mean([w for w, _ in trained], 0), rtol=1e-5)
  assert float(metrics["megabytes_up/offset"]) == pytest.approx(NUM * 4 / 1e6)
  assert float(metrics["megabytes_up/rest"]) == pytest.approx(NUM * 12 / 1e6)


def test_kept_optimisers_go_on_and_others_start_anew():
  adam = methods.supervised(loss_fn, optax.adam(RATE))
  keeps, forgets = (federation(federated.local(adam, keep=keep)) for keep in (("opt_state",), ()))
  a = one_round(keeps, cohorts()(0)[0])[0]
  b = one_round(forgets, cohorts()(0)[0])[0]
  np.testing.assert_allclose(a.params["w"], b.params["w"], rtol=1e-6)
  assert a.extra.clients.kept["opt_state"][0].count.tolist() == [2] * NUM  # 2 local steps
  a = one_round(keeps, cohorts()(1)[0], a)[0]
  b = one_round(forgets, cohorts()(1)[0], b)[0]
  assert a.extra.clients.kept["opt_state"][0].count.tolist() == [4] * NUM
  assert not np.array_equal(a.params["w"], b.params["w"])


def test_empty_local_batches_are_skipped():
  (block,) = cohorts()(0)
  weight = block.batches.weight.copy()
  weight[:, 1] = 0
  adam = methods.supervised(loss_fn, optax.adam(RATE))  # a zero gradient would move it all the same
  short = jax.tree.map(lambda x: x[:, :1], block.batches)
  step = federation(federated.local(adam))
  a, shown = one_round(step, block.replace(batches=block.batches.replace(weight=weight)))
  b, expected = one_round(step, block.replace(batches=short))
  jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
  assert shown["loss"] == expected["loss"]


def test_many_local_steps_run_as_a_scan():
  (block,) = cohorts(local_steps=4)(0)
  unrolled, scanned = (
    one_round(federation(federated.local(PLAIN, max_unrolled=limit)), block)[0] for limit in (4, 3)
  )
  np.testing.assert_allclose(unrolled.params["w"], scanned.params["w"], rtol=1e-6)


def test_a_client_may_read_the_global_model():
  # A pull to the global parameters so strong that nobody moves far: FedProx with a huge mu.
  def pulled(broadcast):
    def loss(params, example, key):
      far = optax.tree.norm(jax.tree.map(jnp.subtract, params, broadcast.params), squared=True)
      return loss_fn(params, example, key) + 4.0 * far

    return methods.supervised(loss, optax.sgd(RATE))

  (block,) = cohorts(local_steps=4)(0)
  far, near = (
    np.linalg.norm(one_round(step, block)[0].params["w"] - START["w"])
    for step in (averaging(), federation(federated.local(pulled)))
  )
  assert near < 0.5 * far


def test_too_few_clients_stop_the_training_or_change_nothing():
  rule = aggregate.trimmed_mean(1)
  stream = cohorts(draw=lambda t: range(4 if t < 2 else 2))

  def fit(**options):
    step = federation(aggregate=rule, **options)
    return train.fit(step, stream, START, KEY, num_steps=3, log_every=1, progress=False)

  with pytest.raises(train.NonFiniteError, match="at step 2; fewer clients were present than"):
    fit()
  found = fit(skips_small_rounds=True)
  assert [row["too_few"] for row in found.history] == [0, 0, 1]
  assert found.history[-1]["update_norm"] == 0


def test_int8_is_unbiased_and_near():
  row = np.random.default_rng(0).normal(size=300).astype(np.float32)
  send = jax.jit(federated.int8(128).send)
  sent = np.stack(
    [send(jnp.asarray(row), jnp.asarray(row), jax.random.key(i))[0] for i in range(200)]
  )
  step = np.abs(row).max() / 127
  assert np.abs(sent - row).max() <= step * 1.001
  # 200 draws of variance at most step^2 / 4: six standard errors.
  assert np.abs(sent.mean(0) - row).max() < 6 * step / 2 / np.sqrt(200)
  assert federated.int8(128).num_bytes(300) == 300 + 3 * 4


def test_top_k_sends_all_in_the_end():
  random = np.random.default_rng(0)
  compress, residual = federated.top_k(0.2), jnp.zeros(10)
  total, sent = np.zeros(10), np.zeros(10)
  for _ in range(5):
    row = random.normal(size=10).astype(np.float32)
    arrived, residual = compress.send(jnp.asarray(row), residual, KEY)
    assert (np.asarray(arrived) != 0).sum() == 2
    total, sent = total + row, sent + arrived
  np.testing.assert_allclose(sent + residual, total, rtol=1e-5, atol=1e-6)
  assert compress.num_bytes(10) == 16


def test_bytes_of_a_round():
  step = federation(compress=federated.int8(2))
  (block,) = cohorts()(0)
  _, metrics = one_round(step, block.replace(weight=np.float32([1, 0, 1, 1])))
  assert float(metrics["megabytes_up"]) == pytest.approx(3 * (4 + 2 * 4) / 1e6)
  assert float(metrics["megabytes_down"]) == pytest.approx(3 * 4 * 4 / 1e6)


def test_rounds_in_a_scan():
  # The plain update is a pure function: several rounds are one program.
  step, stream = averaging(), cohorts()
  blocks = jax.tree.map(lambda *x: np.stack(x), *(stream(t)[0] for t in range(3)))
  scan = jax.jit(lambda state: jax.lax.scan(lambda s, b: step.update(s, b, KEY), state, blocks)[0])
  state = step.init(START, KEY)
  for t in range(3):
    state, _ = one_round(step, stream(t)[0], state)
  np.testing.assert_allclose(scan(step.init(START, KEY)).params["w"], state.params["w"], rtol=1e-6)


def test_clients_come_each_in_its_time_and_see_all_their_cases():
  stream = cohorts(size=2, weights=[1, 2, 3, 4], chunk=1)
  counts = np.zeros(NUM)
  for t in range(200):
    blocks = stream(t)
    ids = [int(block.client[0]) for block in blocks]
    assert len(set(ids)) == 2 and [float(b.weight[0]) for b in blocks] == [i + 1 for i in ids]
    counts[ids] += 1
  assert (np.abs(counts - 100) < 40).all()  # 100 each, standard deviation 7
  whole = [cohorts()(t)[0].batches.index[2].ravel() for t in range(3)]  # 3 rounds of 4 of 6 cases
  assert np.bincount(np.concatenate(whole) - 24 - 12).tolist() == [2] * 6


def test_a_case_that_comes_twice_in_a_batch_is_drawn_twice():
  draws = cohorts(batch_size=8)(3)[0].batches.draw  # eight of six cases
  assert draws.shape == (NUM, 2, 8)
  assert all(len(np.unique(batch)) == 8 for client in draws for batch in client)


def test_dropout_is_a_rate():
  stream = cohorts(dropout=0.25)
  gone = np.mean([(stream(t)[0].weight == 0).mean() for t in range(300)])
  assert abs(gone - 0.25) < 0.06  # five standard errors of 1200 draws


def test_partitions_keep_people_whole():
  random = np.random.default_rng(0)
  subjects = random.integers(60, size=300)
  labels = (subjects % 5 + (random.random(300) < 0.1)) % 5
  for parts in (
    federated.evenly(subjects, 6, 0),
    federated.dirichlet(labels, 6, 0.5, 0, subjects=subjects),
    federated.by_shard(labels, 6, 0, subjects=subjects),
  ):
    assert sorted(np.concatenate(parts).tolist()) == list(range(300))
    federated.check_people(parts, subjects)
  sites = federated.by_domain(np.array(["b", "a", "b"]))
  assert [part.tolist() for part in sites] == [[1], [0, 2]]


def test_dirichlet_is_even_for_large_alpha_and_skewed_for_small():
  labels = np.repeat(np.arange(4), 250)

  def largest_share(alpha):
    parts = federated.dirichlet(labels, 5, alpha, 0)
    counts = np.array([np.bincount(labels[part], minlength=4) for part in parts])
    return (counts / counts.sum(1, keepdims=True)).max(1).mean()

  assert largest_share(1e4) < 0.29 < 0.6 < largest_share(0.1)
  shards = federated.by_shard(labels, 5, 0)
  assert max(len(np.unique(labels[part])) for part in shards) <= 3  # two shards touch three classes


@pytest.mark.parametrize(
  ("call", "message"),
  (
    (lambda: federation(aggregate=aggregate.krum(1)), r"at least 5 clients a round for krum"),
    (lambda: cohorts(weights=[1, 1, -1, 1]), "4 finite weights >= 0"),
    (lambda: cohorts(size=5), r"size in \[1, 4\], got size=5"),
    (lambda: cohorts(dropout=2), r"dropout in \[0, 1\]"),
    (
      lambda: federated.cohorts(store(), [np.arange(2), np.arange(0)], batch_size=1, seed=0),
      "cases at client 1, got none",
    ),
    (
      lambda: federated.cohorts(store(), [np.arange(2), np.arange(1, 3)], batch_size=1, seed=0),
      "each person at one client, got person 1 at clients 0 and 1",
    ),
    (
      lambda: federated.cohorts(store(), [np.arange(1), np.array([99])], batch_size=1, seed=0),
      r"rows in \[0, 24\) for client 1, got 99",
    ),
    (lambda: federated.dirichlet(np.zeros(3, int), 5, 1.0, 0), "1 people at each of 5 clients"),
    (lambda: federated.evenly(np.arange(2), 3, 0), "cases for each of 3 clients"),
    (lambda: federated.top_k(0), r"fraction in \(0, 1\]"),
    (lambda: federated.local(PLAIN, keep=("params",)), "keep to be one of"),
    (
      lambda: one_round(federation(federated.local(PLAIN, metrics=("dice",))), cohorts()(0)[0]),
      "metric of a client to be one of 'grad_norm', 'loss'",
    ),
    (
      lambda: federation(parts=(federated.Part("x", lambda path: False, None),)).init(START, KEY),
      "a parameter in part 'x', got none of b, w",
    ),
    (
      lambda: data.concat({"a": _source(("no", "yes")), "b": _source(("yes",))}),
      "class_names of a and b to be equal",
    ),
  ),
)  # fmt: skip
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message):
    call()


def _source(class_names):
  source = data.ProceduralAnatomy(1, (8, 8), 2, 0)
  source.class_names = class_names
  return source


def test_an_update_of_another_shape_is_refused():
  def update(state, batch, key):
    return state, {"loss": jnp.float32(0)}

  def init(params, key):
    return TrainState(jnp.int32(0), {**params, "w": jnp.zeros((1, 3))}, (), {}, ())

  with pytest.raises((InputError, TypeError), match="w of shape|broadcast|incompatible"):
    with jax.numpy_rank_promotion("allow"):
      one_round(federation(federated.local(Step(init, update))), cohorts()(0)[0])


def test_a_step_with_secret_keys_is_no_client():
  secret = Step(PLAIN.init, PLAIN.update, key_of=lambda t: KEY)
  with pytest.raises(
    InputError, match=r"keys come from the round.*methods\.private\(federated\.client_loss"
  ):
    federation(federated.local(secret)).init(START, KEY)
