"""Correlated noise: its covariance, what one unit moves, its samples, its cost, and its audit."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods, privacy, train
from medjax.check import InputError
from medjax.privacy import accounting, audit, noise, statement
from medjax.privacy.correlated import Factor

N, SIZE, STEPS, D = 60, 6, 12, 3
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)
STORE = {"x": X, "y": (X[:, 0] > 0).astype(np.float32), "subject": np.arange(N)}
FACTOR = Factor((614, 461), 6)  # three bands
BANDED = privacy.BandedNoise(3, 6, (0.6, 0.45))
KEY = jax.random.key(0)


def loss_fn(params, example, key):
  del key
  return jnp.square(example["x"] @ params - example["y"])


def plan_of(mechanism=BANDED, **changes):
  base = dict(num_examples=N, expected_batch_size=SIZE, num_steps=STEPS, delta=1e-3, max_norm=1.0)
  base |= dict(unit="example", noise_multiplier=2.0, vault=privacy.Vault.from_seed(3))
  return privacy.DPPlan(**{**base, "mechanism": mechanism, **changes})


def fit(plan, *, stop=STEPS, **options):
  step, stream = methods.private(loss_fn, optax.sgd(0.5), plan), plan.stream(STORE, chunk=16)
  start = jnp.zeros(D)
  return train.fit(step, stream, start, KEY, num_steps=stop, progress=False, **options).state.params


def sequence(factor, multiplier=1.0, zeros=(1,)):
  """`(key, sums [window, *zeros]) -> releases` of one window, step by step."""

  def run(key, sums):
    own = jax.random.split(key, factor.window)
    steps = np.arange(factor.window)
    back = np.maximum(steps[:, None] - steps, -1)
    order = np.where(back >= 0, back, steps[:, None])  # the first key again beyond the start
    return jax.vmap(lambda keys, total: added(keys, total, factor, multiplier))(own[order], sums)

  return run


def added(keys, total, factor, multiplier):
  size = dict(multiplier=multiplier, sensitivity=1.0, magnitude=1.0)
  return noise.added(keys, total, factor=factor, **size)


def test_the_noise_has_the_covariance_of_the_inverse_matrix():
  draws = 20_000
  keys = jax.random.split(KEY, FACTOR.window)
  steps = np.arange(FACTOR.window)
  order = np.where(steps[:, None] >= steps, steps[:, None] - steps, steps[:, None])
  run = jax.jit(
    jax.vmap(lambda own: added(own, jnp.zeros(draws), FACTOR, 2.0)),
  )
  seen = np.asarray(run(keys[order]), np.float64)
  inverse = np.linalg.inv(FACTOR.matrix())
  expected = (2.0 * FACTOR.norm) ** 2 * inverse @ inverse.T
  # 6 standard errors of a covariance, sqrt((S_ij^2 + S_ii S_jj) / n)
  spread = np.sqrt((expected**2 + np.outer(*[np.diag(expected)] * 2)) / draws)
  assert (np.abs(seen @ seen.T / draws - expected) < 6 * spread).all()
  white = FACTOR.matrix() @ seen  # independent, one for each step
  assert np.abs(white @ white.T / draws / (2.0 * FACTOR.norm) ** 2 - np.eye(6)).max() < 0.06
  # Whole numbers in, rounded down: C n - N is below one grid in every entry.
  grid = 2.0 ** (math.frexp(2.0 * FACTOR.norm)[1] - 27 + FACTOR.spare_digits)
  assert (np.abs(seen / grid - np.round(seen / grid)) == 0).all()


def test_one_unit_moves_no_more_than_the_norm_in_each_of_its_steps():
  """By brute force over all patterns in which steps of one unit lie `bands` apart."""
  steps, window = 12, FACTOR.window
  whole = np.kron(np.eye(steps // window), FACTOR.matrix())
  worst = {}
  for pattern in itertools.product((0, 1), repeat=steps):
    at = np.flatnonzero(pattern)
    if len(at) == 0 or (np.diff(at) < FACTOR.bands).any():
      continue
    for signs in itertools.product((-1, 1), repeat=len(at)):  # extreme points: all gradients +-C
      x = np.zeros(steps)
      x[at] = signs
      worst[len(at)] = max(worst.get(len(at), 0.0), np.linalg.norm(whole @ x))
  assert max(worst) == -(-steps // FACTOR.bands)
  for count, moved in worst.items():
    assert moved <= math.sqrt(count) * FACTOR.norm + 1e-12
  assert worst[1] == pytest.approx(FACTOR.norm)
  # Without the schema a unit moves more: that is what cyclic samples are for.
  assert np.linalg.norm(whole @ np.ones(steps)) > math.sqrt(12) * FACTOR.norm


def test_one_band_is_dp_sgd_bit_for_bit_and_a_resumed_run_goes_on_with_its_noise(tmp_path):
  np.testing.assert_array_equal(fit(plan_of(None)), fit(plan_of(privacy.BandedNoise(1))))
  whole = fit(plan_of())
  # Stopped in the middle of a window, and by another process for all that the vault knows.
  fit(plan_of(), stop=8, workdir=tmp_path, checkpoint_every=8)
  np.testing.assert_array_equal(fit(plan_of(), workdir=tmp_path), whole)


def test_keys_reach_back_to_the_start_of_the_window_and_no_further():
  vault = privacy.Vault.from_seed(1)
  own = [jax.random.key_data(vault.noise_key(t)) for t in range(6)]
  for t, expected in ((0, (0, 0, 0, 0)), (2, (2, 1, 0, 2)), (3, (3, 2, 1, 0)), (5, (5, 4, 5, 5))):
    seen = jax.random.key_data(vault.noise_key(t, 4))
    np.testing.assert_array_equal(seen, [own[s] for s in expected])


def test_a_unit_is_drawn_in_every_third_step_alone():
  stream = plan_of().stream(STORE, chunk=16)
  parts, drawn = stream.parts(), {u: set() for u in range(N)}
  counts = []
  for t in range(300):
    sample = np.concatenate([chunk["index"] for chunk in stream(t)])
    counts.append((sample >= 0).sum())
    for unit in sample[sample >= 0]:
      drawn[unit].add(t % 3)
  assert all(drawn[u] == {parts[u]} for u in range(N))
  assert np.mean(counts) == pytest.approx(SIZE, abs=6 * math.sqrt(SIZE / 300))
  assert 10 < np.bincount(parts, minlength=3).min()


@pytest.mark.parametrize("steps", [1, 3, 7, 12])
def test_the_cost_is_that_of_jax_privacy(steps):
  pytest.importorskip("jax_privacy")
  from dp_accounting import pld
  from jax_privacy.experimental import accounting

  event = accounting.amplified_bandmf_event(2.0, steps, num_bands=3, sampling_prob=3 * SIZE / N)
  expected = pld.PLDAccountant().compose(event).get_epsilon(1e-3)
  assert plan_of().epsilon(steps=steps) == pytest.approx(expected, rel=1e-6)


def test_the_coefficients_are_those_of_jax_privacy_and_help():
  pytest.importorskip("jax_privacy")
  factor = privacy.BandedNoise(4).factor(16)
  assert factor.window == 16 and factor.subdiagonals == tuple(sorted(factor.subdiagonals)[::-1])
  sums = np.tril(np.ones((16, 16)))
  error = factor.norm * np.linalg.norm(sums @ factor.inverse())
  assert error < 0.7 * np.linalg.norm(sums)  # that of independent noise


def test_the_noise_is_calibrated_and_the_statement_says_how_it_was_made():
  plan = plan_of(noise_multiplier=None, target_epsilon=1.5)
  assert 1.5 * 0.999 < plan.epsilon() <= 1.5
  fit(plan, stop=7)
  said = plan.statement()
  assert "cyclic Poisson samples" in said and "3 parts" in said and "probability 0.3" in said
  assert "3 bands" in said and "every 6 steps" in said and "7 of 12 samples" in said
  assert f"epsilon = {statement.up(plan.epsilon(steps=7))} " in said


def test_a_restart_pays_for_what_it_releases_itself(tmp_path):
  vault = privacy.Vault.open(tmp_path / "vault")
  fit(plan_of(vault=vault), stop=7)
  with pytest.raises(InputError, match="mechanism"):
    fit(plan_of(None, vault=vault))
  plan = plan_of(None, vault=vault, restarts="pay")
  fit(plan)
  both = accounting.cost(
    (
      accounting.Spending(2.0, N, 3 * SIZE, 3),  # 7 steps, of which a unit is in 3 at most
      accounting.Spending(2.0, N, SIZE, STEPS),
    ),
    1e-3,
  )
  assert f"epsilon = {statement.up(both.epsilon)} " in plan.statement()
  vault.close()


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (dict(sampling="fixed"), "Poisson samples"),
    (dict(adaptive_clipping=privacy.QuantileClipping()), "Poisson samples"),
    (dict(max_sample_size=12), "Poisson samples"),
    (dict(releases_per_sample=2), "Poisson samples"),
    (dict(mechanism=privacy.BandedNoise(11, coefficients=(0.5,) * 10)), "at most 10 bands"),
    (dict(mechanism=privacy.BandedNoise(3, 2, (0.5, 0.5))), "window"),
    (dict(mechanism=privacy.BandedNoise(3, 6, (0.5, 1.5))), "coefficients in"),
    (dict(mechanism=privacy.BandedNoise(3, 6, (0.5,))), "2 coefficients"),
  ],
)
def test_what_is_not_accounted_for_is_refused(changes, said):
  with pytest.raises(InputError, match=said):
    plan_of(**changes)


def test_a_filter_is_refused():
  with pytest.raises(InputError, match="no filter"):
    methods.private(loss_fn, optax.sgd(0.5), plan_of(), filter=privacy.public_reference())


WITHOUT = np.zeros((FACTOR.window, 1), np.float32)


def game(pattern):
  """One unit of gradient 1 in these steps, who knows the matrix."""
  present = WITHOUT.copy()
  present[list(pattern)] = 1.0
  moved = FACTOR.matrix() @ present
  direction = FACTOR.matrix().T @ moved  # <C x, C release>: the best score against this noise
  return audit.Game(
    f"steps {pattern}", WITHOUT, present, lambda r: (jnp.asarray(direction, r.dtype) * r).sum()
  )


def verdict(release, pattern, rounds):
  found = audit.audit_step(
    release, [game(pattern)], claim=math.sqrt(rounds) / 2.0, key=KEY, trials=20_000, held_out=2_000
  )
  return found.verdict


@pytest.mark.slow
def test_the_audit_lets_the_mechanism_pass_and_refutes_two_wrong_ones():
  sound = sequence(FACTOR, 2.0)
  assert verdict(lambda data, key: sound(key, data), (1, 4), 2) == "not refuted"
  # Scaled as if its draws were independent releases: |c| is missing.
  wrong = sequence(FACTOR, 2.0 / FACTOR.norm)
  assert verdict(lambda data, key: wrong(key, data), (1, 4), 2) == "refuted"
  # Sampled without the schema: a unit in neighbouring steps, paid for as two rounds.
  assert verdict(lambda data, key: sound(key, data), (1, 2), 2) == "refuted"
