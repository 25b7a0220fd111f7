"""Eight devices equal one, for every method and every federation; in a process of its own."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_eight_devices_equal_one():
  command = [sys.executable, "-m", "tests.contracts.eight_devices"]
  found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
  assert found.returncode == 0, found.stdout + found.stderr
