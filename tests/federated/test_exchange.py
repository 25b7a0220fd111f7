"""Server and sites as separate objects against one process, bit for bit."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import federated, methods, train
from medjax.check import InputError
from medjax.federated import exchange
from tests.contracts import rounds

KEY = jax.random.key(4)
NUM, ROUNDS = 2, 3
PARTS = np.array_split(np.arange(60), NUM)


def step_of(**options):
  """Adam that goes on from round to round, running statistics, momentum on the server."""
  statistics = {"mean": jnp.zeros(rounds.NUM_FEATURES)}
  local = methods.supervised(rounds.loss_with_statistics, optax.adam(0.05), model_state=statistics)
  client = federated.local(local, keep=("opt_state",))
  server = optax.sgd(1.0, momentum=0.6)
  return federated.federated(client, num_clients=NUM, cohort=NUM, server=server, **options)


def stream(dropout=0.0):
  return federated.cohorts(
    rounds.store(), PARTS, batch_size=3, local_steps=2, seed=1, chunk=1, dropout=dropout
  )


@functools.cache
def plan():
  blocks = stream()
  return exchange.RoundPlan(step_of(), rounds.params(), KEY, lambda t, client: blocks(t)[client])


def sites(folder):
  return [exchange.RemoteSite(plan(), client, folder / f"site-{client}") for client in range(NUM)]


def round_of(server, clients, who=range(NUM)):
  number, sent = server.done, server.sent()
  replies = {c: clients[c].train(number, sent, int(server.accepted[c])) for c in who}
  return server.join(replies)


def assert_same(server, state):
  for name in ("params", "opt_state", "model_state"):
    jax.tree.map(np.testing.assert_array_equal, getattr(server.state, name), getattr(state, name))


@functools.cache
def in_one_process():
  blocks = stream()

  def given(t):  # client 0 does not answer in the second round
    own = blocks(t)
    return [own[0].replace(weight=own[0].weight * (t != 1)), *own[1:]]

  options = {"num_steps": ROUNDS, "log_every": 1, "progress": False}
  return train.fit(plan().step, given, rounds.params(), KEY, **options).state


def test_processes_that_lose_an_answer_and_start_again_end_where_one_process_does(tmp_path):
  server, clients = exchange.Server(plan(), tmp_path / "server"), sites(tmp_path)
  round_of(server, clients)
  # The first site trains in the second round, but the server never hears of it.
  clients[0].train(1, server.sent(), int(server.accepted[0]))
  assert round_of(server, clients, who=[1])["clients"] == 1
  # All processes end; new ones go on from what lies on the disk.
  server, clients = exchange.Server(plan(), tmp_path / "server"), sites(tmp_path)
  assert (server.done, server.accepted.tolist(), len(server.history)) == (2, [0, 1], 2)
  round_of(server, clients)
  assert_same(server, in_one_process())
  kept = in_one_process().extra.clients
  for client, one in enumerate(clients):
    mine = one._kept(ROUNDS - 1)
    jax.tree.map(
      lambda table, row, c=client: np.testing.assert_array_equal(table[c], row), kept, mine
    )


def test_a_round_without_answers_changes_nothing_and_wrong_shapes_are_refused(tmp_path):
  server = exchange.Server(plan(), tmp_path / "server")
  before = server.sent()
  with pytest.raises(InputError, match="like the parameters from client 1"):
    server.join({1: [np.zeros(3)] * 9})
  assert (server.done, (tmp_path / "server/state.npz").exists()) == (0, False)
  server.join({})
  jax.tree.map(np.testing.assert_array_equal, server.sent(), before)
  assert json.loads((tmp_path / "server/history.json").read_text())[0]["clients"] == 0


def test_a_site_needs_an_id_and_states_that_stay_with_it(tmp_path):
  with pytest.raises(InputError, match=r"a client id in \[0, 2\), got 2"):
    exchange.RemoteSite(plan(), 2, tmp_path)
  make = lambda f: methods.supervised(f, optax.sgd(0.1))  # noqa: E731
  scaffold = federated.scaffold(make, rounds.loss_fn, learning_rate=0.1)
  shared = federated.federated(scaffold, num_clients=NUM, cohort=NUM)
  with pytest.raises(InputError, match="SCAFFOLD"):
    exchange.Server(plan()._replace(step=shared), tmp_path)
