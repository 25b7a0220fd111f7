"""Methods over domains against their definitions, written as loops in NumPy's float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, methods
from medjax.check import InputError
from medjax.grads import combine

KEY = jax.random.key(0)
X = np.array([[1.0, 0.5], [0.0, 2.0], [3.0, -1.0], [0.5, 0.5], [-1.0, 1.0], [2.0, 2.0]])
Y = np.array([1.0, -1.0, 0.5, 2.0, 0.0, 1.0])
DOMAIN = np.array([0, 1, 0, 1, 0, 3])  # nobody of 2, one of 3
WEIGHT = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
W, B = np.array([0.3, -0.2]), 0.7
PARAMS = {"body": jnp.asarray(W, jnp.float32), "head": jnp.float32(B)}


def batch_of(**changes):
  found = {"x": X.astype(np.float32), "y": Y.astype(np.float32), "domain": DOMAIN}
  return {**found, "weight": WEIGHT.astype(np.float32), **changes}


def predict(p, e, key):
  del key
  return p["head"] * (p["body"] @ e["x"])


def cost(logits, e):
  return 0.5 * (logits - e["y"]) ** 2


def loss(p, e, key):
  return cost(predict(p, e, key), e)


def in_numpy(w, b):
  """Losses, slopes along the scale, gradients of the head, in float64; each [n]."""
  z = X @ w
  residual = b * z - Y
  return 0.5 * residual**2, residual * b * z, residual * z


def of_domains(values):
  return [values[DOMAIN == d] for d in (0, 1, 3)]


def penalised(name):
  """(Step at a rate of 1, objective(w, b) in float64, its penalty at the start)."""

  def risks(w, b):
    return np.array([own.mean() for own in of_domains(in_numpy(w, b)[0])])

  def vrex(w, b):
    return risks(w, b).var()

  def irm(w, b):
    found = [
      np.mean([x * y for i, x in enumerate(own) for j, y in enumerate(own) if i != j])
      for own in of_domains(in_numpy(w, b)[1])[:2]  # the third has one example, and no pair
    ]
    return np.mean(found)

  def ib(w, b):
    del b
    return np.mean([np.var(own, ddof=1) for own in of_domains(X @ w)[:2]])

  def fishr(w, b):
    v = np.array([own.var() for own in of_domains(in_numpy(w, b)[2])[:2]])
    return ((v - v.mean()) ** 2).mean()

  tx = optax.sgd(1.0)
  both = lambda p, e, key: (predict(p, e, key), (p["body"] @ e["x"])[None])  # noqa: E731
  steps = {
    "vrex": (methods.vrex(loss, tx, 4, strength=2.0), lambda w, b: 2 * vrex(w, b), vrex),
    "irm": (methods.irm(predict, cost, tx, 4, strength=2.0), lambda w, b: 2 * irm(w, b), irm),
    "ib_irm": (
      methods.ib_irm(both, cost, tx, 4, strength=2.0, bottleneck=3.0),
      lambda w, b: 2 * irm(w, b) + 3 * ib(w, b),
      irm,
    ),
    "fishr": (
      methods.fishr(loss, tx, 4, classifier=lambda n: n == "head", strength=2.0, decay=0.9),
      lambda w, b: 2 * fishr(w, b),
      fishr,
    ),
  }
  step, penalty, shown = steps[name]
  return step, lambda w, b: risks(w, b).mean() + penalty(w, b), shown(W, B)


@pytest.mark.parametrize("name", ["vrex", "irm", "ib_irm", "fishr"])
def test_the_update_is_the_gradient_of_the_definition(name):
  """Central differences in float64 of the definition as a loop. Of the domains one is empty and one
  has a single example."""
  step, objective, penalty = penalised(name)
  state, metrics = jax.jit(step.update)(step.init(PARAMS, KEY), batch_of(), KEY)
  np.testing.assert_allclose(metrics["penalty"], penalty, rtol=1e-5)
  h = 1e-5
  for i in range(2):
    e = h * np.eye(2)[i]
    slope = (objective(W + e, B) - objective(W - e, B)) / (2 * h)
    moved = float(PARAMS["body"][i] - state.params["body"][i])
    np.testing.assert_allclose(moved, slope, rtol=1e-4, atol=1e-4)
  slope = (objective(W, B + h) - objective(W, B - h)) / (2 * h)
  np.testing.assert_allclose(PARAMS["head"] - state.params["head"], slope, rtol=1e-4)


def test_fishr_smooths_variances_and_keeps_those_of_absent_domains():
  step = methods.fishr(
    loss, optax.sgd(0.0), 4, classifier=lambda name: name == "head", strength=1.0, decay=0.75
  )
  update, state = jax.jit(step.update), step.init(PARAMS, KEY)
  state, _ = update(state, batch_of(), KEY)
  v = np.array([own.var() for own in of_domains(in_numpy(W, B)[2])[:2]])
  np.testing.assert_allclose(state.extra[:, 0], [0.25 * v[0], 0.25 * v[1], 0, 0], rtol=1e-5)
  only = batch_of(weight=(DOMAIN == 0).astype(np.float32))
  state, metrics = update(state, only, KEY)
  np.testing.assert_allclose(state.extra[:2, 0], [0.4375 * v[0], 0.25 * v[1]], rtol=1e-5)
  assert float(metrics["penalty"]) == 0  # one variance is its own mean


def test_groupdro_follows_the_worst_domain():
  """q as in Algorithm 1; the direction is the sum of the domains' gradients by q."""
  step = methods.groupdro(loss, optax.sgd(1.0), 4, rate=0.5)
  update = jax.jit(step.update)
  state, metrics = update(step.init(PARAMS, KEY), batch_of(), KEY)
  losses, _, heads = in_numpy(W, B)
  risks = np.array([own.mean() for own in of_domains(losses)])
  q = np.exp(0.5 * np.insert(risks, 2, 0.0))
  q /= q.sum()
  np.testing.assert_allclose(np.exp(state.extra), q, rtol=1e-5)
  own = q[[0, 1, 3]] / q[[0, 1, 3]].sum()
  slope = sum(w * g.mean() for w, g in zip(own, of_domains(heads), strict=True))
  np.testing.assert_allclose(PARAMS["head"] - state.params["head"], slope, rtol=1e-5)
  np.testing.assert_allclose(
    [metrics["loss"], metrics["worst_loss"]], [risks.mean(), risks.max()], rtol=1e-5
  )
  losses, _, _ = in_numpy(*(np.asarray(state.params[name], np.float64) for name in PARAMS))
  q = q * np.exp(0.5 * np.insert([own.mean() for own in of_domains(losses)], 2, 0.0))
  state, _ = update(state, batch_of(), KEY)  # the weights are remembered
  np.testing.assert_allclose(np.exp(state.extra), q / q.sum(), rtol=1e-4)


