"""What one client does in a round: any medjax Step, run on the client's own batches.

state <- Step.init(theta);  for each local batch b:  state <- Step.update(state, b)
the client reports delta = state.params - theta                   (FedAvg, McMahan et al. 2017)
"""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from medjax import check, rng
from medjax.tree import entry
from medjax.types import Beginning, Json, Key, Leaf, Metrics, Params, PyTree, Step, TrainState


class Broadcast(NamedTuple):
  """What the server sends to every client of a round.

  Attributes:
    params: the global parameters theta.
    model_state: running statistics of the global model, {} if it has none.
    shared: what `Client.shared` made of the clients' states, () if nothing.
    round: number of the round, from 0; for what changes from round to round.
  """

  params: Params
  model_state: PyTree
  shared: PyTree
  round: Leaf = 0


class ClientReport(NamedTuple):
  """What a client hands back.

  Attributes:
    delta: change of the parameters, like `params`.
    kept: what the client keeps until it is asked again; never sent.
    model_state: its running statistics, sent; {} if it keeps them or has none.
    metrics: flat dict of scalars; those named in `Client.metrics` are used.
    weight: factor >= 0 on the weight that the cohort gives the client.
  """

  delta: PyTree
  kept: PyTree
  model_state: PyTree
  metrics: Metrics
  weight: Leaf = 1.0


@runtime_checkable
class Answerable(Protocol):
  """What answers for the releases of clients that protect their own people; see `Step`."""

  @property
  def num_clients(self) -> int: ...
  def begin(self, beginning: Beginning) -> str | None: ...
  def admit(self, round: int, blocks: PyTree) -> None: ...
  def key_of(self, round: int) -> Key: ...
  def check_by_hand(self) -> None: ...


class Client(NamedTuple):
  """One client of a federation; pure functions of one client, without an axis of clients.

  Attributes:
    init: `init(params, key) -> (kept, model_state)`: what a client keeps from the beginning, and
      the running statistics that the server starts from ({} if none are sent).
    run: `run(broadcast, kept, batches, key) -> ClientReport` on leaves [local_steps, batch, ...].
    metrics: names of the metrics that a round averages over its clients.
    shared: `shared(kept of all, [num_clients, ...]) -> tree` that the server broadcasts; clients
      send as many numbers back to keep it up to date.
    manifest: flat dict for the run's manifest.
    guard: what answers for the samples and the noise of a client that is private inside; None:
      nothing is promised.
  """

  init: Callable[[Params, Key], tuple[PyTree, PyTree]]
  run: Callable[[Broadcast, PyTree, PyTree, Key], ClientReport]
  metrics: tuple[str, ...] = ("loss",)
  shared: Callable[[PyTree], PyTree] = lambda kept: ()
  manifest: Mapping[str, Json] = types.MappingProxyType({})
  guard: Answerable | None = None


def local(
  step: Step | Callable[[Broadcast], Step],
  *,
  keep: Sequence[str] = (),
  metrics: Sequence[str] = ("loss",),
  max_unrolled: int = 16,
) -> Client:
  """Any medjax Step as a client.

  Args:
    step: the client's method, or `step(broadcast) -> Step` for one that reads the global model, for
      example to distil from it.
    keep: parts of the TrainState that the client keeps from round to round and never sends, of
      "opt_state", "extra" and "model_state"; what is not named starts anew from `Step.init`.
      "model_state" is FedBN's local running statistics (Li et al. 2021).
    metrics: names of the Step's metrics to average over local updates and clients.
    max_unrolled: more local updates than this run as a scan. Convolutions in a scan are slow on
      CPUs; a long unrolled program takes long to compile.
  Returns:
    Client whose update t draws from fold_in(stream(its key, "update"), t). A batch whose weights
    are all 0 is skipped, so clients may have different numbers of local updates.
  Raises:
    InputError: a Step whose noise keys come from the host; `local_private` hands those out.
  """
  for name in keep:
    check.one_of("keep", name, ("opt_state", "extra", "model_state"))
  make = (lambda broadcast: step) if isinstance(step, Step) else step

  def init(params: Params, key: Key) -> tuple[PyTree, PyTree]:
    state = checked(make(Broadcast(params, {}, ()))).init(params, key)
    kept = {name: getattr(state, name) for name in keep}
    return kept, {} if "model_state" in keep else state.model_state

  def run(broadcast: Broadcast, kept: PyTree, batches: PyTree, key: Key) -> ClientReport:
    own = checked(make(broadcast))
    state = own.init(broadcast.params, rng.stream(key, "init"))
    state = state.replace(**{"model_state": broadcast.model_state, **kept})
    state, means = repeat(own, state, batches, rng.stream(key, "update"), metrics, max_unrolled)
    delta = jax.tree.map(jnp.subtract, state.params, broadcast.params)
    sent = {} if "model_state" in keep else state.model_state
    return ClientReport(delta, {name: getattr(state, name) for name in keep}, sent, means)

  manifest = dict(step.manifest) if isinstance(step, Step) else {}
  return Client(init, run, tuple(metrics), manifest={**manifest, "keep": " ".join(keep)})


def repeat(
  step: Step,
  state: TrainState,
  batches: PyTree,
  key: Key,
  metrics: Sequence[str],
  max_unrolled: int = 16,
) -> tuple[TrainState, Metrics]:
  """Local updates on batches [local_steps, batch, ...]; the metrics' means over those not skipped.

  Raises:
    InputError: a metric that the Step does not have.
  """
  num = jax.tree.leaves(batches)[0].shape[0]

  def advance(state: TrainState, t: Any, batch: PyTree) -> tuple[TrainState, Metrics]:
    new, found = step.update(state, batch, jax.random.fold_in(key, t))
    for name in metrics:
      check.one_of("metric of a client", name, sorted(found))
    weight = entry(batch, "weight")
    is_real = jnp.array(True) if weight is None else (weight > 0).any()
    new = jax.tree.map(lambda a, b: jnp.where(is_real, a, b).astype(b.dtype), new, state)
    counted = {name: jnp.where(is_real, found[name], 0) for name in metrics}
    return new, {**counted, "": is_real.astype(jnp.float32)}

  if num <= max_unrolled:
    rows = []
    for t in range(num):
      batch = jax.tree.map(lambda x, t=t: x[t], batches)
      state, row = advance(state, t, batch)
      rows.append(row)
    sums = jax.tree.map(lambda *values: sum(values[1:], start=values[0]), *rows)
  else:

    def scanned(state: TrainState, one: tuple[Any, PyTree]) -> tuple[TrainState, Metrics]:
      return advance(state, *one)

    state, table = jax.lax.scan(scanned, state, (jnp.arange(num), batches))
    sums = jax.tree.map(lambda x: x.sum(0), table)
  count = jnp.maximum(sums.pop(""), 1)
  return state, {name: total / count for name, total in sums.items()}


def checked(step: Step) -> Step:
  check.require(
    step.key_of is None,
    "a client's Step whose keys come from the round",
    "one with secret noise keys from the host, such as methods.private",
    "to protect the people of a client take federated.local_private, to protect whole clients"
    " methods.private(federated.client_loss(...), tx, plan)",
  )
  return step
