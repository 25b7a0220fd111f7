"""Differential privacy inside each client: a hospital protects its people from all who are outside.

  every local update of client c is one of DP-SGD:  a Poisson sample of its own examples, gradients
  clipped, noise from a secret that only the client has

What a client sends after a round is a function of the models that it was sent and of the noisy sums
of its own local updates. So everything that leaves a client in a whole training is covered by the
adaptive composition of rounds x local updates releases, whoever the others are and whatever the
server does with the rows: robust rules, compression, server optimisers and personal parts cost
nothing. Each client has a ledger of its own, and a person who is at one client alone pays there
alone. This is another protection than that of `federated.client_units`, which hides a whole client
from those who see the joined model, and trusts the server.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from medjax import check, sweeps
from medjax.data.streams.epochs import take
from medjax.federated.client import Client, local
from medjax.federated.cohort import Cohort
from medjax.federated.partition import check_people
from medjax.privacy.plan import DPPlan
from medjax.privacy.sampling import PrivateStream, Units, content, fingerprint
from medjax.privacy.vault import Vault
from medjax.types import Batch, Beginning, Json, Key, Metrics, PyTree, Step, TrainState

_SHARED = ("expected_batch_size", "num_steps", "max_norm", "unit", "sampling", "max_sample_size")
_SHARED += ("max_group_size", "max_examples_per_subject", "multipliers", "adaptive_clipping")


class SealedRound(list):
  """The blocks of a round, with the seals of the vaults that drew its samples.

  The keys of the noise are zeros until `PrivateClients.admit` fills them in.
  """

  def __init__(self, blocks: list[Cohort], seal: str):
    super().__init__(blocks)
    self.seal = seal


jax.tree_util.register_pytree_node(
  SealedRound, lambda blocks: (tuple(blocks), None), lambda _, blocks: list(blocks)
)


@dataclasses.dataclass(frozen=True, eq=False)
class PrivateClients:
  """`stream(round) -> [Cohort, ...]` of samples that each client drew in secret.

  Make one with `private_clients`. It is also what answers for the training, see `Step.begin` and
  `Step.admit`: it tells every client's vault what is trained, and books every release.

  Attributes:
    names: of the clients, for the statement.
    plans: one a client.
    streams: of their samples, one chunk each.
    local_steps: local updates a round.
    chunk: clients a block.
    seed: of what is not secret, such as the draws of a rule that buckets.
  """

  names: tuple[str, ...]
  plans: tuple[DPPlan, ...]
  streams: tuple[PrivateStream, ...]
  local_steps: int
  chunk: int
  seed: int

  @property
  def num_clients(self) -> int:
    return len(self.plans)

  def __call__(self, round: int) -> SealedRound:
    """All clients, weighted by their public numbers of units."""
    first, num = int(round) * self.local_steps, self.num_clients
    steps = range(first, first + self.local_steps)
    drawn = [[stream(step)[0] for step in steps] for stream in self.streams]
    stacked = [jax.tree.map(lambda *x: np.stack(x), *own) for own in drawn]
    width = -(-num // self.chunk) * self.chunk
    place = np.arange(width)
    rows = np.minimum(place, num - 1)
    sample = jax.tree.map(lambda *x: np.stack(x)[rows], *stacked)
    sizes = np.array([plan.num_examples for plan in self.plans], np.float32)
    keys = np.zeros((width, self.local_steps, 2), np.uint32)
    whole = Cohort(
      client=np.minimum(place, num).astype(np.int32),
      slot=np.minimum(place, num).astype(np.int32),
      weight=np.where(place < num, sizes[rows], 0).astype(np.float32),
      batches={"sample": sample, "noise": keys},
    )
    starts = range(0, width, self.chunk)
    blocks = [jax.tree.map(lambda x, i=i: x[i : i + self.chunk].copy(), whole) for i in starts]
    return SealedRound(blocks, self._seal(int(round), blocks))

  def begin(self, beginning: Beginning) -> str | None:
    """Every vault goes on with its training, or begins one; see `DPPlan.begin`.

    What a client releases depends on all the others. So all of them, their data, their secrets and
    their weights are part of the program that its vault remembers: with another hospital beside it
    the same noise would fall on another sum.
    """
    per, program = self.local_steps, functools.cache(beginning.program)
    planned = self.plans[0].num_steps
    check.require(
      beginning.num_steps * per <= planned,
      f"at most {planned // per} rounds of {per} local updates, as the plans account for",
      f"{beginning.num_steps}",
      "plan with num_steps = rounds x local updates",
    )
    stamps = beginning.stamp.split("|") if beginning.stamp else [""] * self.num_clients
    found = [
      plan.begin(
        beginning._replace(
          program=lambda: {**program(), "federation": self.digest},
          done=beginning.done * per,
          num_steps=beginning.num_steps * per,
          stamp=stamp,
        )
      )
      for plan, stamp in zip(self.plans, stamps, strict=True)
    ]
    return None if all(one is None for one in found) else "|".join(one or "" for one in found)

  def admit(self, round: int, blocks: PyTree) -> None:
    """Fills the keys of the noise into the blocks of a round, which it books first.

    Raises:
      InputError: other blocks than the stream gave for this round, a round that is not planned, or
        no training under way.
    """
    check.require(
      isinstance(blocks, SealedRound) and blocks.seal == self._seal(int(round), blocks),
      f"the samples that the clients drew for round {round}, as they are",
      "other ones",
      "feed the Step with private_clients(...) itself and change examples inside the loss",
    )
    for client, (plan, stream) in enumerate(zip(self.plans, self.streams, strict=True)):
      keys = blocks[client // self.chunk].batches["noise"][client % self.chunk]
      for k in range(self.local_steps):
        step = int(round) * self.local_steps + k
        plan.admit(step, stream(step))
        keys[k] = jax.random.key_data(plan.noise_key(step))

  def key_of(self, round: int) -> Key:
    """The round's own key, of which no client's noise is made."""
    return jax.random.fold_in(jax.random.key(self.seed), round)

  def check_by_hand(self) -> None:
    """Raises InputError for an update outside of a training; see `DPPlan.check_by_hand`."""
    for plan in self.plans:
      plan.check_by_hand()

  @functools.cached_property
  def digest(self) -> str:
    """Digest of who takes part: vaults, data, plans and order."""
    whole = [
      (plan.secrets.identity, fingerprint(stream.store), plan.settings)
      for plan, stream in zip(self.plans, self.streams, strict=True)
    ]
    text = json.dumps([whole, self.local_steps, self.seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  def manifest(self) -> dict[str, Json]:
    """What a resumed run must share; holds no secret."""
    found: dict[str, Json] = {"local_steps": self.local_steps, "seed": self.seed}
    for number, plan in enumerate(self.plans):
      found |= {f"client_{number}_{key}": value for key, value in plan.manifest().items()}
    return found

  def statement(self) -> str:
    """Who is protected from whom, the statement of every client's plan, and what lies outside."""
    first = self.plans[0]
    is_example = first.unit == "example" and first.max_examples_per_subject is None
    unit = first.example_name if is_example else first.group_name
    lines = [
      f"Privacy inside each of {self.num_clients} clients, for one {unit} at one client, against"
      " everybody outside of that client: the server, the other clients, and whoever sees the"
      " model of any round. A client is trusted with its own data, secret and samples. Its noise"
      " is added before anything leaves it, so that nothing is asked of the server or of the"
      " others, who may work together.",
      "Counted are all local updates of a client, also of rounds in which its row was left out.",
      *(f"[{name}] {plan.statement()}" for name, plan in zip(self.names, self.plans, strict=True)),
      "Outside of all of these statements:",
      "- that a client takes part, how many it holds of what is drawn, which is its weight, and"
      f" what is true of its {unit}s as a group: this hides one {unit} and no client",
      f"- a {unit} that two clients hold under two names: the costs of both add up",
      "- whoever runs all clients on one machine, as a simulation does, has all their secrets",
    ]
    return "\n".join(lines)

  def _seal(self, round: int, blocks: list[Cohort]) -> str:
    bare = [block.replace(batches={"sample": block.batches["sample"]}) for block in blocks]
    told = content(bare)
    return "".join(plan.secrets.seal(round, told) for plan in self.plans)