def test_fish_raises_the_products_of_gradients():
  """On quadratics the walk is exact: the mean over both orders is
  -alpha (g1 + g2) + alpha^2 / 2 (H1 g2 + H2 g1), and H1 g2 + H2 g1 = grad <g1, g2>."""
  h = [np.diag([1.0, 3.0]), np.array([[2.0, 0.5], [0.5, 1.0]])]
  at = [np.array([1.0, 0.0]), np.array([-1.0, 2.0])]

  def quadratic(p, e, key):
    del key
    return 0.5 * (p - e["at"]) @ e["h"] @ (p - e["at"])

  batch = {"h": jnp.array(h), "at": jnp.array(at), "domain": jnp.arange(2)}
  start, alpha = np.array([0.4, -0.3]), 0.1
  step = methods.fish(quadratic, optax.sgd(alpha), 3, rate=0.5)  # nobody of the third
  state = step.init(jnp.asarray(start, jnp.float32), KEY)
  update = jax.jit(step.update)
  ends = [np.asarray(update(state, batch, jax.random.key(k))[0].params) for k in range(12)]
  kinds = sorted({tuple(end.round(5)) for end in ends})
  assert len(kinds) == 2  # two orders of the two domains that are there
  g = [a @ (start - b) for a, b in zip(h, at, strict=True)]
  want = -alpha * (g[0] + g[1]) + alpha**2 / 2 * (h[0] @ g[1] + h[1] @ g[0])
  np.testing.assert_allclose(np.mean(kinds, 0) - start, 0.5 * want, atol=1e-5)


