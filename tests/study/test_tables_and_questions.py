"""Verdicts hang on these functions: rows by hand, and `metrics.compare` by hand beside them."""

import math

import numpy as np
import pytest

from medjax import metrics, study
from medjax.check import InputError
from medjax.study.questions import is_equal

PLAIN = np.array([[0.70, 0.80, 0.75, 0.60], [0.71, 0.79, 0.76, 0.61]])
OURS = np.array([[0.80, 0.89, 0.86, 0.69], [0.81, 0.89, 0.86, 0.71]])
PEOPLE = ("zoe", "ann", "bob", "cyd")
QUESTION = study.Question("Does it help?", "plain", ("ours", "absent"), "dice", "unseen")


def rows_of(**arms):
  """A row a seed and person, with two structures whose mean is the score."""
  return [
    {"arm": arm, "seed": seed, "subject": person, "role": "unseen", "case": person, "domain": "a"}
    | {"dice/liver": score - 0.05, "dice/spleen": score + 0.05, "dice/cyst": math.nan}
    for arm, scores in arms.items()
    for seed, own in enumerate(scores)
    for person, score in zip(PEOPLE, own, strict=True)
  ]


ROWS = rows_of(plain=PLAIN, ours=OURS)
SORTED = np.argsort(PEOPLE)


def test_the_score_of_a_case_is_the_mean_over_the_structures_that_are_there():
  row = {"dice/a": 0.2, "dice/b": 0.6, "dice/c": math.nan, "dicey/d": 9.0}
  assert study.mean(row, "dice") == pytest.approx(0.4)
  assert study.mean({"surface_dice/a": math.nan}, "surface_dice") == 1.0
  assert study.mean({"hausdorff/a": math.nan}, "hausdorff") == 0.0
  assert math.isnan(study.mean({"auroc/a": math.nan}, "auroc"))  # no verdict takes it


@pytest.mark.parametrize(
  ("row", "words"), [({"dice/a": 0.2}, "figures assd/..."), ({"assd/a": math.inf}, "diagonal")]
)
def test_a_metric_that_is_not_there_or_infinite_is_refused(row, words):
  with pytest.raises(InputError, match=words):
    study.mean(row, "assd")


def test_tables_have_seeds_and_people_sorted_whatever_the_order_of_the_rows():
  expected = study.tables(ROWS, "dice")
  np.testing.assert_allclose(expected["plain"], PLAIN[:, SORTED], rtol=1e-12)
  np.testing.assert_allclose(expected["ours"], OURS[:, SORTED], rtol=1e-12)
  for seed in range(5):
    order = np.random.default_rng(seed).permutation(len(ROWS))
    permuted = study.tables([ROWS[i] for i in order], "dice")
    for arm, table in expected.items():
      np.testing.assert_array_equal(permuted[arm], table)


def test_numbers_are_sorted_as_numbers():
  rows = [{"arm": "a", "seed": s, "subject": p, "x/all": p + 100.0 * s}
          for s in (10, 9) for p in (11, 2)]  # fmt: skip
  assert study.tables(rows, "x")["a"].tolist() == [[902, 911], [1002, 1011]]


def test_the_cases_of_a_person_are_averaged_first():
  rows = [{"arm": "a", "seed": 0, "subject": "p", "x/all": x} for x in (1.0, 2.0)]
  rows.append({"arm": "a", "seed": 0, "subject": "q", "x/all": 9.0})
  assert study.tables(rows, "x")["a"].tolist() == [[1.5, 9.0]]
  assert study.table(rows, "x").tolist() == [[1.5, 9.0]]
  assert study.tables(rows, "x", arm="b") == {}


def test_an_arm_that_lacks_a_case_is_refused_and_named():
  # Equal shapes, other people: without this check the bootstrap would pair cyd with dan.
  swapped = [r | {"subject": "dan"} if r["arm"] == "ours" and r["subject"] == "cyd" else r
             for r in ROWS]  # fmt: skip
  with pytest.raises(InputError, match="none of plain for seed 0, subject dan"):
    study.tables(swapped, "dice")
  with pytest.raises(InputError, match="none of plain for seed 0, subject zoe"):
    study.tables(ROWS[1:], "dice")


