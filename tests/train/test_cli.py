"""Command line: preset, then flags; bad input is one line and a status of its own."""

import dataclasses
import errno
import importlib.machinery
import os
import pathlib
import sys
import types

import pytest

from medjax import cli
from medjax.check import InputError
from medjax.train import NonFiniteError


@dataclasses.dataclass(frozen=True)
class Optimiser:
  learning_rate: float = 1e-3
  """Step size, unitless."""


@dataclasses.dataclass(frozen=True)
class Config:
  """The toy."""

  num_steps: int = 100
  """Length of training in optimiser updates."""
  sizes: tuple[int, ...] = (16, 32)
  """Patch sizes in voxels."""
  optimiser: Optimiser = Optimiser()


PRESETS = {"demo": Config(num_steps=3), "paper": Config()}


def run(*args, build=None):
  calls = []
  build = build or (lambda config, options: calls.append((config, options)))
  cli.run(PRESETS, build, "What the study asks.", experiment="toy", args=args)
  return calls[0] if calls else None


def raising(error):
  def build(config, options):
    raise error

  return build


def test_preset_then_flags():
  config, options = run("paper", "--num_steps", "7", "--optimiser.learning_rate", "0.5")
  assert config == Config(7, (16, 32), Optimiser(0.5))
  want = cli.RunOptions(pathlib.Path("runs/toy-paper-0"), 0, (), "paper", "toy")
  assert options == dataclasses.replace(want, given=frozenset({"num_steps", "optimiser"}))
  config, options = run("demo", "--seed", "4")
  assert config == PRESETS["demo"]
  assert options.workdir == pathlib.Path("runs/toy-demo-4")


@pytest.mark.parametrize("flags", ["--data a b", "--data a --data b", "--data=a --seed 0 --data b"])
def test_data_is_repeated_or_listed(flags):
  assert run("demo", *flags.split())[1].data == (pathlib.Path("a"), pathlib.Path("b"))


def test_tuples_are_replaced_by_repeated_flags():
  assert run("demo", "--sizes", "4", "--sizes", "5")[0].sizes == (4, 5)
  assert run("demo", "--workdir", "x/y", "--num-steps", "2")[0].num_steps == 2


def test_help_lists_presets_and_describes_fields(capsys):
  with pytest.raises(SystemExit) as caught:
    run("--help")
  out = capsys.readouterr().out
  assert caught.value.code == 0
  assert "What the study asks." in out and "num_steps=3" in out and "The toy." in out
  with pytest.raises(SystemExit):
    run("demo", "--help")
  out = " ".join(capsys.readouterr().out.replace("│", " ").split())
  assert "Length of training in optimiser updates. (default: 3)" in out
  assert "Patch sizes in voxels. (default: 16 32)" in out
  assert "--optimiser.learning_rate FLOAT Step size, unitless." in out
  for flag in ("--workdir", "--seed", "--data"):
    assert flag in out


@pytest.mark.parametrize(
  ("error", "status", "line"),
  [
    (InputError("spacing > 0", "0", "fix the\nheader"), 2, "expected spacing > 0, got 0; fix the"),
    (NonFiniteError("main", 3, {"loss": float("nan")}, "clip"), 3, "loss=nan at step 3; clip"),
  ],
)
def test_bad_input_is_one_line(capsys, error, status, line):
  with pytest.raises(SystemExit) as caught:
    run("demo", build=raising(error))
  captured = capsys.readouterr()
  assert caught.value.code == status
  assert captured.err.startswith("error: expected ") and line in captured.err
  assert captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize(
  ("error", "status", "line"),
  [
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x.png"), 4, "'x.png'; free or mend"),
    (None, 4, "expected files and folders that can be read and written, got"),
    (RuntimeError("RESOURCE_EXHAUSTED\nwrite: No space left on device [s]"), 4, "No space left on"),
    (KeyboardInterrupt(), 130, "stopped by Ctrl-C; what was finished is on the disk"),
  ],
)
def test_a_disk_a_file_and_ctrl_c_are_one_line(capsys, error, status, line):
  def command(config):
    if error is None:
      try:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/disk/run")
      except OSError:
        raise ValueError("a library's own words")  # noqa: B904  its context says more
    raise error

  for call in (
    lambda: run("demo", build=lambda config, options: command(config)),
    lambda: cli.command(Optimiser, command, "What it does.", args=[]),
  ):
    with pytest.raises(SystemExit) as caught:
      call()
    captured = capsys.readouterr()
    assert caught.value.code == status and line in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_continue_is_another_name_of_more_steps():
  assert run("demo", "--continue", "--num_steps", "9")[1].more_steps
  assert not run("demo")[1].more_steps


@pytest.mark.parametrize("args", [(), ("nothing",), ("demo", "--num_steps", "many"), ("demo", "x")])
def test_wrong_arguments_exit_with_2(args, capsys):
  with pytest.raises(SystemExit) as caught:
    run(*args)
  assert caught.value.code == 2


def test_other_errors_keep_their_traceback():
  with pytest.raises(ZeroDivisionError):
    run("demo", build=raising(ZeroDivisionError()))


def test_finished_run_says_so(tmp_path, capsys):
  (tmp_path / "results.json").write_text("{}")
  run("demo", "--workdir", str(tmp_path))
  assert capsys.readouterr().out == f"finished: {tmp_path / 'results.json'}\n"


def test_config_that_hides_a_flag_is_refused():
  config = dataclasses.make_dataclass("Config", [("seed", int, 0)])()
  with pytest.raises(ValueError, match=r"got \['seed'\] in Config; rename"):
    cli.run({"demo": config}, lambda c, o: None, None, experiment="toy", args=["demo"])


@pytest.mark.parametrize(
  ("module", "path", "called"),
  [
    ("experiments.fusestyle", "fusestyle.py", "python -m experiments.fusestyle"),
    ("experiments.lscl.__main__", "__main__.py", "python -m experiments.lscl"),
    ("", "scripts/mine.py", "python scripts/mine.py"),
    ("", "", "python -m experiments.toy"),  # at a prompt
  ],
)
def test_help_names_the_program_as_it_was_started(module, path, called, monkeypatch, capsys):
  main = types.ModuleType("__main__")
  main.__spec__ = importlib.machinery.ModuleSpec(module, None) if module else None
  if path:
    main.__file__ = path
  monkeypatch.setitem(sys.modules, "__main__", main)
  monkeypatch.setattr(sys, "argv", [path])
  with pytest.raises(SystemExit):
    run("--help")
  assert f"usage: {called} " in " ".join(capsys.readouterr().out.split())
