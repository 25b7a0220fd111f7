"""The design of a run against the functions that it stands for, called by hand."""

import json

import numpy as np
import pytest

from medjax import study
from medjax.check import InputError
from medjax.train import RunDirectory

SPREAD = (("subject", 0.2), ("seed", 0.01))
HELPS = study.Question("Does it help?", "plain", ("ours",), "accuracy", spread=SPREAD)
FAR = HELPS._replace(text="Does it far away?", role="far")
FOCUS = HELPS._replace(text="Does it look there?", metric="focus", expects="open")
QUESTIONS = (HELPS, FAR, FOCUS)
PEOPLE = {"train": ("ann", "bob"), "test": ("cyd", "dan", "eve")}
CONFIG = study.Settings(num_seeds=2, margin=0.02)
ARMS = ("plain", "ours")


def made(people=PEOPLE, **options):
  return study.design(CONFIG, 5, QUESTIONS, ARMS, people, **options)


def rows_of(role="test", better=0.1):
  """A row an arm, seed and person, the second arm better by `better`."""
  random = np.random.default_rng(0).uniform(0.3, 0.6, (2, 3))
  return [
    {"arm": arm, "seed": 5 + seed, "role": role, "subject": name, "case": name, "domain": ""}
    | {"accuracy/all": random[seed, i] + gain, "focus/all": random[seed, i]}
    for arm, gain in (("plain", 0.0), ("ours", better))
    for seed in range(2)
    for i, name in enumerate(PEOPLE["test"])
  ]


def test_the_seeds_follow_the_first_one_and_the_people_of_the_part_test_are_counted():
  own = made()
  assert list(own.seeds) == [5, 6] and own.margin == 0.02
  assert own.questions == own.asked == QUESTIONS
  members = {"test": {"seed": 2, "subject": 3}}
  # How many people there are far away was not told: what is asked of them is not planned.
  assert own.planned == study.planned([HELPS, FOCUS], members, ARMS, margin=0.02)


def test_a_person_who_is_tested_in_two_turns_counts_once():
  folds = [
    study.Turn("a", None, (), {}, {"train": ["ann"], "test": ["bob", "cyd"]}),
    study.Turn("b", None, (), {}, {"train": ["bob"], "test": ["ann", "cyd"]}),
  ]
  own = made(folds, kind="folds of people")
  assert [row["members"] for row in own.planned] == 2 * [{"seed": 2, "subject": 3}]
  assert own.splits == study.splits_of(folds, 5, "folds of people")


def test_every_role_has_its_own_number_of_people_and_only_what_can_be_answered_is_planned():
  own = made(tested={"test": 3, "far": 40}, asked=[HELPS, FAR])
  assert own.asked == (HELPS, FAR)
  near, far = (row["planned_detectable"] for row in own.planned)
  assert [row["members"]["subject"] for row in own.planned] == [3, 40] and far < near


def test_the_directory_says_who_stands_where_and_the_screen_what_could_be_found(tmp_path, capsys):
  own = made()
  with RunDirectory.open(
    tmp_path / "run", experiment="mine", preset="demo", config=CONFIG, seed=5
  ) as directory:
    own.begin(directory)
  written = json.loads((tmp_path / "run" / "splits.json").read_text())
  people = {part: list(names) for part, names in PEOPLE.items()}
  assert written == {"kind": "people by part", "seed": 5, "turns": {"": people}}
  said = capsys.readouterr().out
  assert said.count("planned: ") == 2 and HELPS.text in said and FAR.text not in said


def test_results_answer_what_was_asked_and_name_what_was_not():
  own, rows = made(), rows_of()
  found = own.results(
    rows, ("accuracy", "focus"), costs={"plain": 1.0, "ours": 3.0}, flops={"ours": 2.0}, extra=[1]
  )
  asked = study.ask([HELPS, FOCUS], rows, margin=0.02, costs={"plain": 1.0, "ours": 3.0})
  assert found == study.results(
    rows,
    ("accuracy", "focus"),
    questions=asked,
    planned=own.planned,
    not_asked=[FAR.text],
    flops={"ours": 2.0},
    extra=[1],
  )
  helps, focus = found["questions"]
  assert helps["difference"] == pytest.approx(0.1) and helps["verdict"] == "better"
  assert helps["compute"] == 3.0 and focus["difference"] == 0.0


def test_a_question_of_a_role_that_was_not_counted_is_asked_where_there_are_rows_of_it():
  found = made().results([*rows_of(), *rows_of("far", better=-0.1)], ("accuracy",))
  verdicts = {row["question"]: row["verdict"] for row in found["questions"]}
  assert verdicts == {HELPS.text: "better", FAR.text: "worse", FOCUS.text: "undecided"}
  assert found["not_asked"] == []


def test_a_person_on_two_sides_is_refused_before_there_is_a_directory():
  with pytest.raises(InputError, match="no subject in both train and test, got ann"):
    made({"train": ("ann", "bob"), "test": ("ann",)})
  fold = study.Turn("a", None, (), {}, PEOPLE)
  with pytest.raises(InputError, match="turns of different names"):
    made([fold, fold])


def test_without_a_part_test_the_numbers_of_people_are_asked_for():
  unseen = {"train": ("ann",), "unseen": ("bob", "cyd")}
  with pytest.raises(InputError, match='a part "test"'):
    made(unseen)
  (row,) = made(unseen, tested={"far": 2}).planned
  assert row["role"] == "far" and row["members"]["subject"] == 2


def test_roles_alone_are_tested_on_the_people_of_the_part_test():
  named, counted = made(tested=("far", "test")), made(tested={"far": 3, "test": 3})
  assert named == counted and len(named.planned) == 3
