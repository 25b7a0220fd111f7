"""Whole clients as the units of differential privacy, for `methods.private` (McMahan et al. 2018).

  theta <- theta + U(-(sum_c clip(d_c, C) + sigma C z) / L, s, theta),   z ~ N(0, I)

d_c is what client c changes in its local training. Minus d_c is the gradient of the loss -<d_c,
theta> with d_c held constant, so a private Step of that loss, on one "example" a client, is private
federated averaging: sampling, clipping, noise, ledger and statement are those of every private
Step, and protect all that a client holds. Each client counts alike (by its examples one hospital
would weigh more than the clipping allows for), and the sum is a plain one: a robust rule looks at
single rows, whose sensitivity has no useful bound, and cannot be put in its place.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import check, rng
from medjax.data.streams.epochs import take
from medjax.federated.client import Broadcast, Client
from medjax.federated.partition import check_people
from medjax.types import Batch, Json, Key, LossFn, Params, PyTree


def client_units(
  store: Batch, parts: Sequence[np.ndarray], *, max_cases: int | None = None
) -> dict[str, Json]:
  """All clients along one axis, as `DPPlan.stream` wants them with unit="example".

  >>> import numpy as np
  >>> from medjax.types import Batch
  >>> n = np.arange(3)
  >>> store = Batch(n[:, None] * 1.0, n, n, n, n, np.ones(3, np.float32))
  >>> units = client_units(store, [n[:1], n[1:]])
  >>> units["cases"].weight.tolist()  # the first client has one case, the second two
  [[1.0, 0.0], [1.0, 1.0]]

  Args:
    store: all examples, from `data.stack`.
    parts: rows of each client.
    max_cases: the first so many cases of a client are used; None: all, and smaller clients are
      filled up with cases of weight 0.
  Returns:
    {"cases": Batch [clients, cases, ...], "subject": [clients]}; in the plan num_examples is the
    number of clients and example_name what they are called ("hospital").
  Raises:
    InputError: a client without cases, or a person at two clients, whom no bound would protect.
  """
  check.require(len(parts) > 0, "at least one client", "none", "pass the rows of each")
  for client, part in enumerate(parts):
    check.require(len(part) > 0, f"cases at client {client}", "none", "leave it out")
  check_people(parts, np.asarray(store.subject))
  largest = max(len(part) for part in parts)
  width = largest if max_cases is None else min(max_cases, largest)
  check.positive("max_cases", width)
  place = np.arange(width)
  rows = np.stack([np.asarray(part)[np.minimum(place, len(part) - 1)] for part in parts])
  is_real = np.stack([place < len(part) for part in parts])
  cases = take(store, rows)
  cases = cases.replace(weight=np.where(is_real, cases.weight, 0).astype(np.float32))
  return {"cases": cases, "subject": np.arange(len(parts), dtype=np.int32)}


def client_loss(client: Client, *, local_steps: int, batch_size: int) -> LossFn:
  """The loss of one client of `client_units` whose gradient is minus its update.

  methods.private(client_loss(local(step), ...), server_optimiser, plan)

  Args:
    client: from `local`, keeping nothing: a state that goes on would be a second release.
    local_steps: local updates a round.
    batch_size: cases of a local update; a round goes through the client's cases in random order,
      anew when they end, and skips batches of nothing but padding.
  Returns:
    `loss(params, unit, key)`; its value, -<d_c, theta>, says nothing of the training.
  Raises:
    InputError: on tracing, a client that keeps a state or sends running statistics, which neither
      clipping nor noise would cover.
  """
  check.positive("local_steps", local_steps)
  check.positive("batch_size", batch_size)

  def loss(params: Params, unit: PyTree, key: Key) -> jax.Array:
    start = jax.lax.stop_gradient(params)
    kept, statistics = client.init(start, rng.stream(key, "init"))
    check.require(
      not jax.tree.leaves((kept, statistics)),
      "a client that keeps no state and sends parameters alone",
      "one with a state, or with running statistics",
      "leave keep out and take a network with GroupNorm: only clipped updates are protected",
    )
    cases: Batch = unit["cases"]
    order = jax.random.permutation(rng.stream(key, "order"), cases.weight.shape[0])
    # Those that are there come first, in random order; padding follows.
    order = order[jnp.argsort(cases.weight[order] <= 0, stable=True)]
    count = jnp.maximum((cases.weight > 0).sum(), 1)
    place = order[jnp.arange(local_steps * batch_size) % count]
    batches = jax.tree.map(lambda x: x[place].reshape(local_steps, batch_size, *x.shape[1:]), cases)
    draw = jnp.arange(local_steps * batch_size, dtype=jnp.int32)
    batches = batches.replace(draw=draw.reshape(local_steps, batch_size))
    report = client.run(Broadcast(start, {}, ()), kept, batches, rng.stream(key, "run"))
    delta = jax.lax.stop_gradient(report.delta)
    return -jnp.asarray(optax.tree.vdot(delta, params))

  return loss
