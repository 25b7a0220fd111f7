"""The training loop: a Step and a Stream in, the trained state out, the same after any restart."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from medjax import check, programs, rng
from medjax.check import InputError
from medjax.devices import device_of, working_on
from medjax.train import engine as engines
from medjax.train import mesh as meshes
from medjax.train.engine import Best
from medjax.train.feed import Feed, Schedule
from medjax.train.logging import Writer
from medjax.train.progress import Progress
from medjax.train.record import RunRecord
from medjax.train.signals import Interrupt
from medjax.train.timing import Stopwatch, Timing
from medjax.tree import size
from medjax.types import Beginning, Evaluator, Json, Key, Params, PyTree, Step, Stream, TrainState


class Fit(NamedTuple):
  """What `fit` returns.

  Attributes:
    state: the state after the last step.
    history: rows as in metrics.jsonl, {"run", "step", metric..., "evaluator/metric"...}, with those
      written before a restart.
    timing: wall-clock times of this process; in no file.
    best: the evaluation that scored highest, None unless `keep_best` asked for it and some
      evaluation gave a number.
  """

  state: TrainState
  history: list[dict[str, Json]]
  timing: Timing
  best: Best | None = None


def fit(
  step: Step,
  stream: Stream,
  params: Params,
  key: Key,
  *,
  num_steps: int,
  evaluators: Mapping[str, Evaluator] | None = None,
  workdir: str | os.PathLike | None = None,
  name: str = "main",
  log_every: int = 50,
  eval_every: int | None = None,
  checkpoint_every: int | None = None,
  mesh: Mesh | None = None,
  batch_spec: PyTree = None,
  state_spec: PartitionSpec | None = None,
  block: int | None = None,
  keep_best: str | None = None,
  writers: Sequence[Writer] = (),
  progress: bool = True,
  allow_change: bool = False,
) -> Fit:
  """Trains for `num_steps` steps, or goes on where the same call was interrupted.

  Step t (from 0) sees `stream(t)` and the key `fold_in(rng.stream(key, "update"), t)`; the state
  starts from `rng.stream(key, "init")`. A row holds the mean of every metric over the steps since
  the row before.

  Args:
    step: the training method; its manifest and a digest of its update are saved with the
      checkpoints and must not change.
    stream: `stream(t) -> batch`, a pytree of host or device arrays of one shape for all t.
    params: initial parameters; copied, the caller's arrays stay valid.
    key: a typed key, the only source of randomness.
    num_steps: steps in all, those before a restart included.
    evaluators: name -> Evaluator. They must not keep the state, whose buffers the next step reuses.
    workdir: directory for metrics.jsonl and checkpoints/<name>/; None writes no file.
    name: name of the run; several runs may share a workdir, one after the other.
    log_every: steps between two rows.
    eval_every: steps between two evaluations; None: only at the end. The end is always evaluated.
    checkpoint_every: steps between two checkpoints; None: only at the end and on a signal.
    mesh: from `data_mesh`; None trains on the device of `params`. Its devices may belong to several
      processes that all make this call: then every process gives the whole batch, or its share of
      it (see `shard_batch`); one writes metrics.jsonl, `workdir` is a folder that all of them see,
      and a signal to any of them ends the training of all at the next row or checkpoint.
    batch_spec: see `shard_batch`; for batches whose first axis is not the examples'.
    state_spec: how every array of the state lies on the mesh; default: whole on every device.
    block: steps compiled into one scan. Default 1 on CPU, where XLA runs convolutions in loops
      several times slower; on accelerators log_every, less if the batches would take over 1 GiB.
    keep_best: "evaluator/metric", higher is better: Fit.best is the state that scored highest, the
      earliest on a tie. Choose on validation data of the source, never on test data.
    writers: see each row beside metrics.jsonl, see `train.Writer`. They are not cut back on resume.
    progress: False prints nothing while training.
    allow_change: go on with an update that is not the one of the checkpoint, such as a lower
      learning rate. The result is then no function of the settings alone.
  Returns:
    Fit(state, history, timing, best).
  Raises:
    NonFiniteError: a metric or a parameter is not finite; found at the next row, evaluation or
      checkpoint, named with its step. No checkpoint holds such a state.
    InputError: the checkpoint belongs to another configuration, or has more steps than num_steps,
      or no evaluator gives `keep_best`; a private Step has lost the secret keys of its noise.
    SystemExit: SIGTERM (143) or SIGINT (130) came; the step (or block) was finished and saved.
  Guarantees: on CPU an interrupted and resumed run gives the rows and the state of an uninterrupted
    one bit for bit (same devices, same block), whatever ended it, `kill -9` included.
  """
  schedule = Schedule(num_steps, log_every, eval_every, checkpoint_every)
  _check_counts(schedule, block)
  check.require(
    step.admit is None or step.key_of is not None,
    "a Step that answers for its samples and draws the keys of their noise itself",
    "one without key_of, whose noise would come from the key of fit, which everybody may know",
    "pass the Step as methods.private made it",
  )
  evaluators = {} if evaluators is None else evaluators
  if keep_best is not None:
    check.one_of("evaluator of keep_best", keep_best.partition("/")[0], sorted(evaluators))
  init_key, update_key = rng.streams(key, "init", "update")
  watch = Stopwatch()
  manifest = _manifest(step, key) | ({} if keep_best is None else {"keep_best": keep_best})
  device = device_of(params) if mesh is None else mesh.devices.flat[0]
  with (
    RunRecord(workdir, name, manifest, writers) as record,
    Interrupt() as interrupt,
    working_on(device),
  ):
    done = record.step or 0
    _check_not_past(done, num_steps, record)
    feed = Feed(stream, mesh, batch_spec, in_chunks=step.chunked is not None, admit=step.admit)
    example = feed.example(max(0, min(done, num_steps - 1)))
    block = _block(block, step, feed, example, log_every)
    if mesh is not None:
      params, init_key, update_key = meshes.replicate((params, init_key, update_key), mesh)
    keeps_best = keep_best is not None
    engine = engines.build(
      step,
      params,
      init_key,
      example,
      log_every=log_every,
      mesh=mesh,
      state_spec=state_spec,
      keeps_best=keeps_best,
    )
    record.note_update(engine.digest)
    stamp = None
    if step.begin is not None:
      stamp = step.begin(
        Beginning(
          lambda: programs.parts(step, params, example, init_key),
          size(params),
          done,
          record.stamp,
          num_steps,
          evaluators,
          keep_best,
        )
      )
      record.stamp = stamp or ""
    if record.step is None:
      carry = engine.init(params, init_key)
    else:
      carry = record.restore(engine.template, allow_change=allow_change or stamp is not None)
    told: frozenset[str] = frozenset()
    progress = progress and jax.process_index() == 0
    with Progress(name, done, num_steps, enabled=progress) as bar:
      while True:
        window = jax.device_get(carry.window)  # the one wait for the device
        engines.check_finite(name, window, step)
        if interrupt.agreed():
          break
        row = {}
        if not record.has_row(done):
          if schedule.is_due(log_every, done) and window.count > 0:
            row |= window.means()
            bar.loss(row.get("loss", float("nan")))
            if progress:
              told = _tell_hints(name, step, row, told)
          if schedule.is_due(eval_every, done):
            with watch.evaluating():
              row |= (scores := _evaluate(evaluators, carry.state))
            if keep_best is not None:
              if keep_best not in scores:
                record.save(done, carry, wait=True)  # the training is not lost for a name
              carry = engine.keep_best(carry, _score(scores, keep_best))
        if row:
          record.add(done, row)
        if schedule.is_due(checkpoint_every, done):
          engines.check_finite_state(name, done, carry.state)
          record.save(done, carry)
        if done == num_steps:
          break
        pause, lap_start = schedule.next_pause(done), done
        watch.start()
        while done < pause and not interrupt.stops_here:
          is_block = pause - done >= block > 1
          with watch.feeding(carry.step.is_ready):
            batch = feed.block(done, block) if is_block else feed.one(done)
          advance = engine.advance_block if is_block else engine.advance
          carry = advance(carry, batch, update_key if step.key_of is None else step.key_of(done))
          done += block if is_block else 1
          bar.update(done)
          if watch.is_first_due:
            jax.block_until_ready(carry.step)
            watch.first()
            watch.start()
            lap_start = done
        jax.block_until_ready(carry.step)
        watch.lap(done - lap_start)
    if interrupt.signal is not None:
      engines.check_finite_state(name, done, carry.state)
      record.save(done, carry, wait=True)
      _say_how_to_resume(interrupt, record, name, done, num_steps)
      raise SystemExit(interrupt.exit_status)
  best = carry.best if keeps_best and int(carry.best.step) >= 0 else None
  return Fit(carry.state, record.rows, watch.timing(), best)


def _manifest(step: Step, key: Key) -> dict[str, Json]:
  """The Step's manifest and the key, without which a resumed run would be another run."""
  words = np.asarray(jax.random.key_data(key)).ravel().tolist()
  return {**step.manifest, "key": f"{jax.random.key_impl(key)}:{words}"}


