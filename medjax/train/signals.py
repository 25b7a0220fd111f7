"""Remembers SIGTERM and SIGINT so that a loop can stop between two steps."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np

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

  @property
  def stops_here(self) -> bool:
    """Whether to stop between two steps; several processes stop together, where all have agreed."""
    return self.signal is not None and jax.process_count() == 1

  def agreed(self) -> bool:
    """Whether a signal came to any process of the training; all of them have to ask at once."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      highest = multihost_utils.process_allgather(np.int32(self.signal or 0)).max()
      self.signal = signal.Signals(int(highest)) if highest else None
    return self.signal is not None

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
