"""Combined gradients against the conditions that define them, by NumPy and SciPy in float64."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

from medjax.grads import combine
from tests.oracles import make_combine_values

KEY = jax.random.key(0)


def rows_of(name):
  random = np.random.default_rng(len(name))
  base = random.standard_normal((3, 4))
  return {
    "random": base,
    "opposed": np.array([[3.0, 1, 0, 0], [-2, 0.5, 1, 0], [0.1, -1, 0.2, 2]]),
    "sizes": base * np.array([[100.0], [1.0], [0.01]]),
    "agree": np.abs(base) + 0.1,
  }[name]


NAMES = ("random", "opposed", "sizes", "agree")
TWO = np.array([[4.0, 0, 0], [-1, 2, 0]])


ALL = {name: make for name, make in combine.TABLE.items() if isinstance(make(), combine.Combiner)}
ORACLE = json.loads(pathlib.Path(make_combine_values.HERE, "combine_values.json").read_text())


@functools.cache
def compiled(name):
  """One program for all tables of one shape."""
  combiner = ALL[name]()

  def both(rows, key):
    if combiner.weights is None:
      return combiner(rows, key)
    return combiner(rows, key), combiner.weights(combine.gramian_of_rows(rows), key)

  return jax.jit(both)


def run(combiner, rows):
  """Direction and weights, which have to agree."""
  small = jnp.asarray(rows, jnp.float32)
  vector, weights = (np.asarray(x, np.float64) for x in compiled(combiner.name)(small, KEY))
  np.testing.assert_allclose(weights @ rows, vector, atol=2e-5 * np.abs(rows).max())
  return vector, weights


@pytest.mark.parametrize("name", NAMES)
def test_mgda_is_the_shortest_convex_combination(name):
  """Its optimality condition: <g_i, d> >= |d|^2, with equality where the weight is positive."""
  rows = rows_of(name)
  d, w = run(combine.mgda(), rows)
  np.testing.assert_allclose(w.sum(), 1, rtol=1e-5)
  assert (w >= 0).all()
  products, size = rows @ d, d @ d
  scale = 1e-4 * (rows**2).sum(1).max() ** 0.5 * max(size, 1e-6) ** 0.5
  assert (products >= size - scale).all()
  np.testing.assert_allclose(products[w > 1e-3], size, atol=scale)


@pytest.mark.parametrize("name", NAMES)
def test_cagrad_solves_its_programme(name):
  """max of min_i <g_i, d> over a ball around the mean, by SLSQP on (d, t)."""
  rows = rows_of(name) / np.abs(rows_of(name)).max()
  mean = rows.mean(0)
  d, _ = run(combine.cagrad(0.5), rows)
  np.testing.assert_allclose(
    np.linalg.norm(d - mean), 0.5 * np.linalg.norm(mean), rtol=1e-4
  )  # the best one lies on the border
  found = optimize.minimize(
    lambda x: -x[-1],
    np.append(mean, (rows @ mean).min()),
    constraints=[
      {"type": "ineq", "fun": lambda x: rows @ x[:-1] - x[-1]},
      {"type": "ineq", "fun": lambda x: 0.25 * mean @ mean - ((x[:-1] - mean) ** 2).sum()},
    ],
    options={"maxiter": 500, "ftol": 1e-12},
  )
  assert (rows @ d).min() >= found.x[-1] - 2e-4 * np.abs(rows @ d).max()


@pytest.mark.parametrize("name", NAMES)
def test_imtl_g_projects_alike_on_all_tasks(name):
  rows = rows_of(name)
  d, w = run(combine.imtl_g(), rows)
  projections = rows @ d / np.linalg.norm(rows, axis=1)
  np.testing.assert_allclose(w.sum(), 1, rtol=1e-4)
  np.testing.assert_allclose(projections, projections.mean(), rtol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_config_has_one_cosine_with_all_tasks(name):
  rows = rows_of(name)
  d, _ = run(combine.config(), rows)
  cosines = rows @ d / np.linalg.norm(rows, axis=1) / np.linalg.norm(d)
  np.testing.assert_allclose(cosines, cosines.mean(), rtol=2e-3)
  # and the length is the sum of the projections
  np.testing.assert_allclose(np.linalg.norm(d), (rows @ d).sum() / np.linalg.norm(d), rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_nash_weights_are_the_inverse_of_each_tasks_gain(name):
  rows = rows_of(name)
  d, a = run(combine.nash_mtl(), rows)
  assert (a > 0).all()
  np.testing.assert_allclose(a * (rows @ d), 1, rtol=2e-3)


@pytest.mark.parametrize("name", NAMES[:2])
def test_aligned_rows_are_orthogonal_and_of_one_size(name):
  """Rows of the mean's own building blocks: w = B 1 / K with (B g)(B g)^T = l_min I."""
  rows = rows_of(name)
  d, _ = run(combine.aligned_mtl(), rows)
  values, vectors = np.linalg.eigh(rows @ rows.T)
  balance = np.sqrt(values[0]) * vectors @ np.diag(values**-0.5) @ vectors.T
  aligned = balance @ rows
  np.testing.assert_allclose(aligned @ aligned.T, values[0] * np.eye(len(rows)), atol=1e-9)
  np.testing.assert_allclose(d, aligned.mean(0), atol=1e-4 * np.abs(aligned).max())


