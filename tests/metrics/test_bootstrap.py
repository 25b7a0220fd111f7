"""The hierarchical bootstrap against enumeration, analysis of variance and Student's interval."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from medjax.check import InputError
from medjax.metrics import bootstrap

TABLE = np.array([[0.10, 0.40, 0.25], [0.15, 0.70, 0.20]])  # 2 seeds, 3 subjects


def all_resamples(values):
  """Mean of each of the n^n equally likely resamples of n values."""
  return np.array([np.mean(r) for r in itertools.product(values, repeat=len(values))])


def random_effects(random, shape, *, spread):
  """Tables [table, *levels]; `spread` maps the axes that an effect varies over to its deviation."""
  total = np.zeros(shape)
  for axes, sd in spread.items():
    size = [n if axis in (0, *axes) else 1 for axis, n in enumerate(shape)]
    total = total + sd * random.normal(size=size)
  return total


def test_resampled_means_converge_to_the_enumeration():
  values = np.array([0.1, 0.55, 0.3])
  exact = np.round(all_resamples(values), 12)
  drawn = bootstrap.resampled_means(values[None], 50_000, np.random.default_rng(0))[0]
  for outcome in np.unique(exact):
    p = np.mean(exact == outcome)
    found = np.mean(np.abs(drawn - outcome) < 1e-9)
    assert abs(found - p) < 4.5 * math.sqrt(p * (1 - p) / len(drawn))


def test_blocks_of_weights_leave_the_draws_as_they_are(monkeypatch):
  values = np.random.default_rng(1).normal(size=(2, 7))
  whole = bootstrap.resampled_means(values, 100, np.random.default_rng(0))
  monkeypatch.setattr(bootstrap, "_CELLS", 7 * 30)
  blocks = bootstrap.resampled_means(values, 100, np.random.default_rng(0))
  np.testing.assert_allclose(blocks, whole, rtol=1e-12)


def test_draws_of_two_levels_converge_to_the_exact_distribution():
  """All 4 x 27 resamples, with the two chi-square factors integrated out."""
  deviations, errors = [], []
  for axis, n in ((1, 2), (0, 3)):
    means = TABLE.mean(axis)
    outcomes = (all_resamples(means) - TABLE.mean()) * math.sqrt(n / (n - 1))
    deviations.append(outcomes)
    errors.append(np.mean(outcomes**2))  # M_f: the variance of the enumeration itself
  residual = TABLE - TABLE.mean(1, keepdims=True) - TABLE.mean(0) + TABLE.mean()
  variance = sum(errors) - (residual**2).sum() / (2 * 1 * 3 * 2)
  share = math.sqrt(max(variance, *errors) / sum(errors))

  points = -np.log((np.arange(4000) + 0.5) / 4000)  # chi2(2) / 2 is exponential

  def below(x):
    """P(draw <= x): seeds have chi2(1), whose tail is erfc(sqrt(c / 2)) beyond c."""
    subjects = np.outer(deviations[1], points**-0.5).ravel()  # sqrt(2 / chi2(2))
    rest = (x - TABLE.mean()) / share - subjects
    total = 0.0
    for a in deviations[0]:  # P(a / |z| <= rest), z normal
      if abs(a) < 1e-12:
        total += np.mean(rest >= 0)
        continue
      tail = special.erf(np.abs(a) / np.maximum(np.abs(rest), 1e-300) / math.sqrt(2))
      p_beyond = np.where(rest * a > 0, tail, 1.0)  # P(|a / z| >= |rest|) on the side of a
      total += np.mean(np.where(a > 0, 1 - p_beyond, np.where(rest >= 0, 1.0, p_beyond)))
    return total / len(deviations[0])

  found = bootstrap.mean_distribution(TABLE[None], resamples=99_999, seed=3)
  np.testing.assert_allclose(found.level_errors[0], np.sqrt(errors), rtol=1e-9)
  np.testing.assert_allclose(found.standard_error[0], math.sqrt(max(variance, *errors)), rtol=1e-9)
  for x in (-1.0, 0.0, 0.2, 0.29, 0.31, 0.4, 0.6, 1.5):
    p = below(x)
    sampled = np.mean(found.draws[0] <= x)
    assert abs(sampled - p) < 4.5 * math.sqrt(p * (1 - p) / 99_999) + 1e-4, x


def test_normal_scores_of_one_level_give_students_interval():
  values = stats.norm.ppf((np.arange(40) + 0.5) / 40)[None]
  found = bootstrap.mean_distribution(values[None], resamples=99_999)
  low, high = bootstrap.bounds(found.draws[0], 0.05)
  half = stats.t.ppf(0.975, 39) * values.std(ddof=1) / math.sqrt(40)
  np.testing.assert_allclose([low, high], [-half, half], rtol=0.02)  # 99,999 draws


@pytest.mark.parametrize(
  "shape, spread",
  [
    ((4000, 3, 5), {(1,): 1.0, (2,): 2.0, (1, 2): 1.5}),
    ((4000, 2, 3, 4), {(1,): 1.0, (2,): 0.5, (3,): 2.0, (1, 3): 1.0, (1, 2, 3): 1.5}),
    ((4000, 3, 4), {(1,): 1.0, (1, 2): 2.0}),  # each seed tests other subjects
  ],
)
def test_variance_of_the_mean_is_unbiased(shape, spread):
  tables = random_effects(np.random.default_rng(0), shape, spread=spread)
  truth = sum(sd**2 / math.prod(shape[axis] for axis in axes) for axes, sd in spread.items())
  estimate = bootstrap.variance_of_mean(tables)
  assert abs(estimate.mean() - truth) < 4 * estimate.std() / math.sqrt(len(estimate))


def test_without_spread_among_subjects_only_seeds_count():
  seeds = np.array([0.2, 0.5, 0.6])
  found = bootstrap.mean_distribution(np.repeat(seeds[:, None], 4, axis=1)[None])
  alone = bootstrap.mean_distribution(seeds[None, :, None])
  np.testing.assert_allclose(found.draws, alone.draws, rtol=1e-9)
  np.testing.assert_allclose(found.standard_error, seeds.std(ddof=1) / math.sqrt(3), rtol=1e-9)


def test_no_spread_at_all_gives_a_point():
  interval = bootstrap.mean_interval(np.full((3, 4), 0.5))
  assert interval[:4] == (0.5, 0.5, 0.5, 0.0)


def test_order_of_seeds_and_subjects_changes_nothing_and_units_carry_over():
  random = np.random.default_rng(2)
  table = random.normal(size=(3, 6))
  mean, low, high, error, _ = bootstrap.mean_interval(table)
  shuffled = table[[2, 0, 1]][:, random.permutation(6)]
  np.testing.assert_allclose(bootstrap.mean_interval(shuffled)[:4], [mean, low, high, error])
  scaled = bootstrap.mean_interval(100 * table + 7)
  expected = [100 * mean + 7, 100 * low + 7, 100 * high + 7, 100 * error]
  np.testing.assert_allclose(scaled[:4], expected)


def test_one_seed_covers_subjects_only_and_one_score_nothing():
  table = np.array([[0.1, 0.4, 0.3, 0.7]])
  one_seed = bootstrap.mean_interval(table)
  assert one_seed.covers == ("subject",)
  assert one_seed == bootstrap.mean_interval(table[0], levels=("subject",))
  found = bootstrap.mean_distribution(table[None])
  assert np.isnan(found.level_errors[0, 0]) and found.level_errors[0, 1] > 0
  nothing = bootstrap.mean_interval([[0.5]])
  assert nothing.covers == () and nothing.mean == 0.5
  assert math.isnan(nothing.low) and math.isnan(nothing.standard_error)


def test_intervals_cover_where_the_plain_bootstrap_does_not():
  """3 seeds that differ more than subjects do: the textbook percentile interval covers 78 %."""
  random = np.random.default_rng(4)
  tables = random_effects(random, (500, 3, 10), spread={(1,): 3.0, (2,): 1.0, (1, 2): 1.0})
  draws = bootstrap.mean_distribution(tables, resamples=999).draws
  ends = np.array([bootstrap.bounds(row, 0.05) for row in draws])
  assert np.mean((ends[:, 0] <= 0) & (0 <= ends[:, 1])) > 0.925  # 0.95 - 2.6 errors
  weights = [
    np.stack([np.bincount(random.integers(0, n, n), minlength=n) / n for _ in range(999)])
    for n in (3, 10)
  ]
  plain = np.quantile(np.einsum("bs,tsi,bi->tb", weights[0], tables, weights[1]), [0.025, 0.975], 1)
  assert np.mean((plain[0] <= 0) & (0 <= plain[1])) < 0.85


def test_bounds_and_p_values_decide_alike():
  draws = np.sort(np.random.default_rng(5).normal(size=999))
  for alpha in (0.05, 0.1, 0.33):
    low, high = bootstrap.bounds(draws, alpha)
    for x in np.concatenate([draws[[10, 24, 25, 49]], [-2.0, -1.5, 0.0]]):
      assert (low > x) == (2 * bootstrap.p_not_above(draws, x) <= alpha)
      assert (high < -x) == (2 * bootstrap.p_not_above(-draws, x) <= alpha)


def test_cases_of_one_person_are_averaged_first():
  cases = np.array([[0.2, 0.9, 0.4, 0.6], [0.1, 0.8, 0.3, 0.2]])
  people = np.array([[0.3, 0.9, 0.6], [0.2, 0.8, 0.2]])
  found = bootstrap.mean_interval(cases, subjects=["b", "a", "b", "c"])
  np.testing.assert_allclose(found[:4], bootstrap.mean_interval(people)[:4])


@pytest.mark.parametrize(
  "arguments, text",
  [
    ({"scores": [[0.1, math.nan]]}, "finite scores"),
    ({"scores": [0.1, 0.2]}, "one axis for each of seed, subject"),
    ({"scores": [[0.1, 0.2]], "subjects": ["a"]}, "one subject for each of 2"),
    ({"scores": [[0.1, 0.2]], "alpha": 0.0}, "alpha"),
    ({"scores": [[0.1, 0.2]], "alpha": 1e-5}, "resamples"),
    ({"scores": [[0.1, 0.2]], "resamples": 10}, "resamples"),
  ],
)
def test_bad_arguments_are_named(arguments, text):
  with pytest.raises(InputError, match=text):
    bootstrap.mean_interval(**arguments)
