"""Wall-clock times of a run, kept apart from its numbers, which must not depend on them."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Timing(NamedTuple):
  """Times of this process's part of a run; NaN where nothing was measured.

  Attributes:
    seconds_to_first_step: from the call of fit to the end of the first step (or first block of
      steps), compilation and restoring included.
    seconds_per_step: median over the stretches between two waits for the device; logging,
      evaluation and checkpoints not counted.
    steps_per_second: steps after the first stretch over the time they took.
    busy_fraction: at least this part of that time the device computed. Counted as idle is the
      making of every batch at whose end the device had nothing left to do.
    seconds_evaluating: all evaluations.
  """

  seconds_to_first_step: float
  seconds_per_step: float
  steps_per_second: float
  busy_fraction: float
  seconds_evaluating: float


class Stopwatch:
  """Collects stretches of steps; the caller has waited for the device at `lap`."""

  def __init__(self) -> None:
    self._began = self._mark = time.perf_counter()
    self._first = float("nan")
    self._laps: list[tuple[int, float]] = []
    self._idle = self._evaluating = 0.0

  @property
  def is_first_due(self) -> bool:
    return self._first != self._first

  def first(self) -> None:
    """The first step is done."""
    self._first = time.perf_counter() - self._began

  def start(self) -> None:
    """A stretch of steps begins."""
    self._mark = time.perf_counter()

  def lap(self, num_steps: int) -> None:
    """`num_steps` steps are done since `start`."""
    if num_steps:
      self._laps.append((num_steps, time.perf_counter() - self._mark))

  @contextlib.contextmanager
  def feeding(self, is_device_done: Callable[[], bool]) -> Iterator[None]:
    """A batch is made while the device works on what it has."""
    began = time.perf_counter()
    yield
    if self._first == self._first and is_device_done():
      self._idle += time.perf_counter() - began

  @contextlib.contextmanager
  def evaluating(self) -> Iterator[None]:
    began = time.perf_counter()
    yield
    self._evaluating += time.perf_counter() - began

  def timing(self) -> Timing:
    nan = float("nan")
    if not self._laps:
      return Timing(self._first, nan, nan, nan, self._evaluating)
    median = statistics.median(seconds / steps for steps, seconds in self._laps)
    total = sum(seconds for _, seconds in self._laps)
    return Timing(
      self._first,
      median,
      sum(steps for steps, _ in self._laps) / total,
      max(0.0, 1 - self._idle / total),
      self._evaluating,
    )
