"""The case table: what is written is read, and sums up as by hand."""

import math
import os

import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics import case_table
from medjax.metrics.compare import compare


def case(subject, dice, hd95=1.0, *, fold=0, seed=0, name=None):
  return {
    "case": name or f"{subject}-1",
    "subject": subject,
    "domain": "A",
    "fold": fold,
    "seed": seed,
    "dice/organ": dice,
    "hd95/organ": hd95,
  }


def test_rows_read_back_exactly(tmp_path):
  rows = [
    case('o"x, y', 1 / 3, math.inf, name="Fälle\nzwei"),
    case("p", 0.1 + 0.2, 1e-300, fold=4, seed=11),
  ]
  case_table.write_cases(tmp_path / "cases.csv", rows)
  assert case_table.read_cases(tmp_path / "cases.csv") == rows
  case_table.write_cases(tmp_path / "cases.csv", [case("p", np.float32(math.nan))])
  (row,) = case_table.read_cases(tmp_path / "cases.csv")
  assert math.isnan(row["dice/organ"]) and os.listdir(tmp_path) == ["cases.csv"]


def test_a_write_that_fails_leaves_the_old_table(tmp_path, monkeypatch):
  path = tmp_path / "cases.csv"
  case_table.write_cases(path, [case("p", 0.5)])
  before = path.read_bytes()

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr(os, "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    case_table.write_cases(path, [case("q", 0.6)])
  assert path.read_bytes() == before and os.listdir(tmp_path) == ["cases.csv"]


def test_summary_counts_used_absent_and_missed():
  rows = [
    case("a", 0.8, 2.0),
    case("b", 0.6, 4.0),
    case("c", 0.0, 100.0),  # missed: the distance is the diagonal
    case("d", math.nan, math.nan),  # in neither map
  ]
  dice, hd95 = case_table.summary(rows)
  assert dice["metric"] == "dice/organ"
  assert dice["mean"] == pytest.approx(1.4 / 3)
  assert dice["std"] == pytest.approx(np.std([0.8, 0.6, 0], ddof=1))
  assert (dice["used"], dice["absent"], dice["missed"]) == (3, 1, 1)
  assert hd95["mean"] == pytest.approx(106 / 3) and hd95["missed"] == 1


def test_without_overlap_an_infinite_distance_is_missed():
  rows = [{"case": "a", "assd/organ": math.inf}, {"case": "b", "assd/organ": 1.0}]
  (row,) = case_table.summary(rows)
  assert (row["mean"], row["used"], row["missed"]) == (1.0, 1, 1)
  assert math.isnan(row["std"])


def test_summary_by_group_and_over_folds():
  rows = [case("a", 0.9), case("b", 0.7), case("c", 0.5), case("d", 0.2, fold=1)]
  dice = case_table.summary(rows, over="fold")[0]
  assert dice["mean"] == pytest.approx((0.7 + 0.2) / 2)  # of fold means, not of cases
  assert dice["std"] == pytest.approx(0.5 / math.sqrt(2))
  groups = [r for r in case_table.summary(rows, by=("fold",)) if r["metric"] == "dice/organ"]
  assert [(r["fold"], round(r["mean"], 6), r["used"]) for r in groups] == [(0, 0.7, 3), (1, 0.2, 1)]


def test_rows_become_the_array_that_compare_takes():
  """Folds differ by seed, one person has two cases, and rows stand in any order."""
  random = np.random.default_rng(0)
  scores = random.random((3, 5))
  rows = []
  for (s, i), score in np.ndenumerate(scores):
    rows.append(case(f"p{i}", score + 0.05, seed=s, fold=(i + s) % 2, name=f"p{i}-1"))
    rows.append(case(f"p{i}", score - 0.05, seed=s, fold=(i + s) % 2, name=f"p{i}-2"))
  shuffled = [rows[i] for i in random.permutation(len(rows))]
  table = case_table.score_array(shuffled, "dice/organ")
  np.testing.assert_allclose(table, scores, rtol=1e-12)
  found = compare({"a": table, "b": table + 0.1}, reference="a")["b"]
  assert found.verdict == "better" and found.members == {"seed": 3, "subject": 5}
  with pytest.raises(InputError, match="none for seed 2, subject p4"):
    case_table.score_array(rows[:-2], "dice/organ")


def test_bad_tables_are_named(tmp_path):
  path = tmp_path / "cases.csv"
  with pytest.raises(InputError, match="at least one case"):
    case_table.write_cases(path, [])
  with pytest.raises(InputError, match="columns case"):
    case_table.write_cases(path, [case("a", 0.5), {"case": "b"}])
  with pytest.raises(InputError, match="a file"):
    case_table.read_cases(path)
  for text in ("case,dice/organ\na,much\n", "case,dice/organ\na\n"):
    path.write_text(text)
    with pytest.raises(InputError, match="line 2 of"):
      case_table.read_cases(path)


def test_a_table_that_a_spreadsheet_saved_again_reads_the_same(tmp_path):
  path = tmp_path / "cases.csv"
  rows = [case("a", 0.5), case("b", 0.7)]
  case_table.write_cases(path, rows)
  path.write_text(path.read_text(), encoding="utf-8-sig")  # with a byte order mark
  assert case_table.read_cases(path) == rows
