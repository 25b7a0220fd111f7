"""Programs run in turn in one process: times, compile time, flops and memory, as ratios."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Program(NamedTuple):
  """One row: `fn(*args)` handles `num_examples` examples; `floor` is the least possible ratio."""

  name: str
  fn: Callable[..., Any]
  args: tuple[Any, ...]
  num_examples: int
  floor: float | None = None


class Measured(NamedTuple):
  """A row's numbers; times in seconds a call, `ratios` [round] to the group's first program."""

  flops: float
  temporary_bytes: int
  compile_s: float
  times: np.ndarray
  ratios: np.ndarray


def measure(programs: Sequence[Program], num_rounds: int) -> dict[str, Measured]:
  """Compiles all, warms up, then runs them in turn."""
  compiled, counts = {}, {}
  for program in programs:
    start = time.perf_counter()
    executable = jax.jit(program.fn).lower(*program.args).compile()
    seconds = time.perf_counter() - start
    cost, memory = executable.cost_analysis(), executable.memory_analysis()
    compiled[program.name] = executable
    assert cost is not None and memory is not None  # all backends of today's JAX count
    counts[program.name] = (cost["flops"], memory.temp_size_in_bytes, seconds)
  times = {program.name: np.zeros(num_rounds) for program in programs}
  for repeat in range(-2, num_rounds):  # two rounds to warm up
    for program in programs:
      start = time.perf_counter()
      jax.block_until_ready(compiled[program.name](*program.args))
      if repeat >= 0:
        times[program.name][repeat] = time.perf_counter() - start
  first = times[programs[0].name]
  return {
    program.name: Measured(
      flops, temporary_bytes, compile_s, times[program.name], times[program.name] / first
    )
    for program in programs
    for flops, temporary_bytes, compile_s in [counts[program.name]]
  }