@pytest.mark.parametrize("name", NAMES)
def test_upgrad_is_the_mean_of_projections_on_the_cone(name):
  """SciPy's non-negative least squares projects on {d: J d >= 0}: d = g + J^T u, u >= 0."""
  rows = rows_of(name)
  d, _ = run(combine.upgrad(), rows)
  projections = [g + optimize.nnls(rows.T, -g)[0] @ rows for g in rows]
  np.testing.assert_allclose(d, np.mean(projections, 0), atol=1e-4 * np.abs(rows).max())
  assert (rows @ d >= -1e-4 * np.abs(rows @ d).max()).all()


def test_pcgrad_of_two_takes_the_conflicting_part_out_of_each():
  rows = TWO
  d, _ = run(combine.pcgrad(), rows)
  first = rows[0] - rows[0] @ rows[1] / (rows[1] @ rows[1]) * rows[1]
  second = rows[1] - rows[0] @ rows[1] / (rows[0] @ rows[0]) * rows[0]
  np.testing.assert_allclose(d, first + second, rtol=1e-5)
  agree = rows_of("agree")
  np.testing.assert_allclose(run(combine.pcgrad(), agree)[0], agree.sum(0), rtol=1e-5)


def test_graddrop_keeps_a_sign_as_often_as_its_share_of_the_mass():
  rows = jnp.array([[3.0, 1.0], [-1.0, 2.0]])
  out = jax.vmap(lambda k: combine.graddrop()(rows, k))(jax.random.split(KEY, 4000))
  assert set(np.unique(out[:, 0])) == {-1.0, 3.0}
  # P = (1 + 2 / 4) / 2; a binomial share of 4000 lies within 5 of its standard deviations
  share = float((out[:, 0] == 3).mean())
  assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 4000)
  np.testing.assert_array_equal(out[:, 1], 3)


@pytest.mark.parametrize("name", ALL)
def test_one_task_zeros_and_a_task_that_is_no_number(name):
  combiner, rows = ALL[name](), jnp.asarray(rows_of("opposed"), jnp.float32)
  call = jax.jit(combiner.combine)
  alone = call(rows[:1], KEY)
  cosine = alone @ rows[0] / jnp.linalg.norm(alone) / jnp.linalg.norm(rows[0])
  np.testing.assert_allclose(cosine, 1, rtol=1e-4)
  assert float(jnp.abs(call(jnp.zeros((3, 4)), KEY)).max()) == 0
  # a lost task is as if it were not there: of two tasks that agree nothing depends on the order
  pair = jnp.abs(rows[:2])
  for lost in (jnp.nan, jnp.inf):
    with_lost = call(jnp.concatenate([pair, jnp.full((1, 4), lost)]), KEY)
    np.testing.assert_allclose(with_lost, call(pair, KEY), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("graddrop", "pcgrad")])
