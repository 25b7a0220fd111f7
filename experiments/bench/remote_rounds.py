"""What a round costs on NVFlare beside the same round in one process, by size of the network.

  python -m experiments.bench.remote_rounds [sim|poc] [PARAMETERS ...]     wants medjax[nvflare]

Two sites train a linear network of so many parameters (100,000, 1,000,000 and 10,000,000 by
default) for one update of 8 rows, so that a round is spent on moving parameters; 8 rounds. The
first, which compiles, is left out. Both must end with the same parameters.

Prints one JSON object: parameters -> {remote_s, local_s, megabytes_each_way, first_round_s} as
medians on the clock.
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
import optax

from medjax import federated, methods
from medjax.federated import exchange
from medjax.types import Array, Batch, Json, Key, Params

SITES, ROUNDS, FEATURES = 2, 8, 100


def plan(options: Mapping[str, Json]) -> exchange.RoundPlan:
  """A matrix [features, outputs] on random rows; the same at the server and at both sites."""
  outputs = int(str(options["parameters"])) // FEATURES
  random = np.random.default_rng(0)
  n = np.arange(16 * SITES, dtype=np.int32)
  store = Batch(
    image=random.normal(size=(len(n), FEATURES)).astype(np.float32),
    label=np.zeros(len(n), np.int32),
    domain=np.zeros(len(n), np.int32),
    subject=n,
    index=n,
    weight=np.ones(len(n), np.float32),
  )

  def loss_fn(params: Params, example: Batch, key: Key) -> Array:
    del key
    return (example.image @ params["w"]).mean() ** 2

  blocks = federated.cohorts(store, np.array_split(n, SITES), batch_size=8, seed=0, chunk=1)
  client = federated.local(methods.supervised(loss_fn, optax.sgd(0.1)))
  step = federated.federated(client, num_clients=SITES, cohort=SITES)
  params = {"w": jnp.ones((FEATURES, outputs))}
  return exchange.RoundPlan(step, params, jax.random.key(0), lambda t, c: blocks(t)[c])


def measured(env: Any, parameters: int) -> dict[str, float]:
  from medjax.federated import remote

  options: dict[str, Json] = {"parameters": parameters}
  with tempfile.TemporaryDirectory() as folder:
    where = pathlib.Path(folder)
    ran = remote.run(
      "experiments.bench.remote_rounds:plan",
      options,
      num_clients=SITES,
      num_rounds=ROUNDS,
      workdir=where / "remote",
      env=env,
    )
    # In one process: the same objects, and nothing travels. Both write the state after each round.
    one = plan(options)
    server = exchange.Server(one, where / "server")
    sites = [exchange.RemoteSite(one, c, where / f"site-{c}") for c in range(SITES)]
    seconds = []
    for number in range(ROUNDS):
      began = time.perf_counter()
      sent = server.sent()
      server.join({c: sites[c].train(number, sent, int(server.accepted[c])) for c in range(SITES)})
      seconds.append(time.perf_counter() - began)
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
  print(json.dumps({"env": place, "sizes": {n: measured(place, n) for n in every}}))
