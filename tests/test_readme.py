"""The README's Python runs as it stands."""

import pathlib
import re

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_take_one_method_runs_and_is_short(capsys):
  (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
  assert len([line for line in code.splitlines() if line.strip()]) <= 25
  exec(compile(code, "README.md", "exec"), {})
  printed = float(capsys.readouterr().out)
  assert 0 < printed < 1  # a noise level
