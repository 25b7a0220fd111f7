"""Wall-clock times of a run, kept apart from its numbers, which must not depend on them."""

import statistics
import time
from typing import NamedTuple


class Timing(NamedTuple):
  """Times of this process's part of a run; NaN where nothing was measured.

  Attributes:
    seconds_to_first_step: from the call of fit to the end of the first step (or first block of
      steps), compilation and restoring included.
    seconds_per_step: median over the stretches between two waits for the device; logging,
      evaluation and checkpoints not counted.
    steps_per_second: steps after the first stretch over the time they took.
  """

  seconds_to_first_step: float
  seconds_per_step: float
  steps_per_second: float


class Stopwatch:
  """Collects stretches of steps; the caller has waited for the device at `lap`."""

  def __init__(self) -> None:
    self._began = self._mark = time.perf_counter()
    self._first = float("nan")
    self._laps: list[tuple[int, float]] = []

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

  def timing(self) -> Timing:
    if not self._laps:
      return Timing(self._first, float("nan"), float("nan"))
    median = statistics.median(seconds / steps for steps, seconds in self._laps)
    total = sum(seconds for _, seconds in self._laps)
    return Timing(self._first, median, sum(steps for steps, _ in self._laps) / total)