def test_a_verdict_is_that_of_compare_by_hand():
  scores = {"plain": PLAIN[:, SORTED], "ours": OURS[:, SORTED]}
  expected = metrics.compare(scores, reference="plain", margin=0.02)["ours"]._asdict()
  (row,) = study.ask([QUESTION], ROWS, margin=0.02)
  assert row["verdict"] == "better" and (row["metric"], row["role"]) == ("dice", "unseen")
  for name, value in expected.items():
    if isinstance(value, float):
      assert row[name] == pytest.approx(value, rel=1e-9), name
    elif name != "level_errors":
      assert row[name] == value, name


def test_a_distance_counts_the_other_way_round():
  question = study.Question("Nearer?", "plain", ("ours",), "assd", "unseen")
  rows = [
    {"arm": r["arm"], "seed": r["seed"], "subject": r["subject"], "role": r["role"]}
    | {"assd/liver": 1.0 - study.mean(r, "dice")}
    for r in ROWS
  ]
  (row,) = study.ask([question], rows, margin=0.02)
  assert row["verdict"] == "better"
  assert row["difference"] == pytest.approx((OURS - PLAIN).mean())


def test_holm_runs_over_the_arms_of_a_question_and_over_no_others():
  rows = ROWS + rows_of(third=PLAIN)
  one, *_ = study.ask([QUESTION], rows, margin=0.01)
  both = study.ask([QUESTION._replace(arms=("ours", "third"))], rows, margin=0.01)
  assert [row["arm"] for row in both] == ["ours", "third"]
  assert one["adjusted_p_value"] == one["p_value"]
  assert both[0]["adjusted_p_value"] == pytest.approx(2 * both[0]["p_value"])


def test_questions_without_their_arms_are_said_to_be_not_asked():
  lonely = study.Question("Alone?", "plain", ("absent",), "dice", "unseen")
  elsewhere = QUESTION._replace(text="At home?", role="in-domain")
  asked = study.ask([QUESTION, lonely, elsewhere], ROWS, margin=0.01)
  assert study.not_asked([QUESTION, lonely, elsewhere], asked) == ["Alone?", "At home?"]
  with pytest.raises(InputError, match="different arms"):
    study.ask([QUESTION._replace(arms=("plain",))], ROWS, margin=0.01)


def test_one_arm_against_several_is_each_comparison_under_one_holm():
  scores = {"ours": OURS, "plain": PLAIN, "near": OURS - 0.001}
  rows = study.ask_each("ours", ("plain", "near", "absent"), scores, margin=0.02, size=4)
  assert [(r["reference"], r["verdict"], r["size"]) for r in rows] == [
    ("plain", "better", 4), ("near", "undecided", 4)]  # fmt: skip
  alone = metrics.compare({"a": PLAIN, "b": OURS}, reference="a", margin=0.02)["b"]
  assert rows[0]["difference"] == pytest.approx(alone.difference)
  assert rows[0]["p_value"] == pytest.approx(alone.p_value)
  assert rows[0]["adjusted_p_value"] == pytest.approx(2 * alone.p_value)
  assert study.ask_each("ours", (), scores, margin=0.02) == []


def test_equal_compute_is_a_column_of_its_own():
  scores = {"plain": PLAIN, "ours": OURS, "dear": OURS}
  costs = {"plain": 100.0, "ours": 104.0, "dear": 200.0}
  rows = study.against("plain", {"unseen": scores}, margin=0.01, costs=costs)
  assert [(r["column"], r["arm"]) for r in rows] == [
    ("unseen, equal updates", "ours"),
    ("unseen, equal updates", "dear"),
    ("unseen, equal compute", "ours"),
  ]
  assert not is_equal(math.nan, 1.0)
  assert {r["column"] for r in study.against("plain", {"": scores}, margin=0.01)} == {""}
  assert study.against("absent", {"": scores}, margin=0.01) == []


