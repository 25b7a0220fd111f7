"""Audits of the program that trains: its Step, its loss, its loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods, privacy, train
from medjax.check import InputError
from medjax.privacy import audit
from tests.privacy import mechanisms, mistakes
from tests.privacy.mechanisms import PARAMS

KEY = jax.random.key(0)
CODES = np.arange(7, dtype=np.uint8)


def plan(**options):
  usual = {"num_examples": 100, "expected_batch_size": 8, "num_steps": 1, "noise_multiplier": 1.0}
  usual["vault"] = privacy.Vault.from_seed(0)
  return privacy.DPPlan(delta=1e-3, max_norm=1.0, unit="example", **usual | options)


def sample(**entries):
  return {**entries, "weight": np.ones(7, np.float32), "index": np.arange(7)}


def test_real_people_and_the_real_step_pass_and_the_bound_is_tight():
  features, label = mechanisms.examples(7)
  batch = sample(x=8 * features, y=label)  # gradients beyond the clipping norm

  def loss(params, example, key):
    return mechanisms.network_loss(params, (example["x"], example["y"]), key)

  step = methods.private(loss, optax.sgd(1.0), plan())
  games = audit.people_games(loss, PARAMS, batch, rows=(0,), key=KEY)
  release = audit.of_step(step, step.init(PARAMS, KEY))
  found = audit.audit_step(release, games, claim=1.0, key=KEY)
  assert found.verdict == "not refuted", found.report()
  gradient = jax.grad(loss)(PARAMS, {"x": batch["x"][0], "y": label[0]}, KEY)
  norm = min(float(optax.tree.norm(gradient)), 1.0)  # the mu of this one person
  assert 0.9 * norm < found.mu_lower + 0.05 < norm + 0.05


def test_a_rule_that_only_the_real_loss_meets_is_refuted():
  batch = sample(code=CODES)
  games = audit.people_games(mistakes.table_loss, jnp.zeros((256, 2)), batch, rows=(3,), key=KEY)
  found = audit.audit_step(mistakes.wrapped_lookup, games, claim=1.0, key=KEY)
  assert found.verdict == "refuted", found.report()


def test_the_table_of_bytes_is_clipped_by_the_step():
  """The rule that the case above repeats was that of `clipped_sum` once."""
  batch, table = sample(code=CODES), jnp.zeros((256, 2))
  step = methods.private(mistakes.table_loss, optax.sgd(1.0), plan())
  games = audit.people_games(mistakes.table_loss, table, batch, rows=(3,), key=KEY)
  release = audit.of_step(step, step.init(table, KEY))
  found = audit.audit_step(release, games, claim=1.0, key=KEY, trials=5000, held_out=2000)
  assert found.verdict == "not refuted", found.report()
  assert found.mu_lower > 0.8


def test_a_batch_without_weights_is_refused():
  with pytest.raises(InputError, match="weight"):
    audit.people_games(mistakes.table_loss, jnp.zeros((256, 2)), {"code": CODES}, (0,), key=KEY)


NUM_CANARIES = 200


def scores_of_a_training(folder, included, multiplier):
  """A whole training that stops half-way and goes on, and how much each canary looks included.

  Canary i has gradient e_i; one that was left out stands in the data with gradient 0.
  """
  data = {"x": np.eye(NUM_CANARIES, dtype=np.float32) * included[:, None]}
  data["subject"] = np.arange(NUM_CANARIES)
  start = jnp.zeros(NUM_CANARIES)
  options = {"num_examples": NUM_CANARIES, "expected_batch_size": NUM_CANARIES, "num_steps": 4}
  for steps in (2, 4):
    vault = privacy.Vault.open(folder / "vault")
    drawn = plan(**options, noise_multiplier=multiplier, vault=vault)
    step = methods.private(lambda p, example, key: p @ example["x"], optax.sgd(1.0), drawn)
    found = train.fit(
      step,
      drawn.stream(data, chunk=NUM_CANARIES),
      start,
      KEY,
      num_steps=steps,
      workdir=folder / "run",
      checkpoint_every=2,
      progress=False,
    )
    vault.close()
  assert int(found.state.step) == 4
  return np.asarray(start - found.state.params)


@pytest.mark.parametrize(("multiplier", "verdict"), [(4.0, "not refuted"), (0.05, "refuted")])
def test_a_whole_training_with_resume_leaks_what_it_says(tmp_path, multiplier, verdict):
  """Everybody is in all of 4 samples: with noise multiplier 4 that is mu = sqrt(4) / 4 ..."""
  included = np.random.default_rng(3).random(NUM_CANARIES) < 0.5
  scores = scores_of_a_training(tmp_path, included, multiplier)
  half = NUM_CANARIES // 2
  options = {"num_in": half, "num_out": half, "confidence": 0.95}
  found = audit.one_run(scores, included, claim=0.5, **options)
  assert found.verdict == verdict, found.report()
  # 4 sums of noise of std 4 each over the canary's 4: the mean squared deviation is 4 sigma^2.
  moved = scores * NUM_CANARIES - 4.0 * included
  assert np.mean(moved**2) == pytest.approx(4 * multiplier**2, rel=0.5)
  assert "it would have shown mu =" in found.report()
