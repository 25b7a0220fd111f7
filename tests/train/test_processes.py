"""A training of several processes: killed, ended by a signal, resumed on other devices."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from medjax import train
from medjax.train import logging
from tests.train import process_worker, toy

ROOT = pathlib.Path(__file__).parent.parent.parent
SECONDS = 600


def free_port():
  """A port that nobody uses, among those that JAX chooses from under SLURM."""
  for port in range(61440 + os.getpid() % 2048, 65536):
    with socket.socket() as tried:
      if tried.connect_ex(("localhost", port)) != 0:
        return port
  raise OSError("no free port")


def start(workdir, how, num_devices, *, sent="none", at=0):
  """The processes of a training, with so many simulated devices each."""
  port, count = free_port(), 1 if how == "alone" else 2
  flags = f"--xla_force_host_platform_device_count={num_devices}"
  common = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  common |= {
    "alone": {},
    "kubernetes": {"COORDINATOR": f"localhost:{port}", "PROCESSES": "2"},
    "slurm": {
      "SLURM_JOB_ID": str(port - 61440),  # JAX makes its port of it
      "SLURM_STEP_NODELIST": "localhost",
      "SLURM_NTASKS": "2",
      "SLURM_LOCALID": "0",
    },
  }[how]
  command = [sys.executable, "-m", "tests.train.process_worker", how, str(workdir), sent, str(at)]
  return [
    subprocess.Popen(
      command,
      cwd=ROOT,
      env={**common, "SLURM_PROCID": str(rank), "JOB_COMPLETION_INDEX": str(rank)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for rank in range(count)
  ]


def finish(processes):
  """Statuses and outputs; a process that outlives the first one's violent end is ended."""
  statuses, texts = [], []
  for process in processes:
    if statuses and statuses[0] == -9:
      process.kill()
    texts.append(process.communicate(timeout=SECONDS)[0])
    statuses.append(process.returncode)
  return statuses, "\n".join(texts)


@pytest.mark.slow
def test_two_processes_killed_and_resumed_on_other_devices_equal_one(tmp_path):
  checkpoints = tmp_path / "checkpoints" / "main"
  statuses, text = finish(start(tmp_path, "kubernetes", 1, sent="KILL", at=7))
  assert statuses[0] == -9, text
  assert sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())[-1] <= 6

  # A signal to one process ends both where they next agree: at the row of step 8.
  statuses, text = finish(start(tmp_path, "slurm", 2, sent="TERM", at=6))
  assert statuses == [143, 143], text
  assert (checkpoints / "8").is_dir(), text

  statuses, text = finish(start(tmp_path, "alone", 4))
  assert statuses == [0], text
  plain = train.fit(
    toy.linear(),
    lambda t: toy.stream(t, size=process_worker.BATCH),
    toy.params(),
    jax.random.key(0),
    num_steps=process_worker.NUM_STEPS,
    log_every=4,
    progress=False,
  )
  found = np.load(tmp_path / "params.npz")
  for name, want in plain.state.params.items():
    np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-6)  # sums in another order
  rows = logging.read_rows(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == [row["step"] for row in plain.history]
  for row, want in zip(rows, plain.history, strict=True):
    np.testing.assert_allclose(row["loss"], want["loss"], rtol=1e-5)
