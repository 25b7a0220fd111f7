"""Files appear whole or not at all; JSON is strict and goes both ways."""

import dataclasses
import functools
import math
import stat

import numpy as np
import pytest

from medjax import files


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "table.csv"
  files.write_text(path, "old")
  with pytest.raises(KeyboardInterrupt), files.replacing(path) as temporary:
    temporary.write_text("half of the ne")
    raise KeyboardInterrupt
  assert path.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_nobody_else_reads_a_file_before_it_is_complete(tmp_path, mode):
  path = tmp_path / "image.nii.gz"
  with files.replacing(path, suffix=".nii.gz", mode=mode) as temporary:
    assert temporary.name.endswith(".nii.gz") and temporary.parent == tmp_path
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    assert not path.exists()
  assert stat.S_IMODE(path.stat().st_mode) == mode


def test_line_ends_are_written_as_they_are(tmp_path):
  files.write_text(tmp_path / "rows.csv", "a,b\r\n1,2\r\n")
  assert (tmp_path / "rows.csv").read_bytes() == b"a,b\r\n1,2\r\n"


def test_numbers_that_json_lacks_come_back(tmp_path):
  values = {"a": math.inf, "b": -math.inf, "c": math.nan, "d": np.float32(0.5), "e": 3}
  files.write_json(tmp_path / "x.json", values)
  read = {k: files.number(v) for k, v in files.read_json(tmp_path / "x.json").items()}
  assert math.isnan(read.pop("c"))
  assert read == {"a": math.inf, "b": -math.inf, "d": 0.5, "e": 3}


def test_two_classes_with_the_same_fields_differ_where_asked():
  first, second = (dataclasses.make_dataclass(name, ["low"])(1) for name in ("First", "Second"))
  assert files.plain([first]) == files.plain([second]) == [{"low": 1}]
  assert files.plain([first], name_classes=True) == [{"type": "First", "low": 1}]
  assert files.plain([second], name_classes=True) == [{"type": "Second", "low": 1}]


def test_functions_are_known_by_their_names():
  assert files.plain(math.sqrt) == "math.sqrt"
  assert files.plain(functools.partial(math.sqrt, 2.0)) == "functools.partial"
