"""What a round costs on NVFlare beside the same round in one process, by size of the network.

  python -m experiments.bench.remote_rounds [sim|poc] [PARAMETERS ...]     wants medjax[nvflare]

Clients do nothing with so many parameters (100,000, 1,000,000 and 10,000,000 by default), so that a
round of 8 is spent on moving them and on the file of what the site keeps. Both columns run from the
sending to the last answer: what the server does before and after, reading its parameters, joining
and writing its state, is the same in both and in neither. With one site nothing runs beside
anything else, so that what NVFlare adds is the difference of the columns; with two, NVFlare has
both at work at the same time and one process has them one after the other. The first round, which
compiles, is left out. Both must end with the same parameters.

Prints one JSON object: sites -> parameters -> {remote_s, local_s, megabytes_each_way,
first_round_s} as medians on the clock.
"""

import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import federated
from medjax.federated import exchange
from medjax.types import Batch, Json, Key, PyTree

ROUNDS, FEATURES = 8, 100


def idle() -> federated.Client:
  """A client that changes nothing."""

  def run(
    broadcast: federated.Broadcast, kept: PyTree, batches: PyTree, key: Key
  ) -> federated.ClientReport:
    del batches, key
    delta = jax.tree.map(jnp.zeros_like, broadcast.params)
    return federated.ClientReport(delta, kept, {}, {"loss": jnp.zeros(())})

  return federated.Client(lambda params, key: ((), {}), run)


def plan(options: Mapping[str, Json]) -> exchange.RoundPlan:
  """A matrix [features, outputs]; the same at the server and at all sites."""
  outputs, sites = int(str(options["parameters"])) // FEATURES, int(str(options["sites"]))
  n = np.arange(sites, dtype=np.int32)
  store = Batch(
    image=np.zeros((sites, 1), np.float32),
    label=n,
    domain=n,
    subject=n,
    index=n,
    weight=np.ones(sites, np.float32),
  )
  blocks = federated.cohorts(store, np.array_split(n, sites), batch_size=1, seed=0, chunk=1)
  step = federated.federated(idle(), num_clients=sites, cohort=sites)
  params = {"w": jnp.ones((FEATURES, outputs))}
  return exchange.RoundPlan(step, params, jax.random.key(0), lambda t, c: blocks(t)[c])


def measured(env: Any, num_sites: int, parameters: int) -> dict[str, float]:
  from medjax.federated import remote

  options: dict[str, Json] = {"parameters": parameters, "sites": num_sites}
  with tempfile.TemporaryDirectory() as folder:
    where = pathlib.Path(folder)
    ran = remote.run(
      "experiments.bench.remote_rounds:plan",
      options,
      num_clients=num_sites,
      num_rounds=ROUNDS,
      workdir=where / "remote",
      env=env,
    )
    # In one process: the same objects, and nothing travels.
    one = plan(options)
    server = exchange.Server(one, where / "server")
    sites = [exchange.RemoteSite(one, c, where / f"site-{c}") for c in range(num_sites)]
    seconds = []
    for number in range(ROUNDS):
      sent, began = server.sent(), time.perf_counter()
      known = server.accepted
      replies = {c: own.train(number, sent, int(known[c])) for c, own in enumerate(sites)}
      seconds.append(time.perf_counter() - began)
      server.join(replies)
  np.testing.assert_array_equal(ran.state.params["w"], server.state.params["w"])
  times = [row["seconds"] for row in ran.history]
  return {
    "remote_s": float(np.median(times[1:])),
    "local_s": float(np.median(seconds[1:])),
    "first_round_s": times[0],
    "megabytes_each_way": 4 * parameters / 1e6,
  }


if __name__ == "__main__":
  place, *sizes = sys.argv[1:] or ["sim"]
  every = [int(size) for size in sizes] or [100_000, 1_000_000, 10_000_000]
  found = {sites: {n: measured(place, sites, n) for n in every} for sites in (1, 2)}
  print(json.dumps({"env": place, "sites": found}))