def test_copies_of_one_gradient_are_that_gradient(name):
  """Dependent rows have a singular Gramian; the direction is still theirs."""
  row = jnp.array([[1.0, -2.0, 0.5]])
  out = np.asarray(ALL[name]()(jnp.tile(row, (3, 1)), KEY), np.float64)
  assert np.isfinite(out).all()
  cosine = out @ row[0] / np.linalg.norm(out) / np.linalg.norm(row)
  np.testing.assert_allclose(cosine, 1, rtol=1e-4)


def test_conflicts_count_only_rows_that_are_there():
  rows = jnp.array([[2.0, 0.0], [-1.0, 1.0], [jnp.nan, 1.0], [0.0, 0.0]])
  found = combine.conflicts(combine.gramian_of_rows(rows))
  np.testing.assert_allclose(found.lowest, -np.sqrt(0.5), rtol=1e-6)
  np.testing.assert_allclose([found.share, found.ratio], [1, np.sqrt(0.5)], rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("graddrop", "pcgrad")])
def test_directions_are_those_of_torchjd(name):
  """Solvers of both sides stop at a relative error of about 1e-4; torchjd's for MGDA at 1e-3."""
  for table, want in ORACLE["directions"][name].items():
    rows = make_combine_values.tables()[table]
    d, _ = run(ALL[name](), rows)
    if name == "nash_mtl":  # its fixture holds the direction alone
      np.testing.assert_allclose(d / np.linalg.norm(d), want, atol=2e-3)
    else:
      error = 3e-3 if name == "mgda" else 3e-4
      np.testing.assert_allclose(d, want, atol=error * np.abs(want).max())


def test_random_rules_agree_with_torchjd_where_nothing_is_random_and_in_the_mean():
  tables = make_combine_values.tables()
  pair, _ = run(combine.pcgrad(), tables["pair"])
  np.testing.assert_allclose(pair, ORACLE["directions"]["pcgrad"]["pair"], rtol=1e-5)
  num = make_combine_values.DRAWS
  draw = jax.jit(jax.vmap(combine.graddrop().combine, (None, 0)))
  for table, want in ORACLE["directions"]["graddrop"].items():
    rows = jnp.asarray(tables[table], jnp.float32)
    drawn = np.asarray(draw(rows, jax.random.split(KEY, num)), np.float64)
    error = drawn.std(0) * np.sqrt(2 / num)  # of a difference of two means
    assert (np.abs(drawn.mean(0) - want) <= 5 * error + 1e-5).all()


@pytest.mark.parametrize("name", ["dwa", "uncertainty"])
def test_weights_by_losses_are_those_of_torchjd(name):
  """Four epochs of one update; the log-variances move by gradient descent at a rate of 0.3."""
  rule = combine.dwa() if name == "dwa" else combine.uncertainty(optax.sgd(0.3))
  memory, is_there = rule.init(3), jnp.ones(3, bool)
  for losses, want in zip(make_combine_values.LOSSES, ORACLE[name], strict=True):
    weights, memory = rule.update(memory, jnp.array(losses), is_there)
    np.testing.assert_allclose(weights, want, rtol=1e-6)


def test_weights_by_losses_of_a_period_and_without_a_task():
  """Means of two updates count, and a task that is lost keeps what was known of it."""
  rule = combine.dwa(temperature=1.0, period=2)
  memory, both = rule.init(2), jnp.ones(2, bool)
  for losses in ([1.0, 4.0], [3.0, 4.0], [2.0, 1.0], [0.0, 3.0]):  # means (2, 4), then (1, 2)
    weights, memory = rule.update(memory, jnp.array(losses), both)
  np.testing.assert_allclose(weights, 1)
  lost = jnp.array([True, False])
  for losses in ([0.5, jnp.nan], [0.5, jnp.nan]):
    _, memory = rule.update(memory, jnp.array(losses), lost)
  weights, _ = rule.update(memory, jnp.array([1.0, 1.0]), both)
  ratio = np.exp([0.5, 1.0])  # 0.5 / 1, and of the lost one its last mean twice
  np.testing.assert_allclose(weights, 2 * ratio / ratio.sum(), rtol=1e-6)
  variance = combine.uncertainty(optax.sgd(1.0))
  _, memory = variance.update(variance.init(2), jnp.array([3.0, jnp.nan]), lost)
  np.testing.assert_allclose(memory.log_variance, [1.0, 0.0])
