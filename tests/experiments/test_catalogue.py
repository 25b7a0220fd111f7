"""The list of studies and the table of claims are made from docstrings and records, not by hand."""

import pathlib

import pytest

from experiments import catalogue, claims, run_costs
from experiments.__main__ import Options, main
from medjax.check import InputError

SEVEN = {"learn2synth", "segmentation", "lscl", "private_alignment", "site_transfer", "ms_replay",
         "throughput"}  # fmt: skip


def test_every_folder_and_file_with_presets_is_listed():
  found = {study.name: study for study in catalogue.studies()}
  assert set(found) >= SEVEN | {"fusestyle"}
  sources = [p for p in catalogue.ROOT.rglob("*.py") if "PRESETS" in p.read_text().split("\n\n")[0]]
  assert all(p.stem in found or p.parent.name in found for p in sources)
  for study in found.values():
    assert study.title.endswith((".", "?")) and "demo" in study.presets, study.name
    assert study.presets["demo"].endswith(("minute", "minutes")), study.name
  assert {name for name in SEVEN if not found[name].paper} == {"segmentation", "throughput"}
  assert found["lscl"].paper.startswith("Liu et al.") and "2021" in found["lscl"].paper
  assert found["ms_replay"].presets["deeper"] == "40 minutes"
  assert found["segmentation"].verdicts == {"worse": 2}


def test_every_record_of_a_study_belongs_to_one_that_exists():
  own = {stem for study in catalogue.studies() for stem, _ in catalogue.records(study.name)}
  assert {"lscl", "ms_replay_strategies", "site_transfer", "recovery"} <= own


def test_every_claim_finds_the_rows_of_its_test():
  found = claims.judged(claims.CLAIMS, catalogue.RECORDS)
  for claim, one in zip(claims.CLAIMS, found, strict=True):
    assert bool(one.num_rows) == bool(claim.where) and (one.num_rows or claim.needs)
    assert not (claim.is_simulated and one.verdict in ("holds", "fails")), claim.text
  with pytest.raises(InputError, match="mend the claim"):
    lost = claims.CLAIMS[0]._replace(where=(("arm", "nobody"),))
    claims.judged([lost], catalogue.RECORDS)


def row(verdict, is_equivalent=False):
  return {"verdict": verdict, "equivalent": is_equivalent}


@pytest.mark.parametrize(
  ("rows", "expects", "said"),
  [
    ([row("better"), row("better")], "better", "holds"),
    ([row("better"), row("worse")], "better", "fails"),
    ([row("undecided", True)], "better", "fails"),  # equivalent: the gain is not there
    ([row("undecided", True)], "equivalent", "holds"),
    ([row("better")], "equivalent", "fails"),
    ([row("better"), row("undecided")], "better", "undecided"),
    ([row("worse")], "open", "worse"),
  ],
)
def test_several_rows_have_one_verdict(rows, expects, said):
  assert claims.verdict_of(rows, expects, is_simulated=False) == said
  generated = {"holds": "mechanism shown", "fails": "mechanism not shown"}
  assert claims.verdict_of(rows, expects, is_simulated=True) == generated.get(said, said)


def test_the_table_beside_the_records_is_the_one_that_the_command_writes(tmp_path, capsys):
  main(Options("claims", tmp_path))
  written = (tmp_path / "claims.md").read_text()
  assert written == pathlib.Path(catalogue.RECORDS / "claims.md").read_text(), (
    "run: python -m experiments claims --output experiments/records, and remove claims.html"
  )
  assert "mechanism shown" in (tmp_path / "claims.html").read_text()
  assert "trainings an hour" in (tmp_path / "claims.html").read_text()
  main(Options())
  assert "fusestyle" in capsys.readouterr().out


def test_a_training_without_times_is_not_counted():
  whole = {"hours": 0.25, "seconds_to_first_step": 100.0, "seconds_evaluating": 0.0}
  found_again = dict.fromkeys(whole)  # a finished training that was read from its directory
  broken = whole | {"hours": float("nan")}
  timing = {"a": whole, "b": found_again, "c": broken, "seconds": {"answer": 1.0}, "d": 3.0}
  one = run_costs.cost_of("x", {"timing": timing, "devices": {"kind": "cpu"}})
  assert one == run_costs.RunCost("x", "", 1, 1000 / 60, 0.1, 3.6, "cpu")
  assert run_costs.cost_of("x", {"timing": {"b": found_again}}) is None
  assert run_costs.cost_of("x", {}) is None
