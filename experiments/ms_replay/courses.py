"""Arms of the replay study: what a network learns from, centre after centre."""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.ms_replay import hospitals, private
from experiments.ms_replay.bench import Bench, Split
from experiments.ms_replay.config import Arm
from experiments.ms_replay.jobs import Stage, Task, part_of, people_of, task, train_tasks
from experiments.ms_replay.past import Past, remember, remembered_by, stored_outputs
from medjax import data, privacy, programs, study
from medjax.data.seeds import generator
from medjax.data.streams import memory as memories
from medjax.data.streams.replay import replayed
from medjax.methods.agem import agem
from medjax.methods.distillation import with_teacher
from medjax.methods.ewc import ewc
from medjax.types import Stream

SINGLE, MULTI = "single-domain", "multi-domain"


class Course(NamedTuple):
  """One arm under one seed and one order: its stages, centre by centre."""

  arm: str
  seed: int
  order: tuple[int, ...]
  stages: tuple[Stage, ...]


def train_courses(
  bench: Bench, arm: Arm, runs: Sequence[tuple[int, tuple[int, ...]]], singles: dict[Any, Stage]
) -> list[Course]:
  """One arm through all centres, for every (seed, order); resumable at any of them.

  Args:
    bench, arm: what to train.
    runs: seed and order of each course.
    singles: trainings at one centre alone by (seed, centre), which are the first stages of all
      arms; those that are missing are trained and added.
  """
  setting, config = bench.setting, bench.config
  splits = {seed: hospitals.split(setting, seed) for seed, _ in runs}
  is_private = arm == "replay-private"  # its first centre is trained privately too
  if not is_private:
    single_domain(bench, [(seed, order[0]) for seed, order in runs], singles)
  pasts = [
    Past(
      memories.Memory(config.memory),
      memories.Reservoir(config.memory * (len(setting.centres) - 1), seed),
    )
    for seed, _ in runs
  ]
  stages = [[] if is_private else [singles[seed, order[0]]] for seed, order in runs]
  for k in range(0 if is_private else 1, len(setting.centres)):
    with contextlib.ExitStack() as vaults:
      tasks: list[Task] = []
      for (seed, order), past, done in zip(runs, pasts, stages, strict=True):
        if k > 0:
          remember(bench, arm, past, done[-1], setting.centres[order[k - 1]], splits[seed], seed)
        if is_private:
          tasks.append(_private_task(bench, past, done, splits[seed], seed, order, k, vaults))
        else:
          tasks.append(_task(bench, arm, past, done[-1], splits[seed], seed, order, k))
      if arm not in bench.flops:
        bench.flops[arm] = _flops(bench, arm, tasks[0])
      trained = train_tasks(bench, tasks)
    for done, stage in zip(stages, trained, strict=True):
      done[-1:] = [one._replace(params=None, carried=None) for one in done[-1:]]
      done.append(stage)
  return [
    Course(arm, seed, order, tuple(done)) for (seed, order), done in zip(runs, stages, strict=True)
  ]


def single_domain(bench: Bench, wanted: Sequence[tuple[int, int]], known: dict[Any, Stage]) -> None:
  """Trains (seed, centre) from first weights on that centre alone, unless `known` has it."""
  missing = [pair for pair in dict.fromkeys(wanted) if pair not in known]
  centres = bench.setting.centres
  tasks = [
    _plain_task(bench, f"{SINGLE}-{centres[c]}-{seed}", seed, (centres[c],)) for seed, c in missing
  ]
  known |= dict(zip(missing, train_tasks(bench, tasks), strict=True))
  if tasks and SINGLE not in bench.flops:
    bench.flops[SINGLE] = bench.flops[MULTI] = _flops(bench, SINGLE, tasks[0])


def multi_domain(bench: Bench, seeds: Sequence[int]) -> list[Stage]:
  """All centres at once, with as many steps as they have together."""
  everywhere = bench.setting.centres
  return train_tasks(
    bench, [_plain_task(bench, f"{MULTI}-{seed}", seed, everywhere) for seed in seeds]
  )


def _flops(bench: Bench, arm: str, task: Task) -> float:
  """Operations of an update; a private arm's are counted for one chunk of a sample."""
  batch = task.job.stream(0)
  found = study.flops(
    task.job.step, task.job.params, batch[0] if isinstance(batch, list) else batch
  )
  if arm == "lwf":  # its teacher works while batches are made
    found += programs.flops(bench.outputs.lower(task.job.params, batch["image"]))
  return found


def untrained(bench: Bench, seed: int) -> np.ndarray:
  """[centre] mean Dice of first weights."""
  params, split = bench.first_params(seed), hospitals.split(bench.setting, seed)
  scores = people_of(bench, split, bench.tested(params, split))
  return np.array([scores[centre]["dice"].mean() for centre in bench.setting.centres])


