"""Every claim of the check against what random programs really do."""

import random

import pytest

from tests.privacy.sensitivity import claims


@pytest.mark.parametrize("seed", range(8))
def test_every_claim_on_intermediate_values_holds_in_numbers(seed):
  """Owners, intervals, norms and relations between them, on random programs."""
  claims.check(claims.program(random.Random(seed)), seed)


def test_accepted_random_releases_move_by_no_more_than_their_bound():
  count, tightest = 0, 0.0
  for seed in range(20):
    ratio = claims.largest_move(claims.program(random.Random(seed), ends=True), seed)
    count += ratio is not None
    tightest = max(tightest, ratio or 0.0)
  assert count >= 5
  assert 0.99 < tightest < 1 + 1e-5
