"""The README's Python runs as it stands."""

import pathlib
import re

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
NAMES = ("learn2synth", "clipping")
BLOCKS = dict(zip(NAMES, re.findall(r"```python\n(.*?)```", README, re.DOTALL), strict=True))


def run(name, capsys):
  code = BLOCKS[name]
  assert len([line for line in code.splitlines() if line.strip()]) <= 25
  exec(compile(code, "README.md", "exec"), {})
  return capsys.readouterr().out


@pytest.mark.parametrize(
  ("name", "low", "high"),
  [
    ("learn2synth", 0.0, 1.0),  # a noise level
    ("clipping", 0.0, 0.1),  # a mean of clipped gradients
  ],
)
def test_a_method_in_the_reader_s_own_loop_runs_and_is_short(name, low, high, capsys):
  assert low < float(run(name, capsys)) < high


def test_commands_name_modules_and_presets_that_exist():
  import importlib.util

  modules = set(re.findall(r"python -m ([\w.]+)", README))
  assert {"experiments.segmentation", "medjax.predict", "medjax.metrics"} <= modules
  for module in modules:
    assert importlib.util.find_spec(module) is not None, module
