"""The plan: what it refuses, what it says, and that its parts agree."""

import math

import jax
import numpy as np
import pytest

from medjax.check import InputError
from medjax.privacy import DPPlan, Vault
from medjax.privacy.accounting import effective_multiplier
from medjax.types import Step

BASE = dict(
  num_examples=40,
  expected_batch_size=8,
  num_steps=3,
  delta=1e-3,
  max_norm=1.0,
  unit="example",
  noise_multiplier=1.0,
)


def plan(**changes):
  return DPPlan(**{**BASE, "vault": Vault.from_seed(0), **changes})


def store(size=40, people=None):
  people = np.arange(size) if people is None else people
  return {"x": np.arange(size, dtype=np.float32), "subject": np.asarray(people, np.int32)}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"max_norm": 0.0}, "max_norm"),
    ({"max_norm": -1.0}, "max_norm"),
    ({"max_norm": math.inf}, "finite max_norm"),
    ({"noise_multiplier": None}, "got none"),
    ({"target_epsilon": 3.0}, "noise or target, not both"),
    ({"noise_multiplier": -1.0}, "noise multipliers >= 0"),
    ({"noise_multiplier": 0.0, "target_epsilon": 3.0}, "noise or target, not both"),
    ({"noise_multiplier": None, "target_epsilon": 0.0}, "target_epsilon"),
    ({"delta": 0.0}, "delta"),
    ({"expected_batch_size": 41}, "at most 40 units"),
    ({"num_steps": 0}, "num_steps"),
    (
      {"noise_multiplier": None, "noise_multipliers": (1.0, 2.0), "releases_per_sample": 3},
      "each of 3",
    ),
  ],
)
def test_what_makes_no_sense_is_refused(changes, message):
  with pytest.raises(InputError, match=message):
    plan(**changes)


def test_a_large_delta_is_warned_of():
  with pytest.warns(UserWarning, match="not below 1 / 40"):
    plan(delta=0.1)


def test_the_noise_meets_the_target():
  found = plan(noise_multiplier=None, target_epsilon=2.0, releases_per_sample=4)
  assert found.epsilon() <= 2.0
  assert len(found.noise_multipliers) == 4
  assert found.noise_multiplier == pytest.approx(effective_multiplier(found.noise_multipliers))
  alone = plan(noise_multiplier=None, target_epsilon=2.0)
  assert found.noise_multipliers[0] == pytest.approx(2 * alone.noise_multiplier)


def test_epsilon_grows_with_the_steps_and_is_infinite_without_noise_or_with_diagnostics():
  costs = [plan().epsilon("rdp", steps=t) for t in range(4)]
  assert costs[0] == 0 and all(a < b for a, b in zip(costs, costs[1:], strict=False))
  assert plan(noise_multiplier=0.0).epsilon() == math.inf
  assert plan(diagnostics=True).epsilon() == math.inf
  with pytest.raises(InputError, match=r"steps in \[0, 3\]"):
    plan().epsilon(steps=4)


@pytest.mark.parametrize(
  ("changes", "start", "part"),
  [
    ({}, "Protected: one image.", "add or remove one"),
    ({"unit": "group"}, "Protected: one patient", "add or remove one"),
    ({"sampling": "fixed"}, "Protected: one image.", "replace one"),
    ({"repeated_subjects": True}, "Protected: one image.", "the patient is NOT protected"),
    ({"diagnostics": True}, "Protected: nothing", "epsilon is infinite"),
    ({"noise_multiplier": 0.0}, "Protected: nothing", "there is no noise"),
    ({}, "Protected: one image.", "not private once the seed is known"),
    ({}, "Protected: one image.", "tuning, several trainings, choice of a checkpoint"),
  ],
)
def test_the_statement_begins_with_what_is_protected(changes, start, part):
  text = plan(**changes).statement()
  assert text.startswith(start)
  assert part in text


def test_secrets_of_the_system_need_no_note():
  assert "seed" not in plan(vault=None).statement().split("Outside")[0]


def test_a_step_must_declare_its_releases():
  def step(count):
    return Step(lambda p, k: None, lambda s, b, k: None, releases_per_sample=count)

  plan().check_step(step(1))
  with pytest.raises(InputError, match="declares its releases"):
    plan().check_step(step(None))
  with pytest.raises(InputError, match="Step of 1 releases"):
    plan().check_step(step(2))
  plan(noise_multiplier=None, noise_multipliers=(1.0, 2.0)).check_step(step(2))


def test_keys_end_with_the_plan_and_are_reserved_first():
  one = plan()
  keys = [tuple(jax.random.key_data(one.noise_key(t)).tolist()) for t in range(3)]
  assert len(set(keys)) == 3
  assert one.vault.reserved == 3
  with pytest.raises(InputError, match="a step below 3"):
    one.noise_key(3)


def test_manifests_differ_where_plans_do_and_hold_no_secret():
  first, vault = plan().manifest(), Vault.from_seed(0)
  assert first == plan().manifest()
  for changes in ({"noise_multiplier": 1.1}, {"max_norm": 2.0}, {"vault": Vault.from_seed(1)}):
    assert plan(**changes).manifest() != first
  assert vault._secret.hex() not in str(first)


def test_a_vault_serves_one_plan_and_one_data_set():
  vault = Vault.in_memory()
  plan(vault=vault).stream(store(), chunk=4)
  plan(vault=vault).stream(store(), chunk=8)  # the same run in other chunks
  with pytest.raises(InputError, match="noise_multipliers '1.1'"):
    plan(vault=vault, noise_multiplier=1.1).stream(store(), chunk=4)
  other = store()
  other["x"][3] += 1
  with pytest.raises(InputError, match="data that this vault"):
    plan(vault=vault).stream(other, chunk=4)


def test_data_that_the_plan_does_not_describe_are_refused():
  with pytest.raises(InputError, match="40 units in the data"):
    plan().stream(store(39), chunk=4)
  pairs = np.repeat(np.arange(20), 2)
  with pytest.raises(InputError, match="40 examples of 20 subjects"):
    plan().stream(store(40, pairs), chunk=4)
  plan(repeated_subjects=True).stream(store(40, pairs), chunk=4)
  plan(unit="group", num_examples=20).stream(store(40, pairs), chunk=4)
  with pytest.raises(InputError, match="a subject for every example"):
    plan(unit="group").stream({"x": np.zeros(40)}, chunk=4)
  with pytest.raises(InputError, match="40 examples in every array"):
    plan().stream({"x": np.zeros(40), "y": np.zeros(39)}, chunk=4)
