"""metrics.jsonl: a crash costs at most the last line, and numbers come back as they were."""

import math

import pytest

from medjax.train import logging


def write(path, run, steps):
  with logging.MetricsWriter(path, run) as writer:
    for step in steps:
      writer.write(step, {"loss": step / 3, "dice": math.nan})
    writer.sync()


def test_rows_come_back_exactly(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write(path, "a", [1, 2])
  rows = logging.read_rows(path)
  assert [(r["run"], r["step"], r["loss"]) for r in rows] == [("a", 1, 1 / 3), ("a", 2, 2 / 3)]
  assert all(math.isnan(r["dice"]) for r in rows)


def test_half_written_last_line_is_dropped_and_cut_off(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write(path, "a", [1])
  whole = path.read_bytes()
  path.write_bytes(whole + b'{"run": "a", "step": 2, "lo')
  assert [r["step"] for r in logging.read_rows(path)] == [1]
  logging.truncate_rows(path, run="a", step=9)
  assert path.read_bytes() == whole


def test_truncation_spares_other_runs(tmp_path):
  path = tmp_path / "metrics.jsonl"
  for run, steps in [("a", [1, 2]), ("b", [1, 2, 3]), ("a", [3])]:
    write(path, run, steps)
  kept = logging.truncate_rows(path, run="a", step=1)
  assert [r["step"] for r in kept] == [1]
  rows = logging.read_rows(path)
  assert [(r["run"], r["step"]) for r in rows] == [("a", 1), ("b", 1), ("b", 2), ("b", 3)]
  assert [r["step"] for r in logging.read_rows(path, run="b")] == [1, 2, 3]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"run": "a"\n{"run": "a", "step": 1}\n')
  with pytest.raises(ValueError, match="on line 1; remove that line"):
    logging.read_rows(path)
