"""What every client sent in every round, recomputed from a state now and then.

A cohort is a function of (seed, round) and a client's key one of (key, round, id). So the states of
every k-th round hold the whole history: any update of any client is trained anew from the state
before it, to the bit where the same machine does it. That takes rounds / k states instead of rounds
x clients updates.
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from medjax import check, rng, sweeps
from medjax.federated.state import Received, in_order
from medjax.types import Key, Params, PyTree, Step, Stream, TrainState


@dataclasses.dataclass(eq=False)
class History:
  """States of a federated training; pass it to `train.fit` as an evaluator with eval_every.

    history = History(step, stream, params, key)
    train.fit(step, stream, params, key, evaluators={"history": history}, eval_every=10, ...)
    history.received(37).rows     # what the clients of round 37 sent, trained anew from round 30

  Attributes:
    step: from `federated`.
    stream, params, key: those of `train.fit`.
    folder: where states are kept, as round-NNNNNNNN.npz; None: in memory, without what a run that
      was interrupted had kept. Round 0 is always known.
  """

  step: Step
  stream: Stream
  params: Params
  key: Key
  folder: pathlib.Path | None = None
  _states: dict[int, list[np.ndarray]] = dataclasses.field(default_factory=dict, repr=False)

  def __post_init__(self):
    chunked = self.step.chunked
    if chunked is None:
      raise check.InputError("a Step in chunks, from federated", "one without", "pass that one")
    check.require(
      self.step.admit is None,
      "clients whose updates may be computed again",
      "a Step whose clients add secret noise",
      "their noise is drawn for one training and for no other use: store what they sent",
    )
    init_key, self._update_key = rng.streams(self.key, "init", "update")
    self._start = jax.jit(self.step.init)(self.params, init_key)
    self._begin = jax.jit(chunked.begin)
    self._accumulate, self._finish = (jax.jit(f) for f in chunked.sweeps[0])

  def __call__(self, state: TrainState) -> dict[str, float]:
    """Keeps a copy of a state; measures nothing."""
    leaves = [np.array(x) for x in jax.device_get(jax.tree.leaves(state))]
    done = int(state.step)
    if self.folder is None:
      self._states[done] = leaves
    else:
      self.folder.mkdir(parents=True, exist_ok=True)
      partial = self.folder / f".round-{done:08d}.npz"
      np.savez(partial, *leaves)
      partial.replace(self.folder / f"round-{done:08d}.npz")
    return {}

  def rounds(self) -> list[int]:
    """Rounds before which a state is known, ascending."""
    held = set(self._states) | {0}
    if self.folder is not None and self.folder.is_dir():
      held |= {int(path.stem.split("-")[1]) for path in self.folder.glob("round-*.npz")}
    return sorted(held)

  def state(self, done: int) -> TrainState:
    """The state after `done` rounds, from the last one kept before.

    Raises:
      InputError: a negative number.
    """
    check.non_negative("done", done)
    first = max(t for t in self.rounds() if t <= done)
    state = self._start if first == 0 else self._kept(first)
    for t in range(first, done):
      key = jax.random.fold_in(self._update_key, t)
      received = self._receive(state, t)
      state = self._finish(state, received, sweeps.finish_key(key, 0))[0]
    return state

  def received(self, done: int) -> Received:
    """What the server received in round `done` (from 0), clients in the order of their ids."""
    return self.received_from(self.state(done), done)

  def received_from(self, state: TrainState, done: int) -> Received:
    """What the clients of round `done` would have sent from another state, such as a corrected one.

    Their data, batches and keys are those of that round.
    """
    return in_order(self._receive(state, done), int(np.iinfo(np.int32).max))

  def walk(self, num_rounds: int) -> Iterator[tuple[TrainState, Received]]:
    """The state before each round from 0 on, and what was received; each round is computed once."""
    state = self._start
    for t in range(num_rounds):
      received = self._receive(state, t)
      yield state, in_order(received, int(np.iinfo(np.int32).max))
      key = jax.random.fold_in(self._update_key, t)
      state = self._finish(state, received, sweeps.finish_key(key, 0))[0]

  def _receive(self, state: TrainState, t: int) -> Any:
    key = jax.random.fold_in(self._update_key, t)
    blocks: Any = self.stream(t)
    received: PyTree = self._begin(state)
    for block in blocks if isinstance(blocks, list) else [blocks]:
      received, _ = self._accumulate(state, received, block, (), sweeps.sample_key(key))
    return received

  def _kept(self, done: int) -> TrainState:
    if done in self._states:
      leaves: list[Any] = self._states[done]
    else:
      assert self.folder is not None
      with np.load(self.folder / f"round-{done:08d}.npz") as file:
        leaves = [file[f"arr_{i}"] for i in range(len(file.files))]
    return jax.tree.unflatten(jax.tree.structure(self._start), leaves)
