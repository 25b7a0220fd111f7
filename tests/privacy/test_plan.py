"""The plan: what it refuses, what it says, and that its parts agree."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from medjax.check import InputError
from medjax.data.simulated.procedural import ProceduralAnatomy
from medjax.privacy import DPPlan, Vault, noise
from medjax.privacy.accounting import effective_multiplier
from medjax.privacy.quantile import QuantileClipping
from medjax.privacy.statement import up
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
    ({"max_norm": math.inf}, "max_norm in"),
    ({"max_norm": 1e-46}, "max_norm in"),
    ({"max_sample_size": 4}, "max_sample_size of at least 8"),
    ({"noise_multiplier": None}, "got none"),
    ({"target_epsilon": 3.0}, "noise or target, not both"),
    ({"noise_multiplier": -1.0}, "noise multipliers >= 0"),
    ({"noise_multiplier": math.inf}, "finite noise multipliers"),
    ({"noise_multiplier": math.nan}, "finite noise multipliers"),
    ({"releases_per_sample": 0}, "releases_per_sample"),
    ({"adaptive_clipping": QuantileClipping(rate=0.0)}, "rate"),
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
  assert len(found.multipliers) == 4
  assert found.effective_multiplier == pytest.approx(effective_multiplier(found.multipliers))
  alone = plan(noise_multiplier=None, target_epsilon=2.0)
  assert found.multipliers[0] == pytest.approx(2 * alone.effective_multiplier)


def test_the_count_of_adaptive_clipping_is_paid_for():
  # Spec, variant 3: at 10, 20 and 30 times sigma the whole is .9950, .9988 and .9994 sigma.
  for ratio, share in ((10, 0.9950), (20, 0.9988), (30, 0.9994)):
    found = plan(noise_multiplier=0.593, adaptive_clipping=QuantileClipping(noise_ratio=ratio))
    assert found.multipliers == (0.593,)
    assert found.count_multiplier == pytest.approx(0.593 * ratio)
    assert found.effective_multiplier == pytest.approx(0.593 * share, rel=1e-4)
  rule = QuantileClipping(noise_ratio=2.0)
  for changes in ({}, {"releases_per_sample": 3}):
    aimed = plan(noise_multiplier=None, target_epsilon=2.0, adaptive_clipping=rule, **changes)
    free = plan(noise_multiplier=None, target_epsilon=2.0)
    assert aimed.effective_multiplier == pytest.approx(free.effective_multiplier, rel=1e-9)
    assert aimed.multipliers[0] > free.multipliers[0]
  assert "0.5 quantile" in aimed.statement()
  assert plan(adaptive_clipping=rule).manifest() != plan().manifest()


def test_printed_epsilons_are_roundedup():
  found = plan()
  printed = float(found.statement().split("epsilon = ")[1].split()[0])
  assert found.epsilon() <= printed <= found.epsilon() * 1.001
  for value in (1.2500001, 8.0, 7.99999, 0.0123449, 123451.0):
    assert value <= float(up(value)) <= value * 1.001
  assert up(8.0) == "8"


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
    ({"example_name": "letter"}, "Protected: one letter.", "add or remove one"),
    (
      {"unit": "group", "example_name": "visit", "group_name": "resident", "max_group_size": 2},
      "Protected: one resident, with every visit of that resident.",
      "At most 2 of a resident's examples",
    ),
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


def test_a_plan_keeps_its_fields_and_can_be_replaced():
  one = plan(noise_multiplier=2.0, releases_per_sample=4)
  assert one.noise_multiplier == 2.0 and one.effective_multiplier == 1.0
  longer = dataclasses.replace(one, num_steps=6)
  assert longer.multipliers == (2.0,) * 4 and longer.epsilon(steps=3) == one.epsilon()
  aimed = plan(noise_multiplier=None, target_epsilon=2.0)
  assert dataclasses.replace(aimed, num_steps=6).multipliers > aimed.multipliers


def test_tiny_deltas_are_accounted_for_by_renyi_divergences():
  # PLD's tables leave out a mass of 1e-15 that is not known to be harmless.
  setting = dict(num_examples=1000, expected_batch_size=100, num_steps=200)
  for delta in (1e-15, 1e-18):
    found = plan(delta=delta, noise_multiplier=4.0, **setting)
    assert found.epsilon() == found.epsilon("rdp") < 4
    assert "accountant RDP" in found.statement()
  aimed = plan(delta=1e-15, noise_multiplier=None, target_epsilon=2.0, **setting)
  assert 1.99 < aimed.epsilon() <= 2


def test_the_tail_that_the_noise_lacks_is_part_of_delta():
  # A release that noise alone cannot give has the probability that a person lifts it there.
  cut = stats.norm.sf(noise.LARGEST - 4)
  for count in (1, 10):
    found = noise.excess([0.25], num_released=1, num_samples=count)
    assert count * cut <= found <= count * cut * 1.001
  assert noise.excess([0.25], num_released=1, num_samples=1, epsilon=1.0) < 1e-25
  assert noise.excess([0.09], num_released=1, num_samples=1) == 1.0
  # By Renyi divergences, since PLD's tables for so little noise take ten seconds.
  weak = plan(noise_multiplier=0.095, num_steps=1, expected_batch_size=40, accountant="rdp")
  assert weak.epsilon() < math.inf and "epsilon is infinite" in weak.statement()


def test_samples_of_a_largest_size_cost_more_and_are_cut():
  noisy = functools.partial(plan, noise_multiplier=4.0)  # with less noise, tables take seconds
  free, bound = noisy(), noisy(max_sample_size=9)
  assert free.epsilon() < bound.epsilon() < math.inf
  assert noisy(max_sample_size=30).epsilon() == pytest.approx(free.epsilon(), rel=1e-6)
  stream = plan(max_sample_size=9, num_steps=200).stream(store(), chunk=9)
  sizes = [int(sum(chunk["weight"].sum() for chunk in stream(t))) for t in range(200)]
  assert max(sizes) == 9 and min(sizes) < 8
  assert all(len(stream(t)) == 1 for t in range(20))
  with pytest.raises(InputError, match="accountant='pld'"):
    plan(max_sample_size=9, accountant="rdp").epsilon()


def test_manifests_differ_where_plans_do_and_hold_no_secret():
  first, vault = plan().manifest(), Vault.from_seed(0)
  assert first == plan().manifest()
  for changes in ({"noise_multiplier": 1.1}, {"max_norm": 2.0}, {"vault": Vault.from_seed(1)}):
    assert plan(**changes).manifest() != first
  assert vault._secret.hex() not in str(first)


def test_a_vault_serves_one_data_set():
  vault = Vault.in_memory()
  plan(vault=vault).stream(store(), chunk=4)
  plan(vault=vault).stream(store(), chunk=8)
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
  with pytest.raises(InputError, match="40 examples of unknown subjects"):
    plan().stream({"x": np.zeros(40)}, chunk=4)
  with pytest.raises(InputError, match="a subject for every example"):
    plan(unit="group").stream({"x": np.zeros(40)}, chunk=4)
  with pytest.raises(InputError, match="40 examples in every array"):
    plan().stream({"x": np.zeros(40), "y": np.zeros(39)}, chunk=4)


def test_a_source_of_cases_can_be_drawn_from():
  source = ProceduralAnatomy(4, (8, 8), 3, 0, with_image=True)
  chunk = plan(num_examples=4, expected_batch_size=4).stream(source, chunk=4)(0)[0]
  assert chunk.image.shape == (4, 8, 8, 1) and sorted(chunk.index) == [0, 1, 2, 3]