def _evaluate(evaluators: Mapping[str, Evaluator], state: TrainState) -> dict[str, float]:
  return {
    f"{name}/{metric}": float(value)
    for name, evaluator in evaluators.items()
    for metric, value in evaluator(state).items()
  }


def _tell_hints(
  name: str, step: Step, row: Mapping[str, float], told: frozenset[str]
) -> frozenset[str]:
  """Says once what to do about a metric that ought to be 0 and was 1 or more in a whole window."""
  new = {metric for metric in step.hints if row.get(metric, 0.0) >= 1} - told
  for metric in sorted(new):
    print(f"{name}: {metric} is {row[metric]:.3g}: {step.hints[metric]}", flush=True)
  return told | new


def _score(scores: Mapping[str, float], name: str) -> float:
  check.one_of("keep_best", name, sorted(scores))
  return scores[name]


def _say_how_to_resume(
  interrupt: Interrupt, record: RunRecord, name: str, done: int, num_steps: int
) -> None:
  assert interrupt.signal is not None
  where = f"run {name!r} stopped by {interrupt.signal.name} after step {done} of {num_steps}"
  if record.path is None:
    print(f"{where}; nothing saved: pass a workdir to be able to resume", flush=True)
  else:
    print(f"{where}; saved in {record.path}: repeat the same command to resume", flush=True)


def _check_counts(schedule: Schedule, block: int | None) -> None:
  check.non_negative("num_steps", schedule.num_steps)
  for label, value in {**dataclasses.asdict(schedule), "block": block}.items():
    if value is not None and label != "num_steps":
      check.positive(label, value)


def _block(asked: int | None, step: Step, feed: Feed, example: PyTree, log_every: int) -> int:
  if step.chunked is None and step.key_of is None:
    return asked or feed.default_block(example, log_every)
  check.require(
    asked in (None, 1),
    "block=1 for a Step in chunks or with keys of its own",
    f"block={asked}",
    "leave block out",
  )
  return 1


def _check_not_past(done: int, num_steps: int, record: RunRecord) -> None:
  if done > num_steps:
    raise InputError(
      f"num_steps >= {done}, the steps that the run in {record.path} has done",
      f"num_steps={num_steps}",
      "raise it or start in a new directory",
    )
