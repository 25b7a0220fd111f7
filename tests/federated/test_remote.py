"""The rounds by NVFlare, in its simulator: two sites, three rounds."""

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
NUM, ROUNDS = 2, 3

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(importlib.util.find_spec("nvflare") is None, reason="wants medjax[nvflare]"),
]


def plan(options):
  """Two clients that keep their optimisers; the second fails once, if the options say so."""
  parts = np.array_split(np.arange(60), NUM)
  blocks = federated.cohorts(rounds.store(), parts, batch_size=3, local_steps=2, seed=1, chunk=1)
  local = methods.supervised(rounds.loss_fn, optax.adam(0.05))
  step = federated.federated(
    federated.local(local, keep=("opt_state",)),
    num_clients=NUM,
    cohort=NUM,
    server=optax.sgd(1.0, momentum=0.6),
  )

  def block(number, client):
    flag = pathlib.Path(str(options["flag"]))
    if options["fails"] and client == 1 and number == 1 and not flag.exists():
      flag.touch()
      raise ValueError("the scanner is off")
    return blocks(number)[client]

  return exchange.RoundPlan(step, rounds.params(), jax.random.key(4), block)


def run(workdir, fails):
  """In a process of its own: NVFlare starts threads and takes hold of the logs."""
  options = {"fails": fails, "flag": str(workdir / "flag")}
  code = f"""
import pathlib
from medjax.federated import remote
try:
  ran = remote.run("tests.federated.test_remote:plan", {options!r}, num_clients={NUM},
                   num_rounds={ROUNDS}, workdir=pathlib.Path({str(workdir / "run")!r}), timeout=120)
except ValueError as error:
  print("error:", error)
"""
  env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", code], env=env, cwd=workdir, capture_output=True, text=True, timeout=400
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return [line for line in done.stdout.splitlines() if line.startswith("error:")]


def test_a_site_that_fails_is_named_and_the_rest_ends_as_in_one_process(tmp_path):
  (line,) = run(tmp_path, fails=True)
  assert (
    "site-2 failed: ValueError: the scanner is off" in line and "got 1: 1 of at least 2" in line
  )
  assert run(tmp_path, fails=True) == []  # the same command again
  server = exchange.Server(plan({"fails": False, "flag": ""}), tmp_path / "run/server")
  assert server.done == ROUNDS
  own = plan({"fails": False, "flag": ""})
  blocks = lambda t: [own.block(t, client) for client in range(NUM)]  # noqa: E731
  options = {"num_steps": ROUNDS, "log_every": 1, "progress": False}
  one = train.fit(own.step, blocks, own.params, own.key, **options).state
  jax.tree.map(np.testing.assert_array_equal, server.state.params, one.params)
  jax.tree.map(np.testing.assert_array_equal, server.state.opt_state, one.opt_state)
  told = json.loads((tmp_path / "run/server/history.json").read_text())
  assert [row["clients"] for row in told] == [NUM] * ROUNDS
