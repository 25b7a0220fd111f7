"""Intervals of measures of a whole set, such as areas under curves, by drawing people anew.

A bootstrap draws m of the m people with replacement; a measure that takes weights sees each example
as often as its person was drawn. The interval holds the middle of the measures (percentiles). With
few positives it is too short: below about 10 people of either outcome say so instead.
"""

from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.metrics.bootstrap import Interval, bounds

_DRAWS_AT_ONCE = 256


def interval_over_people(
  measure: Callable[[jax.Array], jax.Array],
  subjects: Sequence[Hashable] | np.ndarray,
  *,
  alpha: float = 0.05,
  resamples: int = 1999,
  seed: int = 0,
) -> Interval:
  """Interval of `measure(weight)` over the people that examples belong to.

  >>> from medjax import metrics
  >>> scores, labels = jnp.arange(40.0) + 25 * (jnp.arange(40) % 2), jnp.arange(40) % 2
  >>> area = lambda weight: metrics.auroc(scores, labels, weight=weight)
  >>> found = interval_over_people(area, np.arange(40), resamples=199)
  >>> found.low < found.mean < found.high
  True

  Args:
    measure: [n] weights of the examples -> scalar; jittable. NaN where it has nothing to measure.
    subjects: [n] person of each example.
    alpha: 1 - confidence, in (0, 1).
    resamples: draws; with `seed` they fix the result.
  Returns:
    Interval whose mean is the measure of all examples of weight 1; draws without a measure (no
    positive was drawn) are left out. Low and high are NaN with one person, or if such draws are
    more than one in ten.
  Raises:
    InputError: alpha out of range, or too few resamples for it.
  """
  check.require(0 < alpha < 1, "alpha in (0, 1)", f"{alpha=}", "use 0.05 for 95 %")
  people, owner = np.unique(np.asarray(subjects), return_inverse=True)
  whole = float(measure(jnp.ones(len(owner))))
  nothing = Interval(whole, float("nan"), float("nan"), float("nan"), ())
  if len(people) == 1:
    return nothing
  generator = np.random.default_rng(seed)
  run = jax.jit(jax.vmap(measure))
  draws, even = [], np.full(len(people), 1 / len(people))
  for _ in range(-(-resamples // _DRAWS_AT_ONCE)):  # one shape, and so one compilation
    times = generator.multinomial(len(people), even, _DRAWS_AT_ONCE)
    draws.append(np.asarray(run(jnp.asarray(times[:, owner], jnp.float32)), np.float64))
  values = np.concatenate(draws)[:resamples]
  values = np.sort(values[np.isfinite(values)])
  if len(values) < 0.9 * resamples:
    return nothing
  low, high = bounds(values, alpha)
  return Interval(whole, low, high, float(values.std(ddof=1)), ("subject",))
