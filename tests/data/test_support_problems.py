"""Problems of a query and its support: what a batch holds, who meets whom, how tasks balance."""

import numpy as np
import pytest

from medjax import data
from medjax.check import InputError


def families():
  random = np.random.default_rng(0)
  people = random.integers(0, 3, (5, 8, 8)).astype(np.int32)
  people[:, 0, 0] = np.arange(5) + 10  # says whose map it is; too few voxels to be a task
  people[0][people[0] == 2] = 0
  shapes = data.random_shapes(4, (8, 8), 5, seed=0)
  return [data.TaskFamily("people", people), data.TaskFamily("shapes", shapes, is_template=True)]


def test_the_query_is_another_person_and_everyone_has_the_class():
  stream = data.support_problems(families()[:1], 3, 16, seed=0)
  seen = set()
  for step in range(4):
    batch = stream(step)
    for maps, target in zip(batch["maps"], batch["target"], strict=True):
      who = (maps[:, 0, 0] - 10).tolist()
      assert len(set(who)) == 4 and target in (1, 2)
      assert ((maps == target).sum((1, 2)) >= 8).all()
      assert target == 1 or 0 not in who  # person 0 lacks class 2
      seen.add((int(target), *who))
  assert len(seen) > 20
  again = data.support_problems(families()[:1], 3, 16, seed=0)(3)
  assert all((again[name] == batch[name]).all() for name in batch)


def test_with_few_people_the_query_is_no_pair_of_its_own_support():
  batch = data.support_problems(families()[:1], 7, 16, seed=0)(0)
  who = batch["maps"][:, :, 0, 0]
  assert not (who[:, :1] == who[:, 1:]).any()


def test_a_template_is_repeated_and_absent_maps_come_when_asked_for():
  batch = data.support_problems(families()[1:], 3, 8, seed=0)(0)
  assert (batch["maps"] == batch["maps"][:, :1]).all()
  people = families()[0].maps.copy()
  people[2:][people[2:] == 1] = 0
  one = [data.TaskFamily("people", people)]
  batch = data.support_problems(one, 3, 64, seed=0, absent_fraction=1.0)(0)
  asked = batch["target"] == 1
  has = (batch["maps"] == 1).any((2, 3))[asked]
  assert has[:, 1].all() and 0.1 < has[:, [0, 2, 3]].mean() < 0.8


def test_balances_share_the_draws_as_they_say():
  tasks = [data.SupportTask(0, 1, 30), data.SupportTask(0, 2, 10), data.SupportTask(1, 1, 60)]
  shares = {
    f.__name__: f(tasks) / f(tasks).sum() for f in (data.by_family, data.by_task, data.by_map)
  }
  np.testing.assert_allclose(shares["by_family"], [0.25, 0.25, 0.5])
  np.testing.assert_allclose(shares["by_task"], [1 / 3] * 3)
  np.testing.assert_allclose(shares["by_map"], [0.3, 0.1, 0.6])
  alone = lambda tasks: np.array([t.target == 2 and t.family == 0 for t in tasks], float)  # noqa: E731
  batch = data.support_problems(families(), 2, 16, seed=0, balance=alone)(0)
  assert (batch["target"] == 2).all()


def test_shapes_are_many_and_their_own():
  maps = data.random_shapes(6, (12, 10), 4, seed=1)
  assert all(2 <= len(np.unique(one)) <= 4 for one in maps)
  assert (maps[2] == data.random_shapes(3, (12, 10), 4, seed=1)[2]).all()
  assert len({one.tobytes() for one in maps}) == 6


def test_maps_without_a_task_are_refused():
  empty = data.TaskFamily("empty", np.zeros((2, 8, 8), np.int32))
  with pytest.raises(InputError, match="a class of 8 voxels or more in some map"):
    data.support_problems([empty], 2, 1, seed=0)
  other = data.TaskFamily("other", np.ones((2, 4, 8), np.int32))
  with pytest.raises(InputError, match="maps of other"):
    data.support_problems([empty, other], 2, 1, seed=0)
