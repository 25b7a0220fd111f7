"""Many independent trainings at once: seeds, pairs of sites, sizes and arms as one program."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from medjax import check, rng
from medjax.train.loop import Fit, fit
from medjax.train.mesh import AXIS, data_mesh
from medjax.types import Evaluator, Key, Metrics, Params, PyTree, Step, Stream, TrainState

Mode = Literal["sequential", "map", "vmap", "sharded"]


def fit_many(
  step: Step,
  streams: Sequence[Stream],
  params: Sequence[Params],
  keys: Sequence[Key],
  *,
  num_steps: int,
  mode: Mode = "sequential",
  names: Sequence[str] | None = None,
  evaluators: Sequence[Mapping[str, Evaluator]] | None = None,
  workdir: str | os.PathLike | None = None,
  mesh: Mesh | None = None,
  **options: Any,
) -> list[Fit]:
  """`fit` for each of several runs that differ in their data, first weights and keys.

  Args:
    step: the method of all runs; what differs between them is data.
    streams: a Stream a run; batches of one shape. Streams over one device-resident pool (see
      `data.pooled`) share it.
    params: initial parameters of each run, trees of one structure.
    keys: key of each run.
    num_steps: steps of every run.
    mode: "sequential" one run after the other, each its own `fit`; "map" a step of every run in
      turn, in one program; "vmap" all runs at once; "sharded" the runs spread over the devices of
      `mesh`, in turn on each. Which is fastest depends on model and device: measure. On a CPU vmap
      over networks is 3 to 4 times slower than turns.
    names: names of the runs, for files and rows; default "run-0", "run-1", ...
    evaluators: those of each run.
    workdir: as for `fit`; sequential runs checkpoint on their own, the others together.
    mesh: for "sharded", default all devices, whose number must divide that of the runs. A
      sequential run uses it as `fit` does.
    options: as for `fit`.
  Returns:
    A Fit for each run.
  Guarantees: run r is `fit(step, streams[r], params[r], keys[r])`: bit for bit in "sequential" and,
    on a CPU, "map"; to rounding otherwise.
  """
  check.require(
    mode == "sequential" or step.chunked is None and step.key_of is None,
    "mode='sequential' for a Step in chunks or with keys of its own",
    f"{mode=}",
    "such runs cannot share a program",
  )
  check.one_of("mode", mode, ("sequential", "map", "vmap", "sharded"))
  num_runs = len(streams)
  names = [f"run-{r}" for r in range(num_runs)] if names is None else list(names)
  evaluators = [{}] * num_runs if evaluators is None else evaluators
  counts = {"params": len(params), "keys": len(keys), "names": len(set(names))}
  counts["evaluators"] = len(evaluators)
  for label, count in counts.items():
    check.require(
      count == num_runs > 0, f"{label} for each of {num_runs} runs", f"{count}", "give one a run"
    )
  if mode == "sequential":
    return [
      fit(
        step,
        streams[r],
        params[r],
        keys[r],
        num_steps=num_steps,
        evaluators=evaluators[r],
        workdir=workdir,
        name=names[r],
        mesh=mesh,
        **options,
      )
      for r in range(num_runs)
    ]
  check.require(
    mesh is None or mode == "sharded", "a mesh for mode='sharded'", f"{mode=}", "leave it out"
  )
  if mode == "sharded":
    mesh = data_mesh() if mesh is None else mesh
    num_devices = mesh.shape[AXIS]
    check.require(
      num_runs % num_devices == 0,
      f"a number of runs that {num_devices} devices divide",
      f"{num_runs}",
      "add runs or pass a mesh of fewer devices",
    )
  layout = _Listed() if mode == "map" else _Stacked()
  together = fit(
    _over_runs(step, keys, names, layout, mesh),
    _together(streams, keys, layout),
    layout.pack(list(params)),
    keys[0],
    num_steps=num_steps,
    evaluators={
      name: _of_run(layout, r, own)
      for r, (name, own) in enumerate(zip(names, evaluators, strict=True))
    },
    workdir=workdir,
    name="+".join(names) if num_runs < 4 else f"{names[0]}+{num_runs - 1}",
    mesh=mesh,
    state_spec=PartitionSpec(AXIS) if mode == "sharded" else None,
    **options,
  )
  return [_apart(together, layout, r, name) for r, name in enumerate(names)]


class _Stacked:
  """Trees of the runs as one tree with a leading axis."""

  def pack(self, trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(_stack, *trees)

  pack_states = pack

  def entry(self, tree: PyTree, run: int) -> PyTree:
    return jax.tree.map(lambda x: x[run], tree)

  entry_of_state = entry

  def update(self, update: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    if mesh is None:
      return jax.vmap(update)
    spec = PartitionSpec(AXIS)
    is_cpu = mesh.devices.flat[0].platform == "cpu"

    def local(*args: PyTree) -> PyTree:
      if not is_cpu:
        return jax.lax.map(lambda one: update(*one), args)
      num_runs = jax.tree.leaves(args)[0].shape[0]
      return self.pack([update(*self.entry(args, r)) for r in range(num_runs)])

    return jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)


class _Listed:
  """Trees of the runs side by side.

  Not stacked: an entry of a stacked array may start at any address, and XLA's sums on a CPU depend
  on it in the last bit.
  """

  def pack(self, trees: Sequence[PyTree]) -> tuple[PyTree, ...]:
    return tuple(trees)

  def pack_states(self, states: Sequence[TrainState]) -> TrainState:
    fields = [field.name for field in dataclasses.fields(TrainState)]
    return TrainState(**{name: tuple(getattr(s, name) for s in states) for name in fields})

  def entry(self, trees: tuple[PyTree, ...], run: int) -> PyTree:
    return trees[run]

  def entry_of_state(self, state: TrainState, run: int) -> TrainState:
    fields = [field.name for field in dataclasses.fields(TrainState)]
    return TrainState(**{name: getattr(state, name)[run] for name in fields})

  def update(self, update: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    del mesh

    def in_turn(state: TrainState, examples: tuple, keys: tuple) -> tuple[TrainState, dict]:
      states = [self.entry_of_state(state, r) for r in range(len(keys))]
      out = [update(*one) for one in zip(states, examples, keys, strict=True)]
      metrics = {k: [m[k] for _, m in out] for k in out[0][1]}
      return self.pack_states([s for s, _ in out]), metrics

    return in_turn


def _over_runs(
  step: Step,
  keys: Sequence[Key],
  names: Sequence[str],
  layout: _Stacked | _Listed,
  mesh: Mesh | None,
) -> Step:
  """A Step of all runs: states in a layout, batches {"examples", "keys"} too."""
  init_keys = [rng.stream(key, "init") for key in keys]
  updated = layout.update(step.update, mesh)

  def init(params: Params, key: Key) -> TrainState:
    del key
    states = [step.init(layout.entry(params, r), key) for r, key in enumerate(init_keys)]
    return layout.pack_states(states)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    del key
    state, metrics = updated(state, batch["examples"], batch["keys"])
    flat = {f"{name}/{k}": v[r] for k, v in metrics.items() for r, name in enumerate(names)}
    return state, flat

  return Step(
    init,
    update,
    manifest={**step.manifest, "runs": "+".join(names), "run_keys": _words(keys)},
    hints={f"{name}/{k}": v for k, v in step.hints.items() for name in names},
  )


def _together(streams: Sequence[Stream], keys: Sequence[Key], layout: _Stacked | _Listed) -> Stream:
  """Batches of all runs, with the key that `fit` would give each."""
  update_keys = [rng.stream(key, "update") for key in keys]

  def stream(step: int) -> PyTree:
    examples = layout.pack([stream(step) for stream in streams])
    return {
      "examples": examples,
      "keys": layout.pack([jax.random.fold_in(key, step) for key in update_keys]),
    }

  return stream


def _of_run(layout: _Stacked | _Listed, run: int, evaluators: Mapping[str, Evaluator]) -> Evaluator:
  def evaluate(state: TrainState) -> dict[str, float]:
    own = layout.entry_of_state(state, run)
    return {
      f"{name}/{metric}": value
      for name, evaluator in evaluators.items()
      for metric, value in evaluator(own).items()
    }

  return evaluate


def _apart(together: Fit, layout: _Stacked | _Listed, run: int, name: str) -> Fit:
  """What `fit` of this run alone would have returned."""
  rows = []
  for row in together.history:
    own = {k.removeprefix(f"{name}/"): v for k, v in row.items() if k.startswith(f"{name}/")}
    rows.append({"run": name, "step": row["step"], **own})
  return together._replace(state=layout.entry_of_state(together.state, run), history=rows)


def _stack(*leaves: Any) -> Any:
  return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)


def _words(keys: Sequence[Key]) -> str:
  return str([np.asarray(jax.random.key_data(key)).ravel().tolist() for key in keys])
