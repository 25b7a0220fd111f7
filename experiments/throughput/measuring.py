"""Programs run in turn in one process: times, first steps, operations and memory, as ratios."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from experiments.throughput.peaks import Peaks
from medjax.programs import peak_bytes

_WARM_UP = 2  # rounds that are not counted
_QUEUED = 4  # calls that are handed to an accelerator before the first is waited for


class Program(NamedTuple):
  """One row of the benchmark.

  Attributes:
    name: of the row.
    fn: `fn(*args)` is what one call does.
    args: its arguments.
    num_examples: examples that a call handles.
    floor: the least possible time as a multiple of the group's first row; None: not counted.
    on_host: `fn` is called as it is, because it reads files, works in NumPy or calls several
      compiled programs; its operations and its memory are then not counted.
  """

  name: str
  fn: Callable[..., Any]
  args: tuple[Any, ...]
  num_examples: int
  floor: float | None = None
  on_host: bool = False


class Counts(NamedTuple):
  """What the compiler says of a program; NaN where it says nothing.

  Attributes:
    flops: operations of a call.
    argument_bytes: arguments and results, which have to be moved whatever is computed.
    temporary_bytes: memory beside them.
    peak_bytes: all memory of a call at its fullest moment.
  """

  flops: float = np.nan
  argument_bytes: float = np.nan
  temporary_bytes: float = np.nan
  peak_bytes: float = np.nan


class Measured(NamedTuple):
  """A row's numbers.

  Attributes:
    counts: of the compiler.
    cold_s: seconds until the first call is done, where nothing was compiled before.
    cached_s: the same in a fresh process that finds compiled programs on the disk; NaN: not asked.
    times: [round] seconds a call.
    ratios: [round] to the group's first program in the same round.
    busy: on a CPU the processor time by the time of all cores; on an accelerator the time of a call
      in a queue by that of a call that is waited for: what is left is the host's.
    floor_s: least seconds a call, see `peaks.Peaks.floor`.
    utilisation: operations by the most that the device's maker names; NaN: not known.
  """

  counts: Counts
  cold_s: float
  cached_s: float
  times: np.ndarray
  ratios: np.ndarray
  busy: float
  floor_s: float
  utilisation: float


def measure(
  programs: Sequence[Program],
  num_rounds: int,
  peaks: Peaks,
  *,
  cached: bool = True,
  trace: str | os.PathLike | None = None,
) -> dict[str, Measured]:
  """Compiles all programs, warms up, then runs them in turn.

  Args:
    programs: rows of one group; the first is what the others are held against.
    num_rounds: timed rounds; every program runs once a round.
    peaks: what the device can do at most.
    cached: whether to measure the first call with compiled programs on the disk, too.
    trace: folder for a trace of one further round, which TensorBoard and Perfetto show.
  """
  calls, counts, firsts = {}, {}, {}
  for program in programs:
    with _empty_cache():
      calls[program.name], counts[program.name], cold = _first(program)
      again = np.nan
      if cached:
        jax.clear_caches()  # a new process has traced nothing yet
        again = _first(program)[-1]
    firsts[program.name] = (cold, again)
  times = {program.name: np.zeros(num_rounds) for program in programs}
  worked = dict.fromkeys(times, 0.0)
  for repeat in range(-_WARM_UP, num_rounds):
    for program in programs:
      start, before = time.perf_counter(), time.process_time()
      jax.block_until_ready(calls[program.name](*program.args))
      if repeat >= 0:
        times[program.name][repeat] = time.perf_counter() - start
        worked[program.name] += time.process_time() - before
  if trace is not None:
    with jax.profiler.trace(os.fspath(trace)):
      for program in programs:
        with jax.profiler.TraceAnnotation(program.name):
          jax.block_until_ready(calls[program.name](*program.args))
  first = times[programs[0].name]
  found = {}
  for program in programs:
    own, count = times[program.name], counts[program.name]
    median = float(np.median(own))
    if jax.default_backend() == "cpu":
      busy = worked[program.name] / (own.sum() * len(os.sched_getaffinity(0)))
    else:
      busy = min(1.0, _queued(calls[program.name], program) / median)
    found[program.name] = Measured(
      counts=count,
      cold_s=firsts[program.name][0],
      cached_s=firsts[program.name][1],
      times=own,
      ratios=own / first,
      busy=busy,
      floor_s=peaks.floor(count.flops, count.argument_bytes),
      utilisation=count.flops / median / peaks.nominal,
    )
  return found


def _first(program: Program) -> tuple[Callable[..., Any], Counts, float]:
  """The program ready to be called, its counts, and the seconds until its first call was done."""
  start = time.perf_counter()
  if program.on_host:
    jax.block_until_ready(program.fn(*program.args))
    return program.fn, Counts(), time.perf_counter() - start
  compiled = jax.jit(program.fn).lower(*program.args).compile()
  jax.block_until_ready(compiled(*program.args))
  seconds = time.perf_counter() - start
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  assert cost is not None and memory is not None  # all backends of today's JAX count
  moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
  peak = peak_bytes(compiled)
  return compiled, Counts(cost["flops"], moved, memory.temp_size_in_bytes, peak), seconds


def _queued(call: Callable[..., Any], program: Program) -> float:
  """Seconds a call where the next one is handed over before the last one is done."""
  start = time.perf_counter()
  jax.block_until_ready([call(*program.args) for _ in range(_QUEUED)])
  return (time.perf_counter() - start) / _QUEUED


@contextlib.contextmanager
def _empty_cache() -> Iterator[None]:
  """An empty place for compiled programs, so that a first call is a first one."""
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
  )
  before = {name: getattr(jax.config, name) for name in names}
  with tempfile.TemporaryDirectory() as folder:
    try:
      for name, value in zip(names, (folder, 0.0, -1), strict=True):
        jax.config.update(name, value)
      compilation_cache.reset_cache()
      yield
    finally:
      for name, value in before.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()