def test_the_words_of_a_verdict_say_no_more_than_its_row():
  (row,) = study.ask([QUESTION], ROWS, margin=0.02, costs={"plain": 1.0, "ours": 1.66})
  assert row["compute"] == pytest.approx(1.66) and not row["is_equal_compute"]
  said = study.sentence(row, "Dice")
  assert said.startswith("ours beats plain by more than 0.02 (Dice +0.099") and "1.66" in said
  assert "compute" not in study.sentence(row | {"compute": 1.04})
  undecided = row | {"verdict": "undecided", "equivalent": False}
  assert "is not told apart from plain" in study.sentence(undecided)
  assert "is equivalent to plain within 0.02" in study.sentence(undecided | {"equivalent": True})
  assert "is worse than plain" in study.sentence(row | {"verdict": "worse"})
  one_seed = study.ask([QUESTION], [r for r in ROWS if r["seed"] == 0], margin=0.02)
  assert "one seed: its spread is unknown" in study.sentence(one_seed[0])


def test_results_hold_every_arm_role_and_metric():
  asked = study.ask([QUESTION], ROWS, margin=0.02)
  found = study.results(ROWS, ("dice",), questions=asked, flops={"ours": 7.0}, extra=1)
  own = found["arms"]["ours"]["unseen"]["dice"]
  interval = metrics.mean_interval(OURS[:, SORTED])
  assert own["mean"] == pytest.approx(OURS.mean()) and own["low"] == pytest.approx(interval.low)
  assert own["by_seed"] == pytest.approx(OURS.mean(1).tolist())
  assert found["test_people"] == {"unseen": 4} == found["test_cases"] and found["extra"] == 1
  assert found["arms"]["ours"]["flops_an_update"] == 7.0
  assert found["levels"] == ["seed", "subject"]


def test_an_arm_that_does_nothing_is_found_by_its_scores():
  study.check_arms_differ(ROWS, "dice")
  twins = ROWS + rows_of(copy=OURS)
  with pytest.raises(InputError, match="ours and copy equal in all 8 cases"):
    study.check_arms_differ(twins[::-1][8:] + twins[16:], "dice")
  study.check_arms_differ(twins, "dice", but=("copy",))


# --- planned power ----------------------------------------------------------------------


def test_planned_power_of_one_level_is_the_textbook_formula():
  # A mean of n differences of spread s is called above m, 4 times in 5 at 2.5 % a side, from
  # m + (z_.975 + z_.8) s / sqrt(n); 400 people are many enough for the normal law.
  found = study.smallest_detectable({"seed": 1, "subject": 400}, {"subject": 0.1}, margin=0.01)
  assert found == pytest.approx(0.01 + (1.960 + 0.842) * 0.1 / 20, rel=0.03)


def test_planned_power_asks_for_more_with_more_arms_and_with_spread_over_seeds():
  members = {"seed": 3, "subject": 40}
  one = study.smallest_detectable(members, {"subject": 0.1}, margin=0.01)
  assert study.smallest_detectable(members, {"subject": 0.1}, margin=0.01, num_arms=3) > one
  both = study.smallest_detectable(members, {"subject": 0.1, "seed": 0.02}, margin=0.01)
  assert both > one
  assert study.smallest_detectable(members, {}, margin=0.01) == pytest.approx(0.01)
  with pytest.raises(InputError, match="level of spread"):
    study.smallest_detectable(members, {"pair": 0.1}, margin=0.01)


def test_the_planned_figure_is_the_one_found_where_the_assumption_holds():
  spread = (("subject", 0.05), ("seed", 0.01))
  question = QUESTION._replace(arms=("ours",), spread=spread)
  members = {"unseen": {"seed": 4, "subject": 30}}
  (row,) = study.planned([question], members, ("plain", "ours"), margin=0.01)
  random = np.random.default_rng(0)
  found = []
  for _ in range(40):
    gain = random.normal(0, 0.01, (4, 1)) + random.normal(0, 0.05, (1, 30))
    scores = {"plain": np.zeros((4, 30)), "ours": gain}
    found.append(
      metrics.compare(scores, reference="plain", margin=0.01)["ours"].smallest_detectable
    )
  assert row["planned_detectable"] == pytest.approx(np.median(found), rel=0.1)
  assert study.planned([question], members, ("plain",), margin=0.01) == []
