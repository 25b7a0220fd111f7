"""Private training against NumPy on a linear problem, where the gradient of example i is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods, privacy, rng, train
from medjax.check import InputError

FEATURES = 5
KEY = jax.random.key(7)
rows = np.random.default_rng(0).normal(size=(12, FEATURES)).astype(np.float32)
PARAMS = {"a": jnp.zeros(2), "b": jnp.zeros(3)}


def loss(params, example, key):
  """Linear: its gradient is the example, whatever the parameters."""
  del key
  return params["a"] @ example["x"][:2] + params["b"] @ example["x"][2:]


def plan(sigma=0.0, **options):
  defaults = dict(num_examples=1000, expected_batch_size=8, num_steps=5, delta=1e-5, max_norm=1.0)
  defaults |= dict(unit="example", noise_multiplier=sigma, vault=privacy.Vault.from_seed(1))
  return privacy.DPPlan(**{**defaults, **options})


def chunk(x, weight=None):
  size = len(x)
  weight = np.ones(size, np.float32) if weight is None else np.asarray(weight, np.float32)
  return {"x": x, "index": np.arange(size, dtype=np.int32), "weight": weight}


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def released(step, state, samples, key=KEY):
  """The released gradient: plain gradient descent at rate 1 moves by it."""
  new, metrics = jax.jit(step.update)(state, samples, key)
  return flat(state.params) - flat(new.params), new, metrics


def step_of(filter, sigma=0.0, **options):
  return methods.private(loss, optax.sgd(1.0), plan(sigma, **options), filter=filter)


def start(step):
  return step.init(PARAMS, KEY)


def clip(x, bound=1.0):
  return x * np.minimum(1, bound / np.linalg.norm(x, axis=-1, keepdims=True))


def cosines(x, r):
  return x @ r / np.linalg.norm(x, axis=-1) / np.linalg.norm(r)


def test_without_filter_and_noise_it_is_the_clipped_sum_over_the_expected_size():
  step = step_of(privacy.no_filter())
  got, _, metrics = released(step, start(step), chunk(rows))
  np.testing.assert_allclose(got, clip(rows).sum(0) / 8, rtol=1e-5, atol=1e-7)
  np.testing.assert_allclose(metrics["release_norm"], np.linalg.norm(got), rtol=1e-5)


def test_noise_has_the_plans_size_and_is_drawn_once_a_step():
  wide = lambda params, example, key: (params * example["x"]).sum()  # noqa: E731
  step = methods.private(wide, optax.sgd(1.0), plan(0.7, max_norm=2.0), filter=privacy.no_filter())
  state, nothing = step.init(jnp.zeros(100_000), KEY), chunk(np.zeros((2, 1), np.float32), [0, 0])
  first, _, _ = released(step, state, nothing)
  again, _, _ = released(step, state, nothing)
  other, _, _ = released(step, state, nothing, jax.random.key(8))
  np.testing.assert_array_equal(first, again)
  assert abs(first.std() / (0.7 * 2.0 / 8) - 1) < 0.01  # 4.5 standard errors
  assert abs(np.corrcoef(first, other)[0, 1]) < 0.015


FILTERS = {
  "none": (privacy.no_filter(), 0.5),
  "public": (privacy.public_reference(measure="cov", dropped=0.4, decay=0.5), 0.5),
  "fresh": (privacy.fresh_reference(), (1.0, 0.5)),
  "repaired": (privacy.repaired(threshold=0.0, half_range=0.5), (5.0, 0.5)),
  "paper": (privacy.paper_nonprivate(threshold=0.0, measure="std", dropped=0.4), 0.5),
}


def arms(name):
  filter, sigma = FILTERS[name]
  options = {"diagnostics": True} if name == "paper" else {}
  if isinstance(sigma, tuple):
    return step_of(filter, None, noise_multipliers=sigma, **options)
  return step_of(filter, sigma, **options)


def samples(t):
  return chunk(rows + t)


def in_chunks(t, size):
  whole = samples(t)
  return [jax.tree.map(lambda x: x[i : i + size], whole) for i in range(0, 12, size)]  # noqa: B023


@functools.cache
def compiled(name):
  """One program for the tests of a filter."""
  return jax.jit(arms(name).update)


@pytest.mark.parametrize(
  "name",
  [
    name if name in ("public", "repaired") else pytest.param(name, marks=pytest.mark.slow)
    for name in FILTERS
  ],
)
def test_training_in_chunks_is_that_by_whole_samples_but_for_rounding(name):
  step = arms(name)
  state = step.init(PARAMS, rng.stream(KEY, "init"))
  for t in range(3):
    state, _ = compiled(name)(state, samples(t), step.key_of(t))
  parts = train.fit(
    arms(name), lambda t: in_chunks(t, 4), PARAMS, KEY, num_steps=3, log_every=1, progress=False
  )
  np.testing.assert_allclose(flat(state.params), flat(parts.state.params), atol=2e-6)


@pytest.mark.parametrize("name", FILTERS)
def test_only_the_size_of_the_release_is_shown(name):
  step = arms(name)
  _, metrics = jax.eval_shape(step.update, start(step), samples(0), KEY)
  open_metrics = {"loss", "clipped", "cosine"} if name == "paper" else set()
  assert set(metrics) == {"release_norm"} | open_metrics


@pytest.mark.parametrize("name", ["none", "public", "fresh", "repaired"])
def test_an_empty_sample_releases_noise(name):
  step = arms(name)
  nothing = chunk(np.full((12, FEATURES), np.nan, np.float32), np.zeros(12))
  state = start(step)
  got = flat(state.params) - flat(compiled(name)(state, nothing, KEY)[0].params)
  assert np.isfinite(got).all()
  assert np.all(got != 0)


def test_a_reference_from_releases_decides_what_counts():
  filter = privacy.public_reference(threshold=0.2, decay=0.9, kept=0.5)
  step = step_of(filter)
  first, state, _ = released(step, start(step), chunk(rows))
  np.testing.assert_allclose(first, clip(rows).sum(0) / 8 / 0.5, rtol=1e-5, atol=1e-7)  # no past
  np.testing.assert_allclose(flat(state.extra.filter.mean), 0.1 * first, rtol=1e-5)
  second, state, _ = released(step, state, chunk(rows))
  kept = rows[cosines(rows, first) > 0.2]
  assert 0 < len(kept) < len(rows)
  np.testing.assert_allclose(second, clip(kept).sum(0) / 8 / 0.5, rtol=1e-5, atol=1e-7)
  mean = 0.9 * 0.1 * first + 0.1 * second
  np.testing.assert_allclose(flat(state.extra.filter.mean), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("measure", ["magnitude", "std", "cov"])
def test_the_reference_keeps_the_strongest_coordinates(measure):
  step = step_of(privacy.public_reference(decay=0.5, measure=measure, dropped=0.5))
  releases, state = [], start(step)
  for t in range(2):
    release, state, _ = released(step, state, samples(3 * t))
    releases.append(release)
  m = 0.25 * releases[0] + 0.5 * releases[1]
  std = np.sqrt(np.maximum(0.25 * releases[0] ** 2 + 0.5 * releases[1] ** 2 - m**2, 0))
  values = {"magnitude": np.abs(m), "std": std, "cov": std / np.abs(m)}[measure]
  strong = values > np.quantile(values, 0.5, method="lower")
  kept = rows[cosines(rows, np.where(strong, m, 0)) > 0]  # up to a positive factor
  got, _, _ = released(step, state, chunk(rows))
  np.testing.assert_allclose(got, clip(kept).sum(0) / 8, rtol=1e-5, atol=1e-7)


def test_soft_weights_are_a_sigmoid_of_the_cosine():
  step = step_of(privacy.public_reference(threshold=0.1, softness=0.3))
  first, state, _ = released(step, start(step), chunk(rows))
  second, _, _ = released(step, state, chunk(rows))
  weights = 1 / (1 + np.exp(-(cosines(rows, first) - 0.1) / 0.3))
  np.testing.assert_allclose(second, (weights[:, None] * clip(rows)).sum(0) / 8, rtol=1e-4)


def test_a_fresh_reference_is_released_from_the_same_sample():
  step = step_of(privacy.fresh_reference(), None, noise_multipliers=(1e-6, 1e-6))
  got, state, _ = released(step, start(step), chunk(rows))
  reference = clip(rows).sum(0)
  np.testing.assert_allclose(flat(state.extra.filter.mean), reference / 8, atol=1e-5)
  kept = rows[cosines(rows, reference) > 0]
  assert 0 < len(kept) < len(rows)
  np.testing.assert_allclose(got, clip(kept).sum(0) / 8, atol=1e-5)


@pytest.mark.parametrize("radius", [None, 0.3])
def test_the_repaired_filter_compares_with_the_raw_mean(radius):
  filter = privacy.repaired(threshold=0.3, half_range=0.5, radius=radius)
  step = step_of(filter, None, noise_multipliers=(1e-9, 1e-9))
  got, _, _ = released(step, start(step), chunk(rows))
  kept = rows[cosines(rows, rows.sum(0)) > 0.3]  # shrinking the vector moves no sign
  assert 0 < len(kept) < len(rows)
  np.testing.assert_allclose(got, clip(kept).sum(0) / 8, atol=1e-5)


@pytest.mark.parametrize("tau", [0.5, pytest.param(2.0, marks=pytest.mark.slow)])
def test_the_cosines_of_the_repaired_filter_get_noise_of_twice_their_radius(tau):
  alike, draws = np.tile(clip(rows[:1], 1e-3), (16, 1)), 2000
  filter = privacy.repaired(threshold=0.0, half_range=1.0, radius=3.0)
  step = step_of(filter, None, noise_multipliers=(tau, 1e-12), expected_batch_size=16)
  update = jax.jit(jax.vmap(step.update, (None, None, 0)))
  state, _ = update(start(step), chunk(alike), jax.random.split(KEY, draws))
  share = jax.vmap(optax.tree.norm)(state.params).mean() / 1e-3
  # All cosines are 1 and the vector is shrunk to length 3: its 16 entries are 3 / 4.
  want = jax.scipy.stats.norm.cdf((3 / 4) / (2 * tau * 3))
  assert abs(share - want) < 5 * 0.5 / np.sqrt(16 * draws)


@pytest.mark.parametrize(
  "measure",
  [None, "magnitude", "mean", *[pytest.param(m, marks=pytest.mark.slow) for m in ("std", "cov")]],
)
def test_the_published_algorithms(measure):
  dropped = 0.0 if measure is None else 0.4
  filter = privacy.paper_nonprivate(threshold=0.1, measure=measure, dropped=dropped)
  step = step_of(filter, diagnostics=True)
  got, _, metrics = released(step, start(step), chunk(rows))
  mean, noised = rows.sum(0), clip(rows)  # without noise
  keep = np.ones(FEATURES, bool)
  if measure:
    values = {
      "magnitude": np.abs(noised).mean(0),
      "mean": np.abs(noised.mean(0)),
      "std": noised.std(0),
      "cov": noised.std(0) / np.abs(noised.mean(0)),
    }[measure]
    keep = values > np.quantile(values, dropped, method="lower")
  chosen = cosines(noised[:, keep], mean[keep]) > 0.1
  assert 0 < chosen.sum() < len(rows)
  np.testing.assert_allclose(got, noised[chosen].mean(0), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(metrics["cosine"], cosines(got, mean), rtol=1e-4)
  np.testing.assert_allclose(metrics["clipped"], (np.linalg.norm(rows, axis=1) > 1).mean())
  np.testing.assert_allclose(metrics["loss"], 0, atol=1e-6)


def test_published_noise_is_that_of_dp_sgd_or_less_by_the_root_of_the_sample():
  many = np.zeros((64, FEATURES), np.float32)
  stds = {}
  for draw in ("shared", "per_example"):
    # Every example counts: at cosine 0 the threshold -1 is passed.
    step = step_of(
      privacy.paper_nonprivate(threshold=-1.0, draw=draw),
      0.5,
      diagnostics=True,
      expected_batch_size=64,
    )
    update, state = jax.jit(step.update), start(step)
    found = [flat(update(state, chunk(many), jax.random.key(t))[0].params) for t in range(300)]
    stds[draw] = np.std(found)
  np.testing.assert_allclose(stds["shared"], 0.5 / 64, rtol=0.1)
  np.testing.assert_allclose(stds["per_example"], 0.5 / 64 / 8, rtol=0.1)


def test_the_published_filter_is_refused_where_privacy_is_claimed():
  with pytest.raises(InputError, match="diagnostics=True"):
    step_of(privacy.paper_nonprivate(threshold=0.0), 1.0)


def test_a_plan_for_another_number_of_releases_is_refused():
  with pytest.raises(InputError, match="release"):
    step_of(privacy.fresh_reference(), 1.0)


def test_one_more_example_moves_the_sum_by_no_more_than_the_bound():
  step = step_of(privacy.public_reference(decay=0.9, kept=0.7))
  _, state, _ = released(step, start(step), chunk(rows))
  without, _, _ = released(step, state, chunk(rows))
  for scale in (1e-3, 1.0, 1e4, 1e12, np.inf, np.nan):
    for direction in (rows.sum(0), -rows.sum(0), rows[0]):
      more = np.concatenate([rows, scale * direction[None]]).astype(np.float32)
      moved, _, _ = released(step, state, chunk(more))
      assert np.linalg.norm(moved - without) <= (1 + 1e-5) / 8 / 0.7


def test_multiplicity_averages_over_keys_before_clipping():
  def noisy(params, example, key):
    return params @ (example["x"] + jax.random.normal(key, (FEATURES,)))

  step = methods.private(
    noisy, optax.sgd(1.0), plan(max_norm=1e6), filter=privacy.no_filter(), multiplicity=4000
  )
  got, _, _ = released(step, step.init(jnp.zeros(FEATURES), KEY), chunk(rows[:2]))
  np.testing.assert_allclose(got, rows[:2].sum(0) / 8, atol=5 * np.sqrt(2 / 4000) / 8)