def client_plans(
  sizes: Sequence[int],
  *,
  vaults: Sequence[Vault],
  target_epsilon: float | int | None = None,
  noise_multiplier: float | int | None = None,
  **options: Any,
) -> list[DPPlan]:
  """One plan a client, of one noise multiplier.

  >>> from medjax import privacy
  >>> small, large = client_plans(
  ...   (300, 1200), vaults=[privacy.Vault.in_memory() for _ in range(2)], noise_multiplier=1.0,
  ...   expected_batch_size=30, num_steps=40, delta=1e-4, max_norm=1.0, unit="example",
  ... )
  >>> small.multipliers == large.multipliers, small.num_examples, large.num_examples
  (True, 300, 1200)

  Args:
    sizes: units at each client, public.
    vaults: one a client, of its own.
    target_epsilon: the noise is that which the most exposed client needs; the others, whose samples
      hold a smaller share of their people, have a smaller epsilon.
    noise_multiplier: in place of a target.
    options: of every `DPPlan`; num_steps is rounds x local updates.
  """
  check.require(len(sizes) == len(vaults), f"{len(sizes)} vaults", f"{len(vaults)}", "one a client")
  if noise_multiplier is None:
    every = [DPPlan(num_examples=n, target_epsilon=target_epsilon, **options) for n in set(sizes)]
    noise_multiplier = max(plan.multipliers[-1] for plan in every)
  return [
    DPPlan(num_examples=n, noise_multiplier=noise_multiplier, vault=vault, **options)
    for n, vault in zip(sizes, vaults, strict=True)
  ]


