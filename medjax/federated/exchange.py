"""A federation whose clients and server are separate processes: what each computes in a round.

The server holds the state of the Step; a site holds what its client keeps. In a round the server
sends parameters and running statistics, each site runs the same compiled function that a block of
one client runs in one process, and the server joins what came with the Step's own `finish`. So the
result is that of `train.fit` on blocks of one client, bit for bit on equal machines. How arrays
travel is the business of `federated.remote`.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax import check, files, rng, sweeps
from medjax.federated.cohort import Cohort
from medjax.federated.state import Received
from medjax.types import Chunked, Key, Params, PyTree, Step, TrainState

_BY_SLOT = ("pieces", "statistics", "weight", "client", "metrics")


class RoundPlan(NamedTuple):
  """What the server and every site make by themselves, and must make alike.

  Attributes:
    step: from `federated`.
    params: first parameters.
    key: of the training, as for `train.fit`.
    block: `block(round, client) -> Cohort` of that client alone, with its place in the round; only
      its own site asks for it, so only there its cases must lie.
  """

  step: Step
  params: Params
  key: Key
  block: Callable[[int, int], Cohort]


class _Process:
  """What the server and a site have in common: the compiled pieces of a round and a state."""

  def __init__(self, plan: RoundPlan, folder: pathlib.Path):
    step, self.plan, self.folder = plan.step, plan, folder
    chunked = check.given(step.chunked, "a Step in chunks, from federated", "pass that one")
    check.require(
      step.admit is None and "shares" not in step.manifest,
      "clients that send updates and statistics alone",
      "ones with a ledger of privacy, or with states that the server reads (SCAFFOLD)",
      "train those in one process",
    )
    assert isinstance(chunked, Chunked)
    init_key, self.update_key = rng.streams(plan.key, "init", "update")
    self.state: TrainState = jax.jit(step.init)(plan.params, init_key)
    self.begin, (sweep,) = jax.jit(chunked.begin), chunked.sweeps
    self.accumulate, self.finish = jax.jit(sweep.accumulate), jax.jit(sweep.finish)
    folder.mkdir(parents=True, exist_ok=True)


class RemoteSite(_Process):
  """One client in a process of its own; what it keeps lies in `folder` and is never sent.

  Args:
    plan: of the federation.
    client: its id, from 0.
    folder: of this site.
  """

  def __init__(self, plan: RoundPlan, client: int, folder: pathlib.Path):
    super().__init__(plan, folder)
    self.client = client
    clients = self.state.extra.clients
    check.require(
      "num_clients" in plan.step.manifest
      and 0 <= client < int(str(plan.step.manifest["num_clients"])),
      f"a client id in [0, {plan.step.manifest.get('num_clients')})",
      f"{client}",
      "start as many sites as the federation has clients",
    )
    self._first = jax.tree.map(lambda x: np.array(x[client]), clients)

  def train(self, number: int, sent: Sequence[np.ndarray], accepted: int) -> list[np.ndarray]:
    """One round of this client.

    Args:
      number: of the round, from 0.
      sent: from `Server.sent`.
      accepted: the last round in which the server took what this site sent, -1 for none. The
        client goes on from what it kept then, whatever it has computed since.
    Returns:
      Arrays for `Server.join`.
    """
    broadcast = (self.state.params, self.state.model_state)
    params, model_state = jax.tree.unflatten(jax.tree.structure(broadcast), sent)
    kept = self._kept(accepted)
    clients = self.state.extra.clients
    mine = jax.tree.map(lambda table, row: table.at[self.client].set(row), clients, kept)
    state = self.state.replace(
      step=jax.numpy.int32(number),
      params=params,
      model_state=model_state,
      extra=self.state.extra._replace(clients=mine),
    )
    block = self.plan.block(number, self.client)
    key = sweeps.sample_key(jax.random.fold_in(self.update_key, number))
    received, _ = self.accumulate(state, self.begin(state), block, (), key)
    received = jax.device_get(received)
    self._keep(number, accepted, jax.tree.map(lambda x: x[self.client], received.clients))
    slot = int(np.asarray(block.slot)[0])
    own = [getattr(received, name) for name in _BY_SLOT]
    rows = [np.array(x[slot]) for x in jax.tree.leaves(own)]
    return [*rows, *map(np.array, (slot, received.asked, received.broken))]

  def _kept(self, accepted: int) -> PyTree:
    if accepted < 0:
      return self._first
    path = self.folder / f"kept-{accepted:08d}.npz"
    check.existing_file(path, f"this site has lost what it kept of round {accepted}: start anew")
    leaves, structure = jax.tree.flatten(self._first)
    with np.load(path) as file:
      return jax.tree.unflatten(structure, [file[f"arr_{i}"] for i in range(len(leaves))])

  def _keep(self, number: int, accepted: int, kept: PyTree) -> None:
    _save(self.folder / f"kept-{number:08d}.npz", jax.tree.leaves(kept))
    for path in self.folder.glob("kept-*.npz"):
      if int(path.stem.split("-")[1]) not in (number, accepted):
        path.unlink()


class Server(_Process):
  """The server in a process of its own; its state is in `folder` after every round.

  Args:
    plan: of the federation.
    folder: of the server; a state that lies there is gone on from.
  Attributes:
    done: rounds that are done.
    accepted: client -> last round in which it was joined, -1 for none.
    history: metrics of every round.
  """

  def __init__(self, plan: RoundPlan, folder: pathlib.Path):
    super().__init__(plan, folder)
    self.accepted = np.full(_num_clients(plan), -1)
    self.history: list[dict[str, float]] = []
    path, leaves = folder / "state.npz", jax.tree.leaves(self.state)
    if path.is_file():
      with np.load(path) as file:
        *found, self.accepted = [file[f"arr_{i}"] for i in range(len(file.files))]
      check.require(
        [np.shape(x) for x in found] == [np.shape(x) for x in leaves],
        f"the state of this federation in {path}",
        "one of another",
        "choose another folder",
      )
      self.state = jax.tree.unflatten(jax.tree.structure(self.state), found)
      self.history = files.read_json(folder / "history.json")[: self.done]

  @property
  def done(self) -> int:
    return int(self.state.step)

  def sent(self) -> list[np.ndarray]:
    """Parameters and running statistics for the next round."""
    leaves = jax.tree.leaves((self.state.params, self.state.model_state))
    return [np.array(x) for x in jax.device_get(leaves)]

  def join(self, replies: Mapping[int, Sequence[np.ndarray]], **more: float) -> dict[str, float]:
    """Ends a round with what came from some clients; the others count as absent.

    Args:
      replies: client -> what its `RemoteSite.train` returned.
      more: further numbers for the round's row of the history, such as seconds.
    Raises:
      InputError: a metric is not finite, as when fewer clients answered than a rule needs; the
        state on the disk is that before the round.
    """
    number = self.done
    received = jax.device_get(self.begin(self.state))
    own = [jax.tree.map(np.array, getattr(received, name)) for name in _BY_SLOT]
    tables, structure = jax.tree.flatten(own)
    asked = broken = np.float32(0)
    accepted = self.accepted.copy()
    for client, (*rows, slot, one_asked, one_broken) in replies.items():
      check.require(
        [np.shape(x) for x in rows] == [x.shape[1:] for x in tables],
        f"an update like the parameters from client {client}",
        f"shapes {[np.shape(x) for x in rows]}",
        "install the same program at every site",
      )
      for table, row in zip(tables, rows, strict=True):
        table[int(slot)] = row
      asked, broken = asked + one_asked, broken + one_broken
      accepted[client] = number
    named = dict(zip(_BY_SLOT, jax.tree.unflatten(structure, tables), strict=True))
    whole: Received = received._replace(asked=asked, broken=broken, **named)
    key = sweeps.finish_key(jax.random.fold_in(self.update_key, number), 0)
    state, _, found = self.finish(self.state, whole, key)
    metrics: dict[str, float] = {name: float(value) for name, value in found.items()}
    for name, value in metrics.items():
      note = self.plan.step.hints["too_few"] if metrics["too_few"] else "see the logs of the sites"
      check.require(np.isfinite(value), f"a finite {name} in round {number}", f"{value}", note)
    self.state, self.accepted, self.history = state, accepted, [*self.history, {**metrics, **more}]
    files.write_json(self.folder / "history.json", self.history)
    _save(self.folder / "state.npz", [*jax.device_get(jax.tree.leaves(state)), accepted])
    return metrics


def _num_clients(plan: RoundPlan) -> int:
  return int(str(plan.step.manifest["num_clients"]))


def _save(path: pathlib.Path, leaves: Sequence[Any]) -> None:
  with files.replacing(path, suffix=".npz") as temporary:
    np.savez(temporary, *map(np.asarray, leaves))
