"""A federated round beside one model on the union of its batches, and beside fedjax.

  python -m experiments.bench.fedjax_peer [ROUNDS]    wants fedjax 0.0.17 and dm-haiku beside medjax

Eight clients, two local updates of 16 pictures of 28 x 28, two convolutions of 16 and 32 channels
(or a perceptron), plain descent, the mean for the rule; one process, the same loss function on both
sides. Rows: one model that makes the two updates on the union of the clients' batches (the floor),
medjax's round in one program and in blocks of one client, and fedjax's loop over clients with its
jit backend (`for_each_client` with the client of its FedAvg). Its weighted mean calls
`jax.tree_map`, which jax has dropped, so a compiled mean takes its place. All but the floor must
end with the same parameters. Rows are interleaved; ratios are to the floor, of the time on the
clock and of the processor's, which other work on the machine disturbs less.

Prints one JSON object: network -> row -> {median_s, low_s, high_s, ratio, cpu_ratio}.
"""

import importlib
import json
import operator
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments.bench.gramian_bench import summary
from medjax import federated, losses, methods, nets, rng, sweeps
from medjax.types import Array, Batch, Key, Params

CLIENTS, STEPS, BATCH, SIDE = 8, 2, 16, 28
FLOOR = "one model on the union"


class Convolutions(nn.Module):
  """Two convolutions with pools, and a dense layer."""

  @nn.compact
  def __call__(self, image: Array) -> Array:
    x = image
    for width in (16, 32):
      x = nn.avg_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), (2, 2))
    return nn.Dense(10)(x.reshape(-1))


class Perceptron(nn.Module):
  """Two hidden layers."""

  @nn.compact
  def __call__(self, image: Array) -> Array:
    x = nn.relu(nn.Dense(200)(image.reshape(-1)))
    return nn.Dense(10)(nn.relu(nn.Dense(200)(x)))


def rows(module: nn.Module) -> dict[str, Callable[[], Params]]:
  """Row -> one round from the same parameters on the same batches; the new parameters."""
  model, random = nets.from_linen(module), np.random.default_rng(0)
  num = CLIENTS * STEPS * BATCH
  store = Batch(
    image=random.normal(size=(num, SIDE, SIDE, 1)).astype(np.float32),
    label=random.integers(10, size=num).astype(np.int32),
    domain=np.zeros(num, np.int32),
    subject=np.arange(num, dtype=np.int32),
    index=np.arange(num, dtype=np.int32),
    weight=np.ones(num, np.float32),
  )

  def loss_fn(params: Params, example: Any, key: Key) -> Array:
    del key
    return losses.cross_entropy(model.apply(params, example.image)[0], example.label)

  key = jax.random.key(0)
  params, _ = model.init(rng.stream(key, "parameters"), store.image[0])
  step = methods.supervised(loss_fn, optax.sgd(0.1))
  parts = np.array_split(np.arange(num), CLIENTS)

  def blocks_of(chunk: int | None) -> list[federated.Cohort]:
    stream = federated.cohorts(
      store, parts, batch_size=BATCH, local_steps=STEPS, seed=0, chunk=chunk
    )
    return stream(0)

  (whole,) = blocks_of(None)
  batches = [
    [jax.tree.map(operator.itemgetter((c, t)), whole.batches) for t in range(STEPS)]
    for c in range(CLIENTS)
  ]
  unions = [
    jax.tree.map(lambda *x: np.concatenate(x), *(own[t] for own in batches)) for t in range(STEPS)
  ]
  update, first = jax.jit(step.update), step.init(params, key)

  def floor() -> Params:
    state = first
    for union in unions:
      state, _ = update(state, union, key)
    return state.params

  made = federated.federated(federated.local(step), num_clients=CLIENTS, cohort=CLIENTS)
  start = made.init(params, key)

  def round_of(blocks: list[federated.Cohort]) -> Callable[[], Params]:
    chunked = made.chunked
    assert chunked is not None
    begin, (sweep,) = jax.jit(chunked.begin), chunked.sweeps
    accumulate, finish = jax.jit(sweep.accumulate, donate_argnums=1), jax.jit(sweep.finish)

    def run() -> Params:
      received = begin(start)
      for block in blocks:
        received, _ = accumulate(start, received, block, (), sweeps.sample_key(key))
      return finish(start, received, sweeps.finish_key(key, 0))[0].params

    return run

  return {
    FLOOR: floor,
    "medjax, one program": round_of([whole]),
    "medjax, blocks of a client": round_of(blocks_of(1)),
    "fedjax, jit": in_fedjax(loss_fn, params, batches),
  }


def in_fedjax(
  loss_fn: Callable[..., Array], params: Params, batches: Sequence[Sequence[Batch]]
) -> Callable[[], Params]:
  """The same round by fedjax: clients one after the other, then its weighted mean of deltas."""
  fedjax = importlib.import_module("fedjax")
  averaging = importlib.import_module("fedjax.algorithms.fed_avg")

  def mean(params: Params, batch: Batch, key: Key) -> Array:
    keys = jax.random.split(key, len(batch.label))
    return jax.vmap(loss_fn, (None, 0, 0))(params, batch, keys).mean()

  with fedjax.for_each_client_backend("jit"):
    run = averaging.create_train_for_each_client(jax.grad(mean), fedjax.optimizers.sgd(0.1))
  server, state = fedjax.optimizers.sgd(1.0), fedjax.optimizers.sgd(1.0).init(params)
  clients = [
    (c, own, key)
    for c, (own, key) in enumerate(
      zip(batches, jax.random.split(jax.random.key(0), len(batches)), strict=True)
    )
  ]

  @jax.jit
  def joined(deltas: list[Params]) -> Params:
    mean = jax.tree.map(lambda *each: sum(each[1:], start=each[0]) / len(each), *deltas)
    return server.apply(mean, state, params)[1]

  def go() -> Params:
    return joined([delta for _, delta in run(params, clients)])

  return go


def measured(rounds: int) -> dict[str, dict[str, dict[str, float]]]:
  """Times of the rows, interleaved; the first round compiles and checks that all rows agree."""
  found = {}
  for name, module in {"convolutions": Convolutions(), "perceptron": Perceptron()}.items():
    own = rows(module)
    ends = {row: jax.device_get(run()) for row, run in own.items()}
    for row in list(own)[2:]:
      check = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
      jax.tree.map(check, ends["medjax, one program"], ends[row])
    wall: dict[str, list[float]] = {row: [] for row in own}
    processor: dict[str, list[float]] = {row: [] for row in own}
    for _ in range(rounds):
      for row, run in own.items():
        began, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        wall[row].append(time.perf_counter() - began)
        processor[row].append(time.process_time() - used)
    found[name] = {
      row: {
        **summary(wall[row], wall[FLOOR]),
        "cpu_ratio": summary(processor[row], processor[FLOOR])["ratio"],
      }
      for row in own
    }
  return found


if __name__ == "__main__":
  count = int([*sys.argv[1:], "25"][0])
  print(json.dumps({"rounds": count, "networks": measured(count)}))
