"""White-box games: sound releases pass, tightly; the published filter and seeded mistakes do not.

Each pair of seeded mistake and sound counterpart plays the game that is made for the mistake.
"""

import functools

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dp_accounting import pld
from scipy import stats

from medjax import grads
from medjax.check import InputError
from medjax.privacy import audit
from medjax.privacy.audit import tails
from medjax.types import Step, TrainState
from tests.privacy import mechanisms, mistakes
from tests.privacy.mechanisms import EXPECTED, LOSS, PARAMS, REFERENCE, SIGMA

MU = 1 / SIGMA
GAMES = audit.gradient_games(
  PARAMS, mechanisms.examples(EXPECTED - 1), max_norm=1.0, direction=REFERENCE
)
GAME = {game.name: game for game in GAMES}
GAME["tail"] = audit.tail_game(PARAMS, mechanisms.examples(2), max_norm=1.0)
GAME["support"] = audit.support_game(
  PARAMS, mechanisms.examples(2), max_norm=1.0, released=lambda z: np.float32(SIGMA) * z / EXPECTED
)
TWO = audit.only_first(GAME["aligned"])
OUTSIDE = audit.outside(GAME["aligned"])


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
  """A program that runs for a tenth of a second is not worth seconds of optimisation."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


def played(release, games, claim=MU, seed=0, **options):
  options = {"trials": 20_000, "held_out": 5_000, "chunk": 5_000} | options
  return audit.audit_step(release, games, claim=claim, key=jax.random.key(seed), **options)


@pytest.mark.parametrize("release", [mechanisms.dp_sgd, mechanisms.public_reference])
def test_sound_releases_pass_every_game_and_the_bound_is_tight(release):
  found = played(release, GAMES)
  assert found.verdict == "not refuted", found.report()
  assert found.mu_lower >= 0.9 * MU
  by_game = {result.game: result.mu_lower for result in found.results}
  assert by_game["aligned"] >= 0.9 * MU
  assert by_game["alone"] >= 0.9 * MU
  assert by_game["nan"] == 0.0  # it adds exactly nothing


PAIRS = [
  (mechanisms.without_clipping, None, GAME["aligned"]),
  (mechanisms.noise_per_sample, None, GAME["aligned"]),
  (mechanisms.mean_over_kept, None, GAME["alone"]),
  (mechanisms.reused_key, mechanisms.two_steps, TWO),
  (mechanisms.noise_per_microbatch, mechanisms.in_microbatches, GAME["aligned"]),
  (mechanisms.batch_statistics, None, GAME["outlier"]),
  (mechanisms.nan_leak, None, GAME["nan"]),
  (mechanisms.unclipped_last_leaf, None, GAME["last leaf"]),
  (mechanisms.second_query_outside, None, OUTSIDE),
]


@pytest.mark.parametrize(
  ("mistaken", "sound", "game"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS]
)
def test_seeded_mistakes_are_refuted_and_their_counterparts_are_not(mistaken, sound, game):
  found = played(mistaken, [game])
  assert found.verdict == "refuted", found.report()
  if sound is not None:  # else it plays this game in another test
    assert played(sound, [game]).verdict == "not refuted"


@pytest.mark.parametrize("name", mistakes.GAMES)
def test_every_mistake_is_refuted_by_the_game_that_is_made_for_it(name):
  release, game, options = mistakes.GAMES[name]
  found = played(release, [GAME[game]], **options)
  assert found.verdict == "refuted", found.report()


def test_the_noise_of_medjax_passes_the_games_about_noise():
  games = GAME["one number"], GAME["tail"]._replace(trials=100_000), GAME["support"]
  found = played(mechanisms.with_own_noise, games)
  assert found.verdict == "not refuted", found.report()
  by_game = {result.game: result for result in found.results}
  assert by_game["one number"].mu_lower >= 0.9 * MU
  assert by_game["support"].mu_lower < 0.3  # as impossible without the canary as with it


@pytest.mark.parametrize("draw", ["shared", "per_example"])
def test_published_filter_is_refuted(draw):
  """Its claim for one step of 64: tau = .780 beside sigma = .593, sensitivities as printed."""
  game = audit.gradient_games(PARAMS, mechanisms.examples(64), max_norm=1.0)[2]
  claim = (SIGMA**-2 + 0.780**-2) ** 0.5
  release = functools.partial(mechanisms.published, draw=draw)
  found = played(release, [game], claim, trials=2_000, held_out=1_000, chunk=1_000)
  assert (game.name, found.verdict) == ("flip", "refuted"), found.report()
  assert found.mu_lower > 1.2 * claim


def test_a_second_release_must_be_paid_for():
  """A count from the same sample, with the same multiplier: mu is sqrt(2) / sigma."""
  both = (GAME["aligned"].without,) * 2, (GAME["aligned"].with_canary,) * 2
  honest = 2**0.5 * MU
  found = played(mechanisms.second_query_inside, [OUTSIDE, audit.Game("both", *both)], honest)
  assert found.verdict == "not refuted", found.report()
  of_others, of_sample = found.results
  assert (of_others.claim, of_others.mu_lower) == (0.0, 0.0)
  assert of_sample.mu_lower >= 0.9 * honest
  assert of_sample._replace(claim=MU).verdict == "refuted"


def test_several_steps_compose():
  def four(batch, key):
    return jax.vmap(mechanisms.dp_sgd, (None, 0))(batch, jax.random.split(key, 4))

  found = played(four, [GAME["aligned"]], 2 * MU)
  assert found.verdict == "not refuted"
  assert found.mu_lower >= 0.9 * 2 * MU


def test_two_queries_of_one_sample_may_not_be_amplified_one_by_one():
  """Both of multiplier 1/2 from one sample of probability .1, at delta = .025."""
  probability, multiplier, delta = 0.1, 0.5, 0.025

  def release(is_member, key):
    sample, first, second = jax.random.split(key, 3)
    value = is_member * jax.random.bernoulli(sample, probability)
    return value + multiplier * jnp.stack([jax.random.normal(k) for k in (first, second)])

  def epsilon(noise_multiplier, count):
    accountant = pld.PLDAccountant(value_discretization_interval=1e-3)
    event = dp_accounting.GaussianDpEvent(noise_multiplier)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(probability, event), count)
    return float(accountant.get_epsilon(delta))

  game = audit.Game("one person", 0.0, 1.0, score=jnp.sum)
  found = played(release, [game], (epsilon(multiplier, 2), delta), trials=200_000)
  assert found.verdict == "refuted", found.report()
  honest = epsilon(multiplier / 2**0.5, 1)
  assert found.results[0]._replace(claim=(honest, delta)).verdict == "not refuted"


def gaussian(value, key):
  return value + jax.random.normal(key, (3,))


def test_a_score_and_threshold_fixed_beforehand():
  """N(0, 1) against N(1, 1) at 1/2: rates Phi(-1/2), on either side."""
  game = audit.Game("shift", jnp.zeros(3), jnp.array([0.0, 1.0, 0.0]), lambda x: x[1], 0.5)
  (found,) = played(gaussian, [game], 1.0).results
  expected = 0.308538 * 20_000
  assert np.abs(np.array(found.errors) - expected).max() < 5 * (expected * 0.69) ** 0.5
  for errors, rate in zip(found.errors, found.rates, strict=True):  # half of .001 for each
    assert stats.binom.cdf(errors, 20_000, rate) == pytest.approx(0.0005, rel=1e-6)
  assert 0.9 < found.mu_lower < 1.0


def test_side_and_direction_are_found_on_held_out_trials():
  """No score, and a canary that lowers what is released."""
  game = audit.Game("shift", jnp.zeros(3), jnp.array([0.0, -2.0, 0.0]))
  assert 1.8 < played(gaussian, [game], 2.0).mu_lower < 2.0
  by_score = game._replace(score=lambda x: x[1])
  assert 1.8 < played(gaussian, [by_score], 2.0).mu_lower < 2.0


def test_worlds_without_a_difference_show_none():
  found = played(gaussian, [audit.Game("same", jnp.zeros(3), jnp.zeros(3))], 0.0)
  assert (found.mu_lower, found.verdict) == (0.0, "not refuted")
  assert found.results[0].epsilon_lower(1e-6) == found.results[0].epsilon_any(1e-6) == 0.0


def test_a_release_without_noise_is_seen_through():
  found = played(lambda x, key: x, [audit.Game("bare", jnp.zeros(2), jnp.ones(2))])
  assert found.results[0].errors == (0, 0)


def test_chunks_change_nothing():
  game = audit.Game("shift", jnp.zeros(3), jnp.ones(3), jnp.sum, 0.5)
  runs = [
    played(gaussian, [game], trials=999, chunk=chunk).results[0].errors for chunk in (999, 64)
  ]
  assert runs[0] == runs[1]


def test_several_games_share_the_error():
  game = audit.Game("shift", jnp.zeros(3), jnp.ones(3), jnp.sum, 0.5)
  one = played(gaussian, [game], trials=1_000)
  two = played(gaussian, [game, game], trials=1_000)
  assert one.results[0].confidence == pytest.approx(0.999)
  assert two.results[0].confidence == pytest.approx(0.9995)
  assert two.results[0].errors == one.results[0].errors
  assert two.results[0].mu_lower < one.results[0].mu_lower
  assert two.report().count("shift") == 2
  assert "absence of evidence" in two.report()


def test_planted_gradients_and_no_others_change():
  batch = GAME["aligned"].with_canary
  key = jax.random.key(0)
  found = jax.jit(grads.per_sample(LOSS))(PARAMS, batch, key).grads
  plain = jax.jit(grads.per_sample(mechanisms.network_loss))(PARAMS, batch.example, key).grads
  for name in PARAMS:
    np.testing.assert_allclose(found[name][-1], batch.gradient[name][-1], rtol=1e-6)
    np.testing.assert_allclose(found[name][:-1], plain[name][:-1], rtol=1e-6)
  assert float(optax.tree.norm(jax.tree.map(lambda g: g[-1], found))) == pytest.approx(
    100, rel=1e-5
  )


def test_neighbours_differ_by_one_person():
  for game in GAMES:
    assert float(game.with_canary.weight.sum() - game.without.weight.sum()) == 1.0
    others = [jax.tree.map(lambda x: x[:-1], w) for w in (game.without, game.with_canary)]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), *others)
    assert all(jax.tree.leaves(same)), game.name


def test_the_values_of_jax_normal_are_those_that_it_draws():
  """All of a draw are among them; ends and middle of the table are in order."""
  drawn = jax.random.normal(jax.random.key(0), (1000,))
  near = tails._place(drawn)[:, None] + np.arange(-24, 25)[None]
  assert (jax.jit(tails.jax_normal)(near) == drawn[:, None]).any(1).all()
  some = np.asarray(tails.jax_normal(jnp.arange(0, 2**23, 999)))
  assert (np.diff(some) > 0).all()


def test_parameters_may_be_one_array():
  games = audit.gradient_games(np.ones(4), np.ones((2, 3)), max_norm=2.0, factor=10.0)
  np.testing.assert_allclose(games[0].with_canary.gradient[-1], 10.0 * np.ones(4))  # 20 / sqrt(4)
  outlier = next(game for game in games if game.name == "outlier")
  np.testing.assert_allclose(outlier.with_canary.example[-1], 10.0 * np.ones(3))


def test_release_of_a_step_is_its_state_afterwards():
  def update(state, batch, key):
    gradient = mechanisms.dp_sgd(batch, key)
    params = jax.tree.map(jnp.subtract, state.params, gradient)
    return state.replace(params=params, extra=gradient), {}

  state = TrainState(0, PARAMS, (), {}, ())
  step = Step(lambda params, key: state, update)

  @jax.jit
  def both(batch, key):
    seen = audit.of_step(step, state, seen=lambda after: after.extra)
    return audit.of_step(step, state)(batch, key), seen(batch, key)

  params, gradient = both(GAME["aligned"].with_canary, jax.random.key(0))
  for name in PARAMS:
    np.testing.assert_allclose(params[name], PARAMS[name] - gradient[name], atol=1e-6)


def test_refuses_audits_that_say_nothing():
  game = audit.Game("large", jnp.zeros(300), jnp.ones(300))
  with pytest.raises(InputError, match="pass a score in the Game"):
    played(lambda x, key: x, [game], held_out=1_000)
  with pytest.raises(InputError, match="at least one game"):
    played(gaussian, [])
  with pytest.raises(InputError, match="confidence"):
    played(gaussian, [game], confidence=1.0)
  with pytest.raises(InputError, match="trials"):
    played(gaussian, [game], trials=0)
