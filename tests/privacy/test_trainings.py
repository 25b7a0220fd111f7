"""A stopped run goes on as itself, another pays; samples are the plan's; evaluators are named."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, methods, privacy, train
from medjax.check import InputError

N, SIZE, STEPS, D = 60, 12, 6, 3
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
STORE = {"x": X, "y": (X[:, 0] > 0).astype(np.float32), "subject": np.arange(N)}
KEY = jax.random.key(0)


def square(params, example, key):
  del key
  return jnp.square(example["x"] @ params - example["y"])


def absolute(params, example, key):
  del key
  return jnp.abs(example["x"] @ params - example["y"])


def plan_of(vault, **changes):
  base = dict(num_examples=N, expected_batch_size=SIZE, num_steps=STEPS, delta=1e-3, max_norm=1.0)
  base |= dict(unit="example", noise_multiplier=4.0, vault=vault)
  return privacy.DPPlan(**{**base, **changes})


class Stop(Exception):
  pass


def run(
  vault,
  rate=0.5,
  start=0.0,
  *,
  loss=square,
  stop_at=None,
  stream=lambda s: s,
  plan=None,
  fit=None,
  **changes,
):
  """Trains; returns the plan and the parameters after each step."""
  plan = plan_of(vault, **changes) if plan is None else plan
  step, own, seen = methods.private(loss, optax.sgd(rate), plan), plan.stream(STORE, chunk=16), {}
  drawn = stream(own)

  def stopping(t):
    if t == stop_at:
      raise Stop
    return drawn(t)

  def note(state):
    seen[int(state.step)] = np.asarray(state.params, np.float64)
    return {}

  options = dict(num_steps=STEPS, progress=False, eval_every=1) | (fit or {})
  options["evaluators"] = {"seen": note, **options.get("evaluators", {})}
  try:
    train.fit(step, stopping, jnp.full(D, start), KEY, **options)
  except Stop:
    pass
  return plan, own, seen


def releases(seen, rate, start=0.0):
  states = {0: np.full(D, start), **seen}
  return {t: (states[t] - states[t + 1]) / rate for t in states if t + 1 in states}


@pytest.fixture
def opened(tmp_path):
  """`opened()` opens one and the same vault anew, as another process would."""
  held = []

  def again():
    for vault in held:
      vault.close()
    held.append(privacy.Vault.open(tmp_path / "vault"))
    return held[-1]

  yield again
  held[-1].close()


def test_a_run_killed_before_its_first_checkpoint_goes_on_as_itself(opened):
  _, _, first = run(opened(), stop_at=4)
  plan, _, again = run(opened())
  for t in first:
    np.testing.assert_array_equal(first[t], again[t])
  assert [one.num_released for one in plan.vault.trainings] == [STEPS]
  assert f"after {STEPS} samples" in plan.statement()


def test_a_run_goes_on_from_its_checkpoint_as_itself(opened, tmp_path):
  _, _, whole = run(privacy.Vault.from_seed(0))
  options = {"workdir": tmp_path / "run", "checkpoint_every": 2}
  run(opened(), stop_at=5, fit=options)
  plan, _, _ = run(opened(), fit=options)
  assert len(plan.vault.trainings) == 1 and plan.vault.reserved == STEPS
  assert len(whole) == STEPS


CHANGES = {
  "noise and optimiser": dict(rate=0.05),
  "initial parameters": dict(start=3.0),
  "gradients": dict(loss=absolute),
  "noise_multipliers '5.' (was '4.')": dict(noise_multiplier=5.0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_training_is_refused_in_one_line_that_says_what_it_would_cost(opened, what):
  run(opened(), stop_at=4)
  with pytest.raises(InputError) as refused:
    run(opened(), **CHANGES[what])
  text = str(refused.value)
  assert f"(changed: {what}" in text and "of which 4 samples are released" in text
  assert "restarts='pay'" in text and "\n" not in text
  whole = plan_of(None, num_steps=STEPS + 4).epsilon()
  if "noise_multiplier" not in CHANGES[what]:
    assert f"epsilon {privacy.statement.up(whole)} in all" in text


def test_diverged_lower_the_rate_go_on(opened, tmp_path):
  """Stopped at 5, gone on from the checkpoint of 4 at a lower rate: 5 + 2 samples are paid for."""
  options = {"workdir": tmp_path / "run", "checkpoint_every": 2}
  _, own, first = run(opened(), stop_at=5, fit=options)
  plan, anew, second = run(opened(), 0.05, restarts="pay", fit=options)
  assert [(one.first, one.reserved) for one in plan.vault.trainings] == [(0, 5), (4, STEPS)]
  text = plan.statement()
  assert "7 samples (5 + 2, in 2 trainings of one vault)" in text
  whole = plan_of(None, num_steps=7).epsilon()
  assert f"epsilon = {privacy.statement.up(whole)} at" in text and whole > plan.epsilon()

  # Step 4 was released twice, from the same state, of other people and with other noise. The
  # stream of the first run, whose vault is closed, still draws what it drew.
  def total(stream, t):
    chunks = [grads.clipped_sum(square, 1.0)(jnp.asarray(first[t], jnp.float32), c, KEY).grads
              for c in stream(t)]  # fmt: skip
    return np.sum(chunks, 0) / SIZE

  a, b = releases(first, 0.5)[4], (first[4] - second[5]) / 0.05
  noise = (a - total(own, 4)) - (b - total(anew, 4))
  assert np.abs(noise).max() > 0.02  # its std is .47; with the noise of the first it was 4e-8
  # Killed once more, the second training goes on as itself: nothing more is paid.
  plan, _, third = run(opened(), 0.05, restarts="pay", fit=options)
  assert plan.statement() == text


def test_the_checkpoint_that_a_training_starts_from_is_part_of_it(opened, tmp_path):
  options = {"workdir": tmp_path / "run", "checkpoint_every": 2}
  run(opened(), stop_at=3, fit=options)
  run(opened(), 0.05, restarts="pay", stop_at=4, fit=options)  # from 2 on
  with pytest.raises(InputError, match="changed: the checkpoint that it starts from"):
    run(opened(), 0.05)  # the same program from step 0 has other states at steps 2 and 3


def test_another_population_cannot_pay(opened):
  run(opened(), stop_at=2)
  with pytest.raises(InputError, match="repeated_subjects 'False'"):
    run(opened(), restarts="pay", repeated_subjects=True)


FOREIGN = {
  "everybody": lambda s: lambda t: [{**STORE, "weight": np.ones(N), "index": np.arange(N)}],
  "thrice": lambda s: lambda t: s(t) * 3,
  "a part": lambda s: lambda t: s(t)[:1],
  "the same every time": lambda s: lambda t: s(0),
  "one too late": lambda s: lambda t: s(max(t - 1, 0)),
  "others in their place": lambda s: lambda t: swapped(s(t)),
}


def swapped(sample):
  sample[0] = {**sample[0], "x": X[:16]}
  return sample


@pytest.mark.parametrize("name", FOREIGN)
def test_samples_that_are_not_the_plan_s_are_refused(name):
  with pytest.raises(InputError, match="the sample that plan.stream draws"):
    run(privacy.Vault.in_memory(), stream=FOREIGN[name])


def test_a_stream_that_was_drawn_ahead_is_the_plan_s():
  plan, _, seen = run(privacy.Vault.in_memory(), stream=lambda s: lambda t: s(t))
  assert len(seen) == STEPS and plan.vault.reserved == STEPS


def test_an_update_by_hand_is_refused_where_it_would_release_something():
  plan = plan_of(None)
  step = methods.private(square, optax.sgd(0.1), plan)
  state = step.init(jnp.zeros(D), KEY)
  with pytest.raises(InputError, match="made by train.fit"):
    jax.jit(step.update)(state, STORE, KEY)
  with pytest.raises(InputError, match="train with train.fit"):
    plan.noise_key(0)
  methods.private(square, optax.sgd(0.1), plan_of(privacy.Vault.from_seed(0))).update(
    state, jax.tree.map(jnp.asarray, STORE), KEY
  )


def test_a_step_that_has_lost_its_secret_keys_is_refused():
  plan = plan_of(None)
  step = dataclasses.replace(methods.private(square, optax.sgd(0.1), plan), key_of=None)
  with pytest.raises(InputError, match="one without key_of"):
    train.fit(step, plan.stream(STORE, chunk=16), jnp.zeros(D), KEY, num_steps=1, progress=False)


def test_the_statement_is_of_what_was_released():
  plan = plan_of(privacy.Vault.in_memory())
  assert f"the {STEPS} samples that are planned; nothing is released yet" in plan.statement()
  run(None, plan=plan, stop_at=2)
  assert f"epsilon = {privacy.statement.up(plan.epsilon(steps=2))} at" in plan.statement()
  assert f"after 2 of {STEPS} samples" in plan.statement()


def test_evaluators_are_named_and_choose_nothing_by_those_who_are_protected():
  def score(state):
    return {"value": 0.0}

  options = {"evaluators": {"train": score}, "keep_best": "train/value"}
  with pytest.raises(InputError, match="no choice of a state by people who may be protected"):
    run(privacy.Vault.in_memory(), fit=options)
  options["evaluators"] = {"others": privacy.on_public_data(score)}
  plan, _, _ = run(privacy.Vault.in_memory(), fit={**options, "keep_best": "others/value"})
  text = plan.statement()
  assert "these evaluators printed of the states of the training: seen;" in text
  assert "that others measure nobody of the data, as was declared" in text


def test_two_devices_run_the_program_of_one(opened):
  run(opened(), stop_at=3)
  plan, _, _ = run(opened(), fit={"mesh": train.data_mesh(jax.devices()[:2])})
  assert len(plan.vault.trainings) == 1


def test_plans_that_protect_nobody_are_free():
  for changes in (dict(vault=privacy.Vault.from_seed(0)), dict(vault=None, diagnostics=True)):
    plan = plan_of(**changes)
    run(None, 0.5, 0.0, plan=plan)
    run(None, 0.1, 1.0, plan=plan)
    assert plan.secrets.reserved == STEPS and len(plan.secrets.trainings) == 1
  assert plan.epsilon() == math.inf
