"""Says how far a run is: a bar on a terminal, now and then a line elsewhere. Owns rich."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_REDRAWS = 0.1
Item = TypeVar("Item")


def counted(items: Sequence[Item], name: str, *, enabled: bool = True) -> Iterator[Item]:
  """The items one by one, with a bar and the time left on a terminal and a line each elsewhere."""
  if not enabled:
    yield from items
  elif sys.stdout.isatty():
    from rich import progress

    yield from progress.track(items, description=name)
  else:
    began = time.monotonic()
    for done, item in enumerate(items, start=1):
      yield item
      _say(f"{name} {done}/{len(items)}: {item}, {time.monotonic() - began:.1f} s")


class Progress:
  """Progress of one run on stdout; use as a context manager.

  On a terminal: a bar with the time left, steps/s and the last logged loss. Elsewhere: a line at
  the start and the end, and one at most every 30 s.

  Args:
    name: name of the run.
    start: steps done before.
    total: steps in all.
    enabled: False prints nothing.
  """

  def __init__(self, name: str, start: int, total: int, *, enabled: bool = True):
    self._name, self._total, self._first = name, total, start
    self._done, self._loss = start, float("nan")
    self._enabled = enabled
    self._bar: Any = None
    self._task: Any = None
    self._began = self._shown = time.monotonic()
    self._interval = _SECONDS_BETWEEN_LINES

  def update(self, done: int) -> None:
    """Notes that `done` steps are done; cheap enough for every step."""
    self._done = done
    if self._enabled and (now := time.monotonic()) - self._shown >= self._interval:
      self._shown = now
      self._show()

  def loss(self, value: float) -> None:
    """The last logged loss."""
    self._loss = value

  def __enter__(self) -> "Progress":
    if not self._enabled:
      return self
    if sys.stdout.isatty():
      self._open_bar()
    else:
      resumed = f", going on at step {self._first}" if self._first else ""
      _say(f"{self._name}: {self._total} steps{resumed}")
    return self

  def __exit__(self, *_: object) -> None:
    if not self._enabled:
      return
    if self._bar is not None:
      self._show()
      self._bar.stop()
    else:
      _say(f"{self._status()}, {time.monotonic() - self._began:.1f} s")

  def _status(self) -> str:
    loss = "" if math.isnan(self._loss) else f", loss {self._loss:.4g}"
    return f"{self._name}: step {self._done}/{self._total}{loss}"

  def _show(self) -> None:
    seconds = max(time.monotonic() - self._began, 1e-9)
    rate = (self._done - self._first) / seconds
    if self._bar is not None:
      self._bar.update(self._task, completed=self._done, rate=rate, loss=self._loss)
      return
    left = f", {(self._total - self._done) / rate:.0f} s left" if rate > 0 else ""
    _say(f"{self._status()}, {rate:.3g} steps/s{left}")

  def _open_bar(self) -> None:
    from rich import progress

    self._interval = _SECONDS_BETWEEN_REDRAWS
    self._bar = progress.Progress(
      progress.TextColumn("[bold]{task.description}"),
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TextColumn("{task.fields[rate]:.3g} steps/s"),
      progress.TextColumn("loss {task.fields[loss]:.4g}"),
      progress.TimeRemainingColumn(),
      refresh_per_second=4,
    )
    self._task = self._bar.add_task(
      self._name, total=self._total, completed=self._done, rate=0.0, loss=self._loss
    )
    self._bar.start()


def _say(text: str) -> None:
  print(text, flush=True)