def test_variances_by_domain_are_those_of_a_loop():
  found = jax.jit(grads.per_sample(loss))(PARAMS, batch_of(), KEY)
  of = grads.domains(batch_of(), 4)
  for leaf, variance in zip(
    jax.tree.leaves(found.grads), jax.tree.leaves(of.variance(found.grads)), strict=True
  ):
    for d in range(4):
      rows = np.asarray(leaf, np.float64)[d == DOMAIN]
      want = rows.var(0) if len(rows) else np.zeros(leaf.shape[1:])
      np.testing.assert_allclose(variance[d], want, rtol=1e-4, atol=1e-6)


def test_a_domain_out_of_range_stops_a_training_and_a_missing_one_is_refused():
  tx = optax.sgd(0.1)
  for step in (
    methods.fish(loss, tx, 3),
    methods.domainwise(loss, tx, 3),
    methods.vrex(loss, tx, 3),
  ):
    _, metrics = jax.jit(step.update)(step.init(PARAMS, KEY), batch_of(), KEY)
    assert np.isnan(metrics["loss"]) and metrics["unknown_domains"] == 1 and step.hints
  with pytest.raises(InputError, match="a batch with domains"):
    step.update(step.init(PARAMS, KEY), {"x": X, "y": Y}, KEY)


@functools.cache
def rows_of_examples():
  found = jax.jit(grads.per_sample(loss))(PARAMS, batch_of(), KEY).grads
  return jnp.concatenate([g.reshape(len(X), -1) for g in jax.tree.leaves(found)], axis=1)


def moved(step, batch):
  state, metrics = jax.jit(step.update)(step.init(PARAMS, KEY), batch, KEY)
  parts = jax.tree.map(lambda a, b: np.ravel(a - b), PARAMS, state.params)
  return np.concatenate(jax.tree.leaves(parts)), metrics


def test_examples_are_combined_like_tasks():
  rows = rows_of_examples()
  got, _ = moved(methods.instancewise(loss, optax.sgd(1.0), combine=combine.upgrad()), batch_of())
  want = jax.jit(lambda r: combine.upgrad()(r, KEY))(rows)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
  # a lost example and padding take no part, whatever they hold
  x = batch_of()["x"].copy()
  x[2], x[4] = np.nan, np.inf
  weight = np.array([1, 1, 1, 1, 0, 2], np.float32)
  for rule in (combine.graddrop(), combine.mgda()):
    step = methods.instancewise(loss, optax.sgd(1.0), combine=rule)
    got, metrics = moved(step, batch_of(x=x, weight=weight))
    assert np.isfinite(got).all() and metrics["skipped"] == 1 and np.isfinite(metrics["loss"])
  kept = rows[jnp.array([0, 1, 3, 5])] * jnp.array([[1.0], [1], [1], [2]])
  want = jax.jit(lambda r: combine.mgda()(r, KEY))(kept)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_domains_are_combined_like_tasks():
  rows = rows_of_examples()
  means = jnp.stack([rows[DOMAIN == d].mean(0) for d in (0, 1, 3)])
  got, metrics = moved(
    methods.domainwise(loss, optax.sgd(1.0), 4, combine=combine.upgrad()), batch_of()
  )
  want = jax.jit(lambda r: combine.upgrad()(r, KEY))(means)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
  assert [float(metrics[f"skipped/{d}"]) for d in range(4)] == [0, 0, 1, 0]
