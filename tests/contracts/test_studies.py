"""What every study promises, over the table in `studies.py`.

The default suite builds every study's settings and runs one row whole; `make test-slow` runs all.
"""

import dataclasses
import json

import pytest

from medjax import cli, study
from medjax.metrics import case_table
from medjax.study import jobs
from medjax.study.tables import DISTANCES
from tests.contracts.studies import ROWS

QUICK = ("fusestyle",)
"""Rows that the default suite runs whole."""
FILES = ("config.json", "splits.json", "metrics.jsonl", "timing.json", "report.html")


def run(row, workdir, *more):
  words = [row.preset, *row.flags.split(), *more, "--workdir", str(workdir)]
  cli.run(row.module.PRESETS, row.module.build, row.module.__doc__, experiment=row.name, args=words)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_settings_are_complete_and_say_what_they_are(row):
  doc = row.module.__doc__
  assert "results.json:" in doc and f"python -m experiments.{row.name} demo" in doc
  for name, config in row.module.PRESETS.items():
    assert f"experiments.{row.name} {name}" in doc, f"the docstring has no command for {name}"
    assert dataclasses.is_dataclass(config) and dataclasses.replace(config) == config
  texts = [question.text for question in row.module.QUESTIONS]
  assert texts and len(set(texts)) == len(texts)
  for question in row.module.QUESTIONS:
    assert {question.reference, *question.arms} <= set(row.module.ARMS), question.text


@pytest.fixture(
  scope="module",
  params=[
    pytest.param(row, id=row.name, marks=[] if row.name in QUICK else [pytest.mark.slow])
    for row in ROWS
  ],
)
def finished(request, tmp_path_factory):
  """A row and the directory of its run, which was killed once between two trainings."""
  row = request.param
  workdir = tmp_path_factory.mktemp(row.name) / "run"
  run(row, workdir)
  return row, workdir


def results(workdir):
  return json.loads((workdir / "results.json").read_text())


def test_the_run_directory_is_whole(finished):
  row, workdir = finished
  for name in FILES if row.trains else set(FILES) - {"metrics.jsonl"}:
    assert (workdir / name).stat().st_size > 0, name
  assert not row.trains or list((workdir / "checkpoints").iterdir())


def test_no_person_stands_in_two_parts(finished):
  _, workdir = finished
  for name, parts in json.loads((workdir / "splits.json").read_text())["turns"].items():
    people = [person for part in parts.values() for person in part]
    assert people and len(people) == len(set(people)), name


def test_every_registered_question_is_answered_or_said_not_to_be_asked(finished):
  row, workdir = finished
  found = results(workdir)
  answered = {one["question"] for one in found["questions"]}
  assert answered | set(found["not_asked"]) == {q.text for q in row.module.QUESTIONS}
  assert not answered & set(found["not_asked"])
  trained = set(found["arms"])
  for question in row.module.QUESTIONS:
    if {question.reference, *question.arms} <= trained and question.role in found["test_cases"]:
      assert question.text in answered


def test_verdicts_are_paired_and_say_what_they_cover(finished):
  for row in results(finished[1])["questions"]:
    assert row["verdict"] in ("better", "worse", "undecided")
    low, high = row["adjusted_low"] - 1e-12, row["adjusted_high"] + 1e-12  # all members may agree
    assert low <= row["difference"] <= high
    assert row["smallest_detectable"] >= row["margin"] and set(row["members"]) >= {"subject"}
    sign = -1 if row["metric"] in DISTANCES else 1  # differences are gains
    gain = sign * (row["mean"] - row["reference_mean"])
    assert row["difference"] == pytest.approx(gain, abs=1e-12)


def test_no_arm_does_nothing(finished):
  row, workdir = finished
  cases = case_table.read_cases(workdir / "cases.csv")
  assert len({case["arm"] for case in cases}) > 1
  study.check_arms_differ(cases, row.metric, but=row.alike)


def test_a_run_killed_between_trainings_ends_with_the_same_bytes(finished, tmp_path, monkeypatch):
  row, workdir = finished
  if not row.trains:
    pytest.skip("no training")
  real, calls = jobs.train_jobs, []

  def dying(*args, **options):
    calls.append(1)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return real(*args, **options)

  with monkeypatch.context() as patch, pytest.raises(SystemExit):
    for module in (jobs, study):  # `study.train_job` calls the one, a study may call the other
      patch.setattr(module, "train_jobs", dying)
    run(row, tmp_path / "run")
  assert not (tmp_path / "run" / "results.json").exists()
  run(row, tmp_path / "run")
  for name in ("results.json", "splits.json", "metrics.jsonl", "cases.csv"):
    assert (tmp_path / "run" / name).read_bytes() == (workdir / name).read_bytes(), name


def test_another_setting_is_refused_and_changes_nothing(finished, capsys):
  row, workdir = finished
  before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
  with pytest.raises(SystemExit) as stop:
    run(row, workdir, "--margin", "0.5")
  assert stop.value.code == 2 and "margin" in capsys.readouterr().err
  assert all(path.read_bytes() == text for path, text in before.items() if path.name != ".lock")


def test_the_same_command_again_says_that_it_is_finished(finished, capsys):
  row, workdir = finished
  run(row, workdir)
  assert "finished:" in capsys.readouterr().out
