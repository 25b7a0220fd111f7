"""A federated round as a Step whose chunk is a block of clients.

  d_c = what client c changes from theta on its own batches            for the clients c of a round
  d = A(d_1, ..., d_n),   theta <- theta + U(-d, s, theta)

With the mean for A and sgd(1) for U it is FedAvg (McMahan et al. 2017); other U are FedAvgM,
FedAdam and so on (Reddi et al. 2021). The loop knows nothing of it: data, checkpoints, logs and
resume are those of every training.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from medjax import check, sweeps
from medjax.federated import collect
from medjax.federated import server as servers
from medjax.federated.across import Across
from medjax.federated.aggregate import averages
from medjax.federated.aggregate.rule import Rule
from medjax.federated.attacks.attack import Attack
from medjax.federated.client import Client
from medjax.federated.cohort import Cohort
from medjax.federated.compress import Compressor
from medjax.federated.parts import Part
from medjax.federated.state import Clients, Federation, Received, Rounds
from medjax.types import Chunked, Json, Key, Leaf, Metrics, Params, PyTree, Step, Sweep, TrainState

_TOO_FEW = (
  "fewer clients were present than the rule needs: lower f, sample more clients, or pass"
  " skips_small_rounds=True"
)


def federated(
  client: Client,
  *,
  num_clients: int,
  cohort: int,
  server: optax.GradientTransformation | None = None,
  aggregate: Rule | None = None,
  attack: Attack | None = None,
  parts: Sequence[Part] = (),
  compress: Compressor | None = None,
  across: Across = "auto",
  skips_small_rounds: bool = False,
) -> Step:
  """One federated round a step.

  Args:
    client: from `local`, or a Client of one's own.
    num_clients: clients in all; their kept states lie in `state.extra.clients`.
    cohort: clients a round at most: the rows of the server's matrix.
    server: any optax transformation, fed with minus the joined update; default sgd(1.0), FedAvg.
      sgd(1.0, momentum=0.9) is FedAvgM, adam(...) is FedAdam.
    aggregate: rule that joins the clients' updates; default `aggregate.mean()`.
    attack: replaces what some clients send, to test rules; see `federated.attacks`.
    parts: rules for parts of the parameters, and parts that are never sent.
    compress: what a row goes through on its way to the server.
    across: how the clients of a block run: "unroll" one after the other in one program, "vmap" all
      at once, "map" in a loop of the device; "auto": unroll on one CPU (convolutions over many
      models at once and in loops are slow there), else vmap. Blocks of a round (see `cohorts`) are
      a loop on the host.
    skips_small_rounds: a round with fewer clients than the rule needs changes nothing. Default:
      training stops there with a message.
  Returns:
    Step in chunks over `Cohort`s. Metrics: those of the client as means weighted like the cohort,
    "clients" (present), "absent" (left out because a number was not finite), "too_few" (1: fewer
    than the rule needs), "top_weight" (largest share of one client), "update_norm", "megabytes_up"
    and "megabytes_down" of the round.
  Raises:
    InputError: a cohort that is smaller than a rule needs; on tracing, an update of another shape.
  Guarantees: a client's keys are fold_in(key of the round, its id), and clients are joined in the
    order of their ids: blocks, padding, the order of clients and resuming change no bit. An empty
    round changes nothing, the server optimiser's state included. Running statistics are averaged
    with the weights that the rule gave the clients and never go through the server's optimiser.
    The rows of a round take cohort x parameters x 4 bytes.
  """
  rule = averages.mean() if aggregate is None else aggregate
  optimiser = optax.sgd(1.0) if server is None else server
  check.positive("num_clients", num_clients)
  check.in_interval("cohort", cohort, 1, num_clients, f"there are {num_clients} clients")
  federation = Federation(
    client,
    num_clients,
    cohort,
    optimiser,
    rule,
    attack,
    tuple(parts),
    compress,
    across,
    skips_small_rounds,
  )
  for each in federation.rules:
    each.check_size(cohort)
  if attack is not None:
    check.in_interval("f of the attack", attack.f, 1, num_clients)
  guard = client.guard
  check.require(
    guard is None or guard.num_clients == num_clients,
    f"a client that was made for {num_clients} clients",
    "one for another number",
    "pass num_clients=clients.num_clients",
  )

  def init(params: Params, key: Key) -> TrainState:
    return _start(federation, params, key)

  def begin(state: TrainState) -> Received:
    return collect.begin(federation, state)

  def accumulate(
    state: TrainState, acc: Received, chunk: Cohort, carry: PyTree, key: Key
  ) -> tuple[Received, PyTree]:
    return collect.accumulate(federation, state, acc, chunk, key), carry

  def finish(state: TrainState, acc: Received, key: Key) -> tuple[TrainState, PyTree, Metrics]:
    new, metrics = servers.finish(federation, state, acc, key)
    return new, (), metrics

  chunked = Chunked(begin, (Sweep(accumulate, finish),))
  update = sweeps.on_one_chunk(chunked)
  step = Step(init, update, _manifest(federation), {"too_few": _TOO_FEW}, chunked)
  if guard is None:
    return step

  def by_hand(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    guard.check_by_hand()
    return update(state, batch, key)

  return dataclasses.replace(
    step, update=by_hand, key_of=guard.key_of, begin=guard.begin, admit=guard.admit
  )


def _start(federation: Federation, params: Params, key: Key) -> TrainState:
  num, layout = federation.num_clients, federation.layout(params)
  start = federation.client.init
  kept, _ = jax.vmap(lambda i: start(params, jax.random.fold_in(key, i)))(jnp.arange(num))
  _, statistics = start(params, key)
  own = {
    path: jnp.broadcast_to(leaf[None], (num, *jnp.shape(leaf)))
    for path, leaf in layout.own_of(params).items()
  }
  residual: Leaf = jnp.zeros((num, layout.size)) if federation.keeps_residual else ()
  keeps_previous = any(rule.keeps_previous for rule in federation.rules)
  previous: Leaf = jnp.zeros(layout.size) if keeps_previous else ()
  shown = {name: jnp.zeros(()) for name in federation.client.metrics}
  return TrainState(
    jnp.zeros((), jnp.int32),
    params,
    federation.optimiser.init(params),
    statistics,
    Rounds(Clients(kept, own, residual), previous, shown),
  )


def _manifest(federation: Federation) -> dict[str, Json]:
  # States that the server reads cannot stay at their sites.
  shares = federation.client.shared is not Client._field_defaults["shared"]
  kinds = {part.name: part.rule.name if part.rule else "kept" for part in federation.parts}
  attack, compress = federation.attack, federation.compress
  return {
    **federation.client.manifest,
    "num_clients": federation.num_clients,
    "cohort": federation.cohort,
    "aggregate": federation.rule.name,
    "attack": "" if attack is None else f"{attack.name} of {attack.f}",
    "parts": " ".join(f"{name}:{kind}" for name, kind in kinds.items()),
    "compress": "" if compress is None else compress.name,
    **({"shares": "states of clients"} if shares else {}),
  }
