"""Verdicts: symmetries, margins, Holm against closed testing, what the design could have seen."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from medjax import files
from medjax.check import InputError
from medjax.metrics.compare import (
  Comparison,
  compare,
  comparison_cells,
  comparison_table,
  holm,
)
from medjax.train import Report


def scores(*gains, seed=0, shape=(3, 12)):
  """A reference and arms that gain on it, with spread over seeds and subjects."""
  random = np.random.default_rng(seed)
  arms = {"plain": 0.7 + 0.1 * random.normal(size=shape)}
  for i, gain in enumerate(gains):
    seeds, subjects = 0.003 * random.normal(size=(3, 1)), 0.01 * random.normal(size=(1, 12))
    noise = 0.005 * random.normal(size=shape)
    arms[f"arm {i}"] = arms["plain"] + gain + seeds[: shape[0]] + subjects[:, : shape[1]] + noise
  return arms


def test_a_gain_beyond_the_margin_is_better_a_loss_worse_the_rest_undecided():
  found = compare(scores(0.06, -0.06, 0.012, 0.0), reference="plain")
  assert [c.verdict for c in found.values()] == ["better", "worse", "undecided", "undecided"]
  for c in found.values():
    assert c.adjusted_low <= c.low < c.difference < c.high <= c.adjusted_high
    assert c.difference == pytest.approx(c.mean - c.reference_mean)
    assert (c.verdict == "undecided") == (c.adjusted_p_value > 0.05)
    assert c.covers == ("seed", "subject") and c.members == {"seed": 3, "subject": 12}
    assert c.note == ""


def test_swapping_arm_and_reference_swaps_the_verdict():
  arms = scores(0.05)
  (forth,) = compare(arms, reference="plain", resamples=39_999).values()
  (back,) = compare(arms, reference="arm 0", resamples=39_999).values()
  assert (forth.verdict, back.verdict) == ("better", "worse")
  assert back.difference == pytest.approx(-forth.difference)
  # The two use other draws: their ends differ by what is left of chance.
  assert back.low == pytest.approx(-forth.high, abs=0.1 * forth.standard_error)


def test_lower_is_better_is_the_comparison_of_negated_scores():
  arms = scores(0.05, -0.01)
  negated = {arm: -table for arm, table in arms.items()}
  for there, here in zip(
    compare(arms, reference="plain").values(),
    compare(negated, reference="plain", lower_is_better=True).values(),
    strict=True,
  ):
    assert here._replace(mean=there.mean, reference_mean=there.reference_mean) == there
    assert here.mean == -there.mean


def test_order_of_arms_seeds_and_subjects_and_a_common_shift_change_nothing():
  arms = scores(0.05, 0.02, 0.02, 0.0)
  found = compare(arms, reference="plain")
  random = np.random.default_rng(1)
  subjects = random.permutation(12)
  cases = 0.2 * random.normal(size=(3, 12))
  changed = {arm: (arms[arm] + cases)[[1, 2, 0]][:, subjects] for arm in reversed(arms)}
  for arm, other in compare(changed, reference="plain").items():
    for field in ("difference", "low", "high", "adjusted_low", "adjusted_high", "p_value"):
      assert getattr(other, field) == pytest.approx(getattr(found[arm], field), abs=1e-12), field
    assert other.adjusted_p_value == found[arm].adjusted_p_value
    assert other.verdict == found[arm].verdict


def test_a_wider_margin_never_helps_and_equivalence_never_goes():
  for seed, gain in itertools.product(range(3), (0.0, 0.02, -0.05)):
    arms = scores(gain, seed=seed)
    found = [compare(arms, reference="plain", margin=m)["arm 0"] for m in (0, 0.01, 0.03, 0.1)]
    p_values = [c.p_value for c in found]
    assert p_values == sorted(p_values)
    decided = [c.verdict != "undecided" for c in found]
    assert decided == sorted(decided, reverse=True)
    equivalent = [c.equivalent for c in found]
    assert equivalent == sorted(equivalent)
    assert not any(d and e for d, e in zip(decided, equivalent, strict=True))


def test_an_arm_beside_itself_is_equivalent():
  table = np.random.default_rng(0).random((3, 5))
  c = compare({"a": table, "b": table}, reference="a")["b"]
  assert c.verdict == "undecided" and c.equivalent and c.p_value == 1.0
  assert c.low == c.high == c.difference == 0 and c.smallest_detectable == c.margin


def test_one_seed_says_what_the_interval_does_not_cover():
  c = compare(scores(0.05, shape=(1, 12)), reference="plain")["arm 0"]
  assert c.covers == ("subject",)
  assert c.note == "one seed: its spread is unknown"
  assert math.isnan(c.level_errors["seed"]) and c.level_errors["subject"] > 0


def test_one_score_decides_nothing():
  c = compare({"a": [[0.1]], "b": [[0.9]]}, reference="a")["b"]
  assert c.verdict == "undecided" and not c.equivalent and c.p_value == 1.0
  assert c.covers == () and math.isnan(c.low)


def test_pairs_and_orders_are_resampled_too():
  """An effect of one of three orders alone cannot be told from chance; without it, it can."""
  random = np.random.default_rng(3)
  plain = random.random((3, 3, 10))
  noise = 0.001 * random.normal(size=plain.shape)
  gain = np.array([0.15, 0.0, 0.0])[:, None, None]
  levels = ("order", "seed", "subject")
  one = compare({"a": plain, "b": plain + gain + noise}, reference="a", levels=levels)["b"]
  all_ = compare({"a": plain, "b": plain + 0.05 + noise}, reference="a", levels=levels)["b"]
  assert (one.verdict, all_.verdict) == ("undecided", "better")
  assert one.level_errors["order"] > 100 * one.level_errors["seed"]


def test_cases_of_one_person_do_not_count_as_people():
  arms = scores(0.03)
  repeated = {arm: np.repeat(table, 4, axis=1) for arm, table in arms.items()}
  (c,) = compare(repeated, reference="plain", subjects=np.repeat(np.arange(12), 4)).values()
  (once,) = compare(arms, reference="plain").values()
  assert c.members["subject"] == 12
  np.testing.assert_allclose([c.low, c.high], [once.low, once.high])
  (naive,) = compare(repeated, reference="plain").values()
  assert naive.standard_error < once.standard_error


def test_holm_equals_closed_testing_with_bonferroni():
  """p_j adjusted is the largest Bonferroni p-value over all sets of hypotheses that hold j."""
  random = np.random.default_rng(0)
  for _ in range(50):
    p = np.round(random.random(4) ** 3, 2).tolist()  # rounding makes ties
    sets = [s for k in range(1, 5) for s in itertools.combinations(range(4), k)]
    expected = [
      min(1.0, max(len(s) * min(p[i] for i in s) for s in sets if j in s)) for j in range(4)
    ]
    adjusted, levels = holm(p, 0.05)
    np.testing.assert_allclose(adjusted, expected, rtol=1e-12)
    for q, a, level in zip(p, adjusted, levels, strict=True):
      assert (a <= 0.05) == (q <= level + 1e-12)


def test_holm_by_hand():
  # alpha / 3 = .0167 >= .01, alpha / 2 = .025 < .03: the second fails, the third keeps its level.
  adjusted, levels = holm([0.03, 0.01, 0.04])
  np.testing.assert_allclose(adjusted, [0.06, 0.03, 0.06])
  np.testing.assert_allclose(levels, [0.025, 0.05 / 3, 0.025])


def test_smallest_detectable_difference_of_normal_differences():
  """margin + (z(1 - alpha / 2K) + z(.8)) standard errors: many subjects, one seed, K arms."""
  normal = stats.norm.ppf((np.arange(400) + 0.5) / 400)[None]
  for k in (1, 4):
    arms = {"ref": np.zeros((1, 400))} | {f"arm {i}": normal for i in range(k)}
    found = compare(arms, reference="ref", margin=0.01, resamples=39_999)
    c = found["arm 0"]
    z = stats.norm.ppf(1 - 0.025 / k) + stats.norm.ppf(0.8)
    assert c.standard_error == pytest.approx(normal.std(ddof=1) / 20)
    assert c.smallest_detectable == pytest.approx(0.01 + z * c.standard_error, rel=0.02)


def test_one_wrong_verdict_in_twenty_at_most():
  """At a true difference equal to the margin, "better" for any of 3 arms is an error."""
  random = np.random.default_rng(6)
  wrong = 0
  for _ in range(200):
    arms = {"ref": np.zeros((5, 12))}
    for arm in "abc":
      parts = [s * random.normal(size=n) for s, n in ((0.01, (5, 1)), (0.03, 12), (0.01, (5, 12)))]
      arms[arm] = sum(parts, start=np.full((5, 12), 0.01))
    found = compare(arms, reference="ref", resamples=999)
    wrong += any(c.verdict == "better" for c in found.values())
  assert wrong <= 12  # 200 * 0.025 = 5 expected at most, + 3 deviations


def test_the_result_is_a_function_of_its_arguments():
  arms = {arm: jnp.asarray(table) for arm, table in scores(0.01).items()}
  assert compare(arms, reference="plain") == compare(arms, reference="plain")


def test_two_columns_fill_results_and_report():
  updates, compute = scores(0.06, 0.0), scores(0.03)
  rows = comparison_table(
    {"equal updates": updates, "equal compute": compute}, reference="plain", margin=0.02
  )
  assert [(r["column"], r["arm"]) for r in rows] == [
    ("equal updates", "arm 0"),
    ("equal updates", "arm 1"),
    ("equal compute", "arm 0"),
  ]
  assert set(rows[0]) == {"column", *Comparison._fields}
  assert files.plain(rows)[0]["verdict"] == "better"
  header, cells = comparison_cells(rows)
  assert len(header) == 1 + 2 * 5 and [len(line) for line in cells] == [11, 11]
  assert cells[1][6:] == [None] * 5  # arm 1 has no run of equal compute
  assert "undecided, equivalent" in cells[1] and "better" in cells[0]
  assert "equal compute: verdict" in Report("t").table(header, cells).html()


@pytest.mark.parametrize(
  "arms, settings, text",
  [
    ({"a": [[0.1]], "b": [[0.2]]}, {"reference": "c"}, "reference"),
    ({"a": [[0.1]]}, {"reference": "a"}, "an arm beside"),
    ({"a": [[0.1, 0.2]], "b": [[0.2]]}, {"reference": "a"}, "one shape"),
    ({"a": [[0.1, 0.2]], "b": [[0.2, math.nan]]}, {"reference": "a"}, "arm 'b'.*1 that are NaN"),
    ({"a": [[0.1]], "b": [[0.2]]}, {"reference": "a", "margin": -0.1}, "margin"),
    ({"a": [0.1, 0.2], "b": [0.2, 0.3]}, {"reference": "a"}, "one axis for each"),
    ({"a": [[0.1, 0.2]], "b": [[0.2, 0.3]]}, {"reference": "a", "alpha": 2.0}, "alpha"),
  ],
)
def test_bad_arguments_are_named(arms, settings, text):
  with pytest.raises(InputError, match=text):
    compare(arms, **settings)
