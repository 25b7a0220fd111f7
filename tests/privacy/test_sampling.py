"""Samples: who is in them, how often, and in what shape."""

import numpy as np
import pytest
from scipy import stats

from medjax.privacy import DPPlan, Vault

NUM, SIZE = 30, 6


def plan(seed=0, **changes):
  base = dict(num_examples=NUM, expected_batch_size=SIZE, num_steps=4000, delta=1e-6)
  base |= dict(max_norm=1.0, unit="example", noise_multiplier=1.0, vault=Vault.from_seed(seed))
  return DPPlan(**{**base, **changes})


def store(size=NUM):
  index = np.arange(size, dtype=np.int32)
  return {"x": index * 10.0, "index": index, "subject": index}


def members(sample):
  index = np.concatenate([chunk["index"] for chunk in sample])
  weight = np.concatenate([chunk["weight"] for chunk in sample])
  np.testing.assert_array_equal(weight > 0, index >= 0)
  return index[weight > 0]


def test_poisson_samples_are_independent_coins():
  stream = plan().stream(store(), chunk=4)
  coins = np.zeros((4000, NUM), bool)
  for t in range(4000):
    coins[t, members(stream(t))] = True
  counts = coins.sum(0)  # each Binomial(4000, 1/5)
  assert stats.chisquare(counts, np.full(NUM, counts.mean())).pvalue > 1e-4
  assert abs(counts.sum() - 4000 * SIZE) < 5 * np.sqrt(4000 * NUM * 0.2 * 0.8)
  sizes = np.bincount(coins.sum(1), minlength=NUM + 1)[:14]
  want = 4000 * stats.binom.pmf(np.arange(14), NUM, SIZE / NUM)
  assert stats.chisquare(sizes, want * sizes.sum() / want.sum()).pvalue > 1e-4
  together = np.cov(coins.T)[np.triu_indices(NUM, 1)]
  assert abs(together.mean()) < 5 * 0.16 / np.sqrt(4000 * len(together))


def test_chunks_have_one_shape_and_waste_less_than_one():
  stream = plan().stream(store(), chunk=4)
  for t in range(50):
    sample = stream(t)
    assert {chunk["x"].shape for chunk in sample} == {(4,)}
    drawn = members(sample)
    assert len(sample) == max(1, -(-len(drawn) // 4))
    for chunk in sample:
      real = chunk["weight"] > 0
      np.testing.assert_array_equal(chunk["x"][real], 10.0 * chunk["index"][real])


def test_an_empty_sample_is_one_chunk_of_padding():
  stream = plan(expected_batch_size=1).stream(store(), chunk=4)
  empty = [s for s in (stream(t) for t in range(60)) if not len(members(s))]
  assert empty  # each of 60 is empty with probability .36
  assert all(len(s) == 1 and (s[0]["index"] == -1).all() for s in empty)


def test_a_step_always_draws_the_same_and_others_draw_otherwise():
  first, again = plan().stream(store(), chunk=4), plan().stream(store(), chunk=8)
  other = plan(seed=1).stream(store(), chunk=4)
  samples = [members(first(t)).tolist() for t in range(20)]
  assert samples == [members(again(t)).tolist() for t in range(20)]
  assert samples != [members(other(t)).tolist() for t in range(20)]
  assert len({tuple(s) for s in samples}) > 15


def test_fixed_samples_have_one_size_and_no_one_twice():
  stream = plan(sampling="fixed").stream(store(), chunk=4)
  counts = np.zeros(NUM)
  for t in range(1000):
    drawn = members(stream(t))
    assert len(set(drawn.tolist())) == len(drawn) == SIZE
    counts[drawn] += 1
  assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("limit", [None, 2])
def test_a_group_comes_whole_or_up_to_its_limit(limit):
  people = np.array([7] * 3 + [2] * 1 + [5] * 4 + [9] * 2, np.int32)
  data = {"x": np.arange(10.0), "subject": people}
  arm = plan(num_examples=4, expected_batch_size=2, unit="group", max_group_size=limit)
  stream, seen = arm.stream(data, chunk=3), {}
  for t in range(40):
    for chunk in stream(t):
      assert chunk["members"]["x"].shape == (3, limit or 4)
      for unit, index, weight in zip(range(3), chunk["index"], chunk["weight"], strict=True):
        real = chunk["members"]["weight"][unit] > 0
        if not weight:
          assert index == -1 and not real.any()
          continue
        rows = chunk["members"]["x"][unit][real].astype(int)
        assert len(set(people[rows])) == 1 and len(set(rows)) == len(rows)
        assert len(rows) == min((people == people[rows[0]]).sum(), limit or 4)
        seen.setdefault(int(index), set()).update(rows.tolist())
  # Whoever is large is seen whole in the end, through other members each time.
  assert sorted(len(rows) for rows in seen.values()) == [1, 2, 3, 4]
