"""Federated rounds beside the plain steps that their clients do, by the clients of a block."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from experiments.throughput.measuring import Program
from experiments.throughput.method_programs import problem
from medjax import federated, methods, sweeps
from medjax.types import AnyLossFn, Batch, Key, Step, TrainState


def unet(
  batch_size: int,
  shape: tuple[int, ...],
  widths: tuple[int, ...],
  num_clients: int,
  chunks: Sequence[int],
) -> list[Program]:
  """One plain step, then a round of all clients in blocks of each size; a client does one step.

  A round costs as many plain steps as it has clients, whatever the blocks: what differs is how many
  networks are held, and how often the host is asked. FedProx and SCAFFOLD, in the middle size of
  blocks, add a product and a sum for each parameter, and SCAFFOLD a tree of the network's size that
  is kept for each client. On a CPU the clients of a block are one long program: blocks of 16 took
  88 to 324 s to compile beside other work, and ran no faster than blocks of 4, which took 21.
  """
  given = problem(num_clients * batch_size, shape, widths)
  store = jax.tree.map(np.asarray, given.batch)
  parts = federated.evenly(store.subject, num_clients, seed=0)
  plain = methods.supervised(given.loss_fn, optax.adam(1e-3))

  def descent(loss_fn: AnyLossFn) -> Step:
    return methods.supervised(loss_fn, optax.sgd(1e-3))

  drifting = {
    "FedProx": federated.fedprox(descent, given.loss_fn, 0.1),
    "SCAFFOLD": federated.scaffold(descent, given.loss_fn, learning_rate=1e-3),
  }
  clients = [("", federated.local(plain), chunk) for chunk in chunks]
  clients += [(f"{name}, ", client, chunks[len(chunks) // 2]) for name, client in drifting.items()]
  key = jax.random.key(0)
  first = jax.tree.map(lambda x: x[:batch_size], given.batch)
  rows = [
    Program("plain step", plain.update, (plain.init(given.params, key), first, key), batch_size)
  ]
  for title, client, chunk in clients:
    step = federated.federated(client, num_clients=num_clients, cohort=num_clients)
    stream = federated.cohorts(store, parts, batch_size=batch_size, seed=0, chunk=chunk)
    args = (step.init(given.params, key), stream(0), key)
    name = f"{title}round of {num_clients} clients, blocks of {chunk}"
    size = num_clients * batch_size
    rows.append(Program(name, _round(step), args, size, float(num_clients), on_host=True))
  return rows


def _round(step: Step) -> Callable[[TrainState, list[Any], Key], Any]:
  """The round as `train.fit` does it: one compiled piece, called once a block."""
  chunked = step.chunked
  assert chunked is not None
  (sweep,) = chunked.sweeps
  begin, carry = jax.jit(chunked.begin), jax.jit(chunked.carry)
  accumulate, finish = jax.jit(sweep.accumulate), jax.jit(sweep.finish)

  def run(state: TrainState, blocks: list[Batch], key: Key) -> Any:
    acc, own = begin(state), sweeps.sample_key(key)
    for block in blocks:
      acc, _ = accumulate(state, acc, block, carry(block, own), own)
    return finish(state, acc, sweeps.finish_key(key, 0))

  return run
