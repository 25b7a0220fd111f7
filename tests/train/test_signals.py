"""Signals are noted once and handlers put back; importing the loop stays light."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from medjax.train.signals import Interrupt


@pytest.fixture
def listening():
  """SIGINT raises KeyboardInterrupt; a shell starts background jobs with it ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_first_signal_is_noted_and_handlers_are_put_back():
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with Interrupt() as interrupt:
    assert interrupt.signal is None
    os.kill(os.getpid(), signal.SIGINT)
    assert (interrupt.signal, interrupt.exit_status) == (signal.SIGINT, 130)
    with pytest.raises(KeyboardInterrupt):  # the second one acts as usual
      os.kill(os.getpid(), signal.SIGINT)
  assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_other_threads_leave_handlers_alone():
  seen = []

  def work():
    with Interrupt() as interrupt:
      seen.append((interrupt.signal, signal.getsignal(signal.SIGTERM)))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [(None, signal.getsignal(signal.SIGTERM))]


def test_import_needs_no_other_library():
  code = (
    "import sys, medjax.train, medjax.cli;"
    "print(sorted({'orbax', 'tyro', 'rich', 'matplotlib', 'flax', 'optax'} & set(sys.modules)))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "[]\n"
