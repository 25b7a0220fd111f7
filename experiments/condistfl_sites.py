"""ConDistFL with its first two hospitals in processes of their own, and the same in one process.

Not a study of a method: it shows that the client and the rule of `experiments.condistfl` run on
NVFlare as they are, that the result is that of one process bit for bit, and what a round costs.
A site reads its own hospital alone. The command goes on where it ended.
"""

import dataclasses
import importlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import abdomens
from medjax import cli, data, federated, losses, rng, study, train
from medjax.federated import exchange
from medjax.types import Batch, Json

NUMBER = 2  # hospitals


def cases(config: Any, seed: int, client: int, task: Any) -> Batch:
  """The training people of one hospital, with the labels that it has."""
  name = list(abdomens.LABELS)[client]
  own = abdomens.abdomen(config.num_people, config.shape, seed, name)
  parts = study.parted(own.subjects, {"train": 2 / 3, "test": 1 / 3}, seed)
  batch = data.stack(own, parts["train"])
  keep = jax.vmap(losses.keep_labelled, (0, None))
  label = np.asarray(keep(batch.label, jnp.asarray(task.labelled)[client]))
  return batch.replace(label=label, domain=np.full_like(batch.domain, client))


def plan(options: Mapping[str, Json]) -> exchange.RoundPlan:
  """What the server and both sites make by themselves.

  Args:
    options: fields of `experiments.condistfl.Config`, and "seed".
  """
  condistfl: Any = importlib.import_module("experiments.condistfl")
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if k != "seed"}
  config, seed = condistfl.Config(**given), int(str(options["seed"]))
  task = condistfl.Task(config)
  local = config.local_updates[0]
  key = jax.random.key(seed)
  params, _ = task.model.init(rng.stream(key, "parameters"), jnp.zeros((*config.shape, 1)))
  streams: dict[int, Any] = {}

  def block(number: int, client: int) -> federated.Cohort:
    if client not in streams:
      store = cases(config, seed, client, task)
      rows = np.arange(len(store.weight))
      # A seed of its own for each hospital: a site knows nothing of the draws of another.
      own = rng.stream(jax.random.fold_in(key, client), "cases")
      streams[client] = federated.cohorts(
        store, [rows], batch_size=config.batch_size, local_steps=local, seed=own
      )
    (alone,) = streams[client](number)
    ids = np.array([client], np.int32)
    return alone.replace(client=ids, slot=ids)

  step = condistfl.ARMS[config.arms[0]].make(task, local, number=NUMBER)
  return exchange.RoundPlan(step, params, key, block)


def build(config: Any, options: cli.RunOptions) -> None:
  remote: Any = importlib.import_module("medjax.federated.remote")  # wants medjax[nvflare]
  fields = {**dataclasses.asdict(config), "seed": options.seed}
  rounds = config.num_updates // config.local_updates[0]
  with options.directory(config) as directory:
    if directory.finished:
      return
    began = time.perf_counter()
    ran = remote.run(
      "experiments.condistfl_sites:plan",
      {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()},
      num_clients=NUMBER,
      num_rounds=rounds,
      workdir=directory.path / "sites",
      env=config.env,
    )
    seconds = time.perf_counter() - began
    one = plan(fields)
    fit = train.fit(
      one.step,
      lambda t: [one.block(t, client) for client in range(NUMBER)],
      one.params,
      one.key,
      num_steps=rounds,
      log_every=1,
    )
    far = jax.tree.map(
      lambda a, b: float(np.abs(np.asarray(a, np.float64) - b).max()),
      (ran.state.params, ran.state.opt_state),
      (fit.state.params, fit.state.opt_state),
    )
    found: dict[str, Json] = {
      "env": config.env,
      "rounds": rounds,
      "largest_difference_to_one_process": max(jax.tree.leaves(far)),
      "seconds_in_all": seconds,
      "seconds_a_round": [row["seconds"] for row in ran.history],
      "loss": [row["loss"] for row in ran.history],
    }
    directory.write_json("results", found)
    print(f"{rounds} rounds, largest difference {found['largest_difference_to_one_process']:g}")
