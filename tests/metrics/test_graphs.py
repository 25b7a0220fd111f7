"""F1 of graphs is the harmonic mean of precision and recall, and sees each edge once."""

import numpy as np

from medjax.metrics import graph_score


def test_f1_is_the_harmonic_mean_and_the_same_both_ways():
  random = np.random.default_rng(0)
  for _ in range(50):
    found, right = (random.choice(12, random.integers(1, 9)).tolist() for _ in range(2))
    one, other = graph_score(found, right), graph_score(right, found)
    assert (one.precision, one.recall) == (other.recall, other.precision)
    shares = {one.precision, one.recall}
    mean = 0.0 if 0.0 in shares else 2 / (1 / one.precision + 1 / one.recall)
    np.testing.assert_allclose([one.f1, other.f1], mean, rtol=1e-12)
    assert graph_score([*found, *found], right) == one
