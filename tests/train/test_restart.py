"""A process stopped or killed and started again ends with the bytes of one that was not.

It compiles nothing again either: all that it runs is found in the cache of compiled programs.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import pathlib, sys, time
import jax, numpy as np
from medjax import train
from medjax import files
from tests.train import toy

compiled = []
jax.monitoring.register_event_listener(
  lambda event, **_: compiled.append(event) if event.endswith("/cache_misses") else None)

def stream(step):
  pathlib.Path(f"{sys.argv[1]}.step").write_text(str(step))
  time.sleep(float(sys.argv[2]))
  return toy.stream(step)

fit = train.fit(
  toy.linear(manifest={"max_norm": 1.0}), stream, toy.params(), jax.random.key(0),
  num_steps=40, log_every=7, eval_every=10, checkpoint_every=5, workdir=sys.argv[1],
  evaluators={"probe": lambda state: {"bias": -abs(state.params["bias"] - 0.7)}},
  keep_best="probe/bias", progress=False)
files.write_json(pathlib.Path(sys.argv[1]) / "results.json", {
  "weight": fit.state.params["weight"], "moments": jax.tree.leaves(fit.state.opt_state),
  "best": [fit.best.step, fit.best.value, fit.best.state.params["weight"]],
  "last": fit.history[-1]})
pathlib.Path(f"{sys.argv[1]}.compiled").write_text(str(len(compiled)))
"""


class Runner:
  def __init__(self, folder):
    self.script = folder / "run.py"
    self.script.write_text(SCRIPT)

  def start(self, workdir, seconds=0.0):
    cache = {
      "JAX_COMPILATION_CACHE_DIR": str(self.script.with_name("compiled")),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    environment = {**os.environ, **cache, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(self.script), str(workdir), str(seconds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

  def finish(self, workdir):
    process = self.start(workdir)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return {name: (workdir / name).read_bytes() for name in ("results.json", "metrics.jsonl")}


def wait_for_step(process, workdir, step, *, checkpoint=None):
  """Until the stream is asked for `step` and the checkpoint is complete."""
  marker = workdir.with_name(workdir.name + ".step")
  deadline = time.monotonic() + 60
  while time.monotonic() < deadline:
    assert process.poll() is None, process.communicate()
    is_there = checkpoint is None or (workdir / "checkpoints" / "main" / str(checkpoint)).exists()
    if is_there and marker.exists() and int(marker.read_text() or 0) >= step:
      return
    time.sleep(0.005)
  raise AssertionError(f"step {step} did not come")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  folder = tmp_path_factory.mktemp("uninterrupted")
  found = Runner(folder).finish(folder / "run")
  assert int((folder / "run.compiled").read_text()) > 0
  return found


@pytest.mark.slow
def test_signals_save_and_the_same_command_resumes(tmp_path, uninterrupted):
  """SIGTERM, then SIGINT: one run is stopped twice, each time in a process of its own."""
  runner, workdir = Runner(tmp_path), tmp_path / "run"
  done = 0
  for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
    process = runner.start(workdir, 0.1)
    wait_for_step(process, workdir, done + 9)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, "")
    name = signal.Signals(number).name
    assert f"run 'main' stopped by {name} after step " in out
    assert "repeat the same command to resume" in out and len(out.splitlines()) == 1
    before, done = done, int(out.split("after step ")[1].split()[0])
    assert before + 9 <= done < 40
    assert (workdir / "checkpoints" / "main" / str(done)).exists()
    assert not (workdir / "results.json").exists()
  assert runner.finish(workdir) == uninterrupted


def test_kill_9_costs_only_the_steps_since_the_checkpoint(tmp_path, uninterrupted):
  runner, workdir = Runner(tmp_path), tmp_path / "run"
  process = runner.start(workdir, 0.05)
  wait_for_step(process, workdir, 17, checkpoint=10)
  process.kill()
  process.communicate(timeout=60)
  # What a kill in the middle of a write leaves: half a row, half a checkpoint.
  with open(workdir / "metrics.jsonl", "a") as file:
    file.write('{"run": "main", "step": 2')
  half = workdir / "checkpoints" / "main" / "18.orbax-checkpoint-tmp"
  (half / "state").mkdir(parents=True)
  assert runner.finish(workdir) == uninterrupted
  assert workdir.with_name("run.compiled").read_text() == "0"