def private_clients(
  store: Batch,
  parts: Sequence[np.ndarray],
  plans: Sequence[DPPlan],
  *,
  local_steps: int,
  chunk: int | None = None,
  names: Sequence[str] | None = None,
  seed: int = 0,
) -> PrivateClients:
  """What `federated` trains on when every client protects its own people.

  plans = client_plans(sizes, vaults=..., target_epsilon=4.0, num_steps=rounds * local_steps, ...)
  clients = private_clients(store, parts, plans, local_steps=2)
  client = local_private(lambda plan: methods.private(loss_fn, tx, plan), clients)
  step = federated(client, num_clients=n, cohort=n, aggregate=aggregate.median())
  train.fit(step, clients, params, key, num_steps=rounds)
  print(clients.statement())

  Args:
    store: all examples, from `data.stack`.
    parts: rows of each client.
    plans: one a client, each with a vault of its own; from `client_plans`, or of one noise, norm,
      expected sample and number of steps. A sample is one array, so a Poisson plan needs
      max_sample_size.
    local_steps: local updates a round. All clients take part in every round.
    chunk: clients a block; None: one block.
    names: of the clients; default "client 0" and so on.
    seed: of draws that are not secret.
  Raises:
    InputError: a person at two clients, two clients of one vault, plans that differ in what the
      compiled round shares, or samples without a largest size.
  """
  check.require(len(parts) > 0, "at least one client", "none", "pass the rows of each")
  check.require(len(plans) == len(parts), f"{len(parts)} plans", f"{len(plans)}", "one a client")
  check.positive("local_steps", local_steps)
  chunk = len(parts) if chunk is None else chunk
  check.in_interval("chunk", chunk, 1, len(parts), f"there are {len(parts)} clients")
  names = [f"client {c}" for c in range(len(parts))] if names is None else names
  check.require(len(names) == len(parts), f"{len(parts)} names", f"{len(names)}", "one a client")
  check_people(parts, np.asarray(store.subject))
  check.require(
    len({plan.secrets.identity for plan in plans}) == len(plans),
    "a vault for every client",
    "one that two clients share",
    "two clients of one secret add the same noise, and the difference of what they send has none",
  )
  first = plans[0]
  for name in _SHARED:
    values = [getattr(plan, name) for plan in plans]
    check.require(
      all(value == values[0] for value in values),
      f"plans of one {name}",
      f"{values}",
      "one compiled round serves all clients: take federated.client_plans",
    )
  check.require(
    all(plan.mechanism is None for plan in plans),
    "independent noise",
    "a plan with mechanism=...",
    "its windows of steps were proved for one training, not for rounds of local ones",
  )
  check.require(
    first.sampling == "fixed" or first.max_sample_size is not None,
    "plans with max_sample_size",
    "none",
    "samples of a round are one array: take a few sqrt(expected_batch_size) above it",
  )
  size = first.max_sample_size or first.expected_batch_size
  streams = [
    plan.stream(take(store, np.asarray(part)), chunk=size)
    for plan, part in zip(plans, parts, strict=True)
  ]
  members = max(stream.units.members for stream in streams)  # of the largest group of any client
  streams = [dataclasses.replace(s, units=Units(s.units.rows, members)) for s in streams]
  return PrivateClients(tuple(names), tuple(plans), tuple(streams), local_steps, chunk, seed)


def local_private(
  make: Callable[[DPPlan], Step],
  clients: PrivateClients,
  *,
  keep: Sequence[str] = (),
  metrics: Sequence[str] = ("release_norm",),
  max_unrolled: int = 16,
) -> Client:
  """A client whose every local update is private, for `federated`.

  Args:
    make: `make(plan) -> Step`, such as `lambda plan: methods.private(loss_fn, tx, plan)`.
    clients: what it will train on.
    keep: "opt_state" and "extra" (the norm of adaptive clipping) may go on from round to round;
      both are functions of releases.
    metrics: of the Step, that may be shown.
    max_unrolled: see `local`.
  Guarantees: the noise of local update k of round t is that of step t * local_steps + k of the
    client's vault. A sample of nobody is released as any other: it must not be skipped, for a
    missing release would betray it.
  """
  step = make(clients.plans[0])
  check.require(
    step.chunked is not None and step.key_of is not None,
    "a Step of methods.private",
    "one without a plan",
    "pass make=lambda plan: methods.private(loss_fn, tx, plan)",
  )
  assert step.chunked is not None
  whole = sweeps.on_one_chunk(step.chunked)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    del key  # of the round, which everybody may know
    return whole(
      state, batch["sample"], jax.random.wrap_key_data(batch["noise"], impl="threefry2x32")
    )

  # The batch has no entry "weight" of its own, so that `local` skips none.
  inner = local(Step(step.init, update, {}), keep=keep, metrics=metrics, max_unrolled=max_unrolled)
  manifest = {**inner.manifest, **clients.manifest()}
  return inner._replace(manifest=manifest, guard=clients)
