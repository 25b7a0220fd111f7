"""The rounds by NVFlare, in its simulator: sites that fail, and the next start."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from medjax import federated, methods, train
from medjax.federated import exchange
from tests.contracts import rounds

ROOT = pathlib.Path(__file__).parents[2]
ROUNDS = 3

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(importlib.util.find_spec("nvflare") is None, reason="wants medjax[nvflare]"),
]


def plan(options):
  """Clients that keep their optimisers; the last fails once in the second round, if it is told."""
  num = options["sites"]
  parts = np.array_split(np.arange(60), num)
  blocks = federated.cohorts(rounds.store(), parts, batch_size=3, local_steps=2, seed=1, chunk=1)
  local = methods.supervised(rounds.loss_fn, optax.adam(0.05))
  step = federated.federated(
    federated.local(local, keep=("opt_state",)),
    num_clients=num,
    cohort=num,
    server=optax.sgd(1.0, momentum=0.6),
  )

  def block(number, client):
    flag = pathlib.Path(str(options["flag"]))
    if options["fails"] and client == num - 1 and number == 1 and not flag.exists():
      flag.touch()
      raise ValueError("the scanner is off")
    return blocks(number)[client]

  return exchange.RoundPlan(step, rounds.params(), jax.random.key(4), block)


def run(workdir, sites, **more):
  """What the command says, in a process of its own: NVFlare starts threads and holds the logs."""
  options = {"fails": True, "flag": str(workdir / "flag"), "sites": sites}
  given = {"num_clients": sites, "num_rounds": ROUNDS, "timeout": 120, **more}
  code = f"""
import pathlib
from medjax.federated import remote
try:
  remote.run("tests.federated.test_remote:plan", {options!r},
             workdir=pathlib.Path({str(workdir / "run")!r}), **{given!r})
except ValueError as error:
  print("error:", error)
"""
  env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", code], env=env, cwd=workdir, capture_output=True, text=True, timeout=400
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return [line for line in done.stdout.splitlines() if line.startswith("error:")]


def assert_as_in_one_process(workdir, sites, num_rounds, absent=()):
  """The last site is absent in some rounds; returns how many took part in each."""
  own = plan({"fails": False, "flag": "", "sites": sites})
  server = exchange.Server(own, workdir / "run/server")
  assert server.done == num_rounds

  def blocks(t):
    found = [own.block(t, client) for client in range(sites)]
    last = found[-1]
    return [*found[:-1], last.replace(weight=last.weight * (t not in absent))]

  options = {"num_steps": num_rounds, "log_every": 1, "progress": False}
  one = train.fit(own.step, blocks, own.params, own.key, **options).state
  jax.tree.map(np.testing.assert_array_equal, server.state.params, one.params)
  jax.tree.map(np.testing.assert_array_equal, server.state.opt_state, one.opt_state)
  told = json.loads((workdir / "run/server/history.json").read_text())
  return [int(row["clients"]) for row in told]


def test_a_site_that_fails_is_named_and_the_rest_ends_as_in_one_process(tmp_path):
  (line,) = run(tmp_path, 2)
  assert (
    "site-2 failed: ValueError: the scanner is off" in line and "got 1: 1 of at least 2" in line
  )
  assert run(tmp_path, 2) == []  # the same command again
  assert assert_as_in_one_process(tmp_path, 2, ROUNDS) == [2, 2, 2]


def test_two_of_three_sites_go_on_and_the_third_takes_part_from_the_next_start(tmp_path):
  """What the third keeps, its optimiser, is then that of the last round in which it was joined."""
  assert run(tmp_path, 3, least=2) == []
  assert assert_as_in_one_process(tmp_path, 3, ROUNDS, absent=(1, 2)) == [3, 2, 2]
  assert run(tmp_path, 3, least=2, num_rounds=ROUNDS + 2) == []
  found = assert_as_in_one_process(tmp_path, 3, ROUNDS + 2, absent=(1, 2))
  assert found == [3, 2, 2, 3, 3]
