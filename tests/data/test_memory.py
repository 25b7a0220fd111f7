"""What a memory keeps, and that its policies choose what they say."""

import itertools

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.streams import memory
from medjax.data.streams.memory import Memory, Reservoir


def test_a_memory_never_holds_more_than_its_bound():
  held = Memory(per_centre=3)
  for k, name in enumerate("abcdefgh"):
    held = (
      held.store(name, memory.random(10, 3, seed=k))
      if k == 0
      else held.store(name, [10 * k + i for i in memory.random(10, 3, seed=k)])
    )
    assert len(held.indices) == 3 * (k + 1) == len(set(held.indices))
  with pytest.raises(InputError, match="at most 3 cases of z, got 4"):
    held.store("z", [100, 101, 102, 103])
  with pytest.raises(InputError, match="a centre that is not stored"):
    held.store("a", [200])
  with pytest.raises(InputError, match="cases that are not stored"):
    held.store("z", [held.indices[0]])


def test_random_takes_every_case_alike_and_all_of_few():
  assert memory.random(3, 20, seed=0) == (0, 1, 2)
  counts = np.bincount([i for s in range(2000) for i in memory.random(8, 2, seed=s)], minlength=8)
  # 2000 draws of 2 in 8: 500 each, standard deviation sqrt(2000 / 4 * 3 / 4) = 19.4
  assert np.all(np.abs(counts - 500) < 4 * 19.4)


def test_a_reservoir_is_uniform_over_all_that_was_offered():
  def kept(seed):
    reservoir = Reservoir(4, seed).offer(range(5)).offer(range(5, 12))
    assert len(reservoir.items) == 4 and reservoir.num_seen == 12
    return reservoir.items

  counts = np.bincount([i for seed in range(3000) for i in kept(seed)], minlength=12)
  # 4 of 12 each time: 1000 each, standard deviation sqrt(3000 / 3 * 2 / 3) = 25.8
  assert np.all(np.abs(counts - 1000) < 4 * 25.8)


def test_a_reservoir_below_its_bound_keeps_all():
  assert Reservoir(9, 0).offer([4, 2]).offer([7]).items == (4, 2, 7)


def test_the_buffer_of_the_released_code_is_no_bounded_memory():
  centres = {"a": range(40), "b": range(40, 50)}
  turns = [memory.redrawn(centres, 20, 0, turn) for turn in range(7)]
  assert all(len(turn) == 30 for turn in turns)
  seen = {i for turn in turns for i in turn if i < 40}
  assert len(seen) > 30  # of 40, where a memory of 20 has 20
  assert memory.redrawn(centres, 20, 0, 3) == turns[3]


def test_herding_follows_the_mean_by_brute_force():
  features = np.random.default_rng(0).normal(size=(7, 3))
  chosen = []
  for count in range(1, 5):  # every candidate tried at every step
    candidates = [i for i in range(7) if i not in chosen]
    far = [np.linalg.norm(features.mean(0) - features[[*chosen, i]].mean(0)) for i in candidates]
    chosen.append(candidates[int(np.argmin(far))])
    assert memory.herding(features, count) == tuple(chosen)
  assert sorted(memory.herding(features, 20)) == list(range(7))


def test_diverse_takes_one_of_each_direction():
  # Three tight bundles of gradients: any set without two of a bundle has the smallest cosines.
  random = np.random.default_rng(1)
  gradients = np.repeat(np.eye(3) * [[1.0], [5.0], [0.2]], 4, 0)
  gradients = gradients * random.uniform(0.5, 2, (12, 1)) + 1e-3 * random.normal(size=(12, 3))
  chosen = memory.diverse(gradients, 3)
  assert sorted(i // 4 for i in chosen) == [0, 1, 2]


def test_diverse_opposes_what_it_has_by_brute_force():
  gradients = np.random.default_rng(2).normal(size=(8, 4))
  unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
  chosen = list(memory.diverse(gradients, 5))
  totals = [sum(unit[i] @ unit[j] for j in range(8) if j != i) for i in range(8)]
  assert chosen[0] == int(np.argmin(totals))
  for n in range(1, 5):
    rest = [i for i in range(8) if i not in chosen[:n]]
    cost = [sum(unit[i] @ unit[j] for j in chosen[:n]) for i in rest]
    assert chosen[n] == rest[int(np.argmin(cost))]
  pairs = itertools.combinations(chosen, 2)
  some = np.mean([unit[i] @ unit[j] for i, j in pairs])
  everyone = np.mean([unit[i] @ unit[j] for i, j in itertools.combinations(range(8), 2)])
  assert some < everyone


def test_features_that_are_not_finite_are_refused():
  with pytest.raises(InputError, match="finite gradients"):
    memory.diverse(np.array([[np.nan, 1.0]]), 1)


def test_equal_candidates_are_taken_in_order_however_their_sums_round():
  """Four people at the corners of a square, turned: all of them fit equally well, at first."""
  corners = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
  for angle in np.linspace(0.1, 1.5, 20):
    turned = corners @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    assert memory.herding(turned, 2) == (0, 2)
    assert memory.diverse(turned, 2) == (0, 2)