def _plain_task(bench: Bench, name: str, seed: int, centres: Sequence[str]) -> Task:
  """From first weights, on the training people of some centres."""
  split = hospitals.split(bench.setting, seed)
  everybody = [i for c in centres for i in split[c]["train"]]
  rows, _, validation = part_of(bench, everybody, (), seed, name)
  num_steps = bench.steps_of(len(rows), len(centres))
  stream = bench.patches(replayed(rows, (), bench.config.batch_size, seed, name=name), seed, name)
  step, first = bench.supervised(num_steps), bench.first_params(seed)
  return task(bench, name, seed, step, stream, first, num_steps, split, validation=validation)


def _task(
  bench: Bench,
  arm: Arm,
  past: Past,
  before: Stage,
  split: Split,
  seed: int,
  order: tuple[int, ...],
  k: int,
) -> Task:
  """The training at the k-th centre of a course."""
  config, centre = bench.config, bench.setting.centres[order[k]]
  name = _name(arm, seed, order, k, centre)
  remembered = remembered_by(bench, arm, past, split, seed, k)
  current, remembered, validation = part_of(bench, split[centre]["train"], remembered, seed, name)
  num_steps = bench.steps_of(len(current) + (len(remembered) if arm != "a-gem" else 0))
  form = "weighted" if arm in ("replay-weighted", "replay-synthetic", "der++") else "pooled"
  # The centre's own draws are named after the seed and the centre: arms share them where they can.
  label = f"{centre} {k}"
  size = config.batch_size
  both = arm not in ("fine-tuning", "ewc", "lwf", "a-gem")
  drawn = replayed(current, remembered if both else (), size, seed, form=form, name=label)
  stored = stored_outputs(bench, past) if arm == "der++" else None
  params = before.carried
  if config.transfer == "encoder":
    params = {**bench.first_params(seed, k), "encoder": params["encoder"]}
  stream = _with_stored(bench, drawn, seed, label, stored)
  if arm == "a-gem":
    others = bench.patches(
      replayed(remembered, (), size, seed, name=f"{label} memory"), seed, f"{label} memory"
    )
    stream = data.zip_streams(current=stream, memory=others)
    step = agem(bench.loss_fn, bench.optimiser(num_steps))
  elif arm == "lwf":
    teacher = past.teacher
    stream = with_teacher(
      stream, lambda batch: bench.outputs(teacher, batch["image"]), config.lwf_strength
    )
    step = bench.supervised(num_steps, bench.taught_loss)
  elif arm == "der++":
    step = bench.supervised(num_steps, bench.taught_loss)
  elif arm == "ewc":
    tx = bench.optimiser(num_steps)
    step = ewc(bench.loss_fn, tx, past.anchor, strength=config.ewc_strength)
  else:
    step = bench.supervised(num_steps)
  left = (before.params, before.carried)
  return task(
    bench, name, seed, step, stream, params, num_steps, split, validation=validation, inherited=left
  )


def _private_task(
  bench: Bench,
  past: Past,
  done: Sequence[Stage],
  split: Split,
  seed: int,
  order: tuple[int, ...],
  k: int,
  vaults: contextlib.ExitStack,
) -> Task:
  """The private training at the k-th centre: its people and those of the memory are protected.

  Its vault is locked until `vaults` closes it.
  """
  config, centre = bench.config, bench.setting.centres[order[k]]
  name = _name("replay-private", seed, order, k, centre)
  params = bench.first_params(seed)
  if done and config.transfer == "encoder":
    params = {**bench.first_params(seed, k), "encoder": done[-1].params["encoder"]}
  elif done:
    params = done[-1].params
  rows = [*split[centre]["train"], *past.memory.indices]
  num_steps = bench.steps_of(len(rows))
  vault = privacy.Vault.from_seed(int(generator(seed, name).integers(2**31)))
  if config.secrets == "os":
    assert bench.directory.private is not None
    vault = privacy.Vault.open(bench.directory.private / "secrets" / name)
    vaults.callback(vault.close)
  made = private.training(
    bench.setting,
    bench.loss_fn,
    bench.optimiser(num_steps),
    rows,
    vault,
    patch=config.patch,
    num_steps=num_steps,
    expected_batch_size=config.batch_size,
    epsilon=config.private_epsilon,
    delta=config.private_delta,
    max_norm=config.private_norm,
  )
  return task(
    bench,
    name,
    seed,
    made.step,
    made.stream,
    params,
    num_steps,
    split,
    inherited=done[-1].params if done else (),
    statement=made.plan.statement,
  )


def _name(arm: str, seed: int, order: tuple[int, ...], k: int, centre: str) -> str:
  return f"{arm}-{seed}-{'.'.join(str(c) for c in order)}-{k}-{centre}"


def _with_stored(
  bench: Bench, drawn: Stream, seed: int, name: str, stored: tuple[Any, np.ndarray] | None
) -> Stream:
  """Patches; with stored outputs also DER++'s weights."""
  if stored is None:
    return bench.patches(drawn, seed, name)
  config = bench.config
  stream = bench.patches(drawn, seed, name, stored)

  def weighted(step: int) -> dict[str, Any]:
    batch = stream(step)
    old = batch["remembered"]
    return {
      **batch,
      "label_weight": np.where(old, np.float32(config.der_beta), np.float32(1)),
      "teacher_weight": np.where(old, np.float32(config.der_alpha), np.float32(0)),
    }

  return weighted
