"""Remembers SIGTERM and SIGINT so that a loop can stop between two steps."""

import signal
import threading
from types import FrameType
from typing import Any

_CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
  """Context in which the first SIGTERM or SIGINT is noted in `signal` instead of ending Python.

  A second one acts as it did before the context. On exit the previous handlers are back. Outside
  the main thread Python allows no handlers: the context does nothing there.
  """

  def __init__(self) -> None:
    self.signal: signal.Signals | None = None
    self._previous: dict[signal.Signals, Any] = {}

  @property
  def exit_status(self) -> int:
    """128 + number of the signal, as shells report it: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + int(self.signal or 0)

  def __enter__(self) -> "Interrupt":
    if threading.current_thread() is threading.main_thread():
      for caught in _CAUGHT:
        self._previous[caught] = signal.signal(caught, self._note)
    return self

  def __exit__(self, *_: object) -> None:
    for caught, handler in self._previous.items():
      # None: installed from C, which Python can neither call nor put back.
      signal.signal(caught, signal.SIG_DFL if handler is None else handler)
    self._previous = {}

  def _note(self, number: int, frame: FrameType | None) -> None:
    self.signal = signal.Signals(number)
    self.__exit__()
