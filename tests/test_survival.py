"""Cox's partial likelihood and concordance, against loops over people and a published estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, losses, methods, metrics
from medjax.check import InputError
from tests.contracts.methods import batch_of

# Weeks of remission of 21 and 21 children with leukaemia (Freireich et al., Blood 1963; the data of
# Cox 1972); + marks those who were only seen until then.
TREATED = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+".split()
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23".split()
WEEKS = np.array([int(x.rstrip("+")) for x in TREATED + PLACEBO])
SEEN = np.array([not x.endswith("+") for x in TREATED + PLACEBO])
HAS_PLACEBO = np.repeat([0.0, 1.0], 21)


def mean_loss(risk, ties, is_there=None):
  there = jnp.ones(len(risk), bool) if is_there is None else jnp.asarray(is_there)

  def one(r, t, e, here):
    return losses.cox(r, t, e, ties=ties, is_there=here)

  found = jax.vmap(one, axis_name="batch")(risk, jnp.asarray(WEEKS), jnp.asarray(SEEN), there)
  return found.mean()


def by_loops(risk, ties):
  """-log L / n, one event time after the other."""
  total = 0.0
  for t in np.unique(WEEKS[SEEN]):
    dead, at_risk = SEEN & (t == WEEKS), t <= WEEKS
    total -= risk[dead].sum()
    for place in range(dead.sum()):
      share = place / dead.sum() if ties == "efron" else 0.0
      total += np.log(np.exp(risk[at_risk]).sum() - share * np.exp(risk[dead]).sum())
  return total / len(risk)


@pytest.mark.parametrize("ties", ("breslow", "efron"))
def test_the_loss_is_that_of_a_loop_over_events_and_its_slope_is_the_finite_difference(ties):
  with jax.enable_x64(True):
    risk = np.random.default_rng(0).normal(size=len(WEEKS))
    loss = lambda r: mean_loss(r, ties)  # noqa: E731
    assert float(loss(jnp.asarray(risk))) == pytest.approx(by_loops(risk, ties), rel=1e-12)
    slope, direction = jax.grad(loss)(jnp.asarray(risk)), np.sin(np.arange(len(risk)))
    step = 1e-5 * direction
    finite = (by_loops(risk + step, ties) - by_loops(risk - step, ties)) / 2e-5
    assert float(slope @ direction) == pytest.approx(finite, rel=1e-7)
    assert float(slope.sum()) == pytest.approx(0, abs=1e-12)  # an offset changes nothing


@pytest.mark.parametrize(("ties", "published"), (("breslow", 1.509), ("efron", 1.572)))
def test_the_best_coefficient_of_the_leukaemia_data_is_the_published_one(ties, published):
  """Log hazard ratios as in textbooks (Collett; R's survival on the same children)."""
  with jax.enable_x64(True):
    loss = lambda b: mean_loss(b * HAS_PLACEBO, ties)  # noqa: E731
    newton = jax.jit(lambda b: b - jax.grad(loss)(b) / jax.grad(jax.grad(loss))(b))
    best = jnp.float64(0)
    for _ in range(8):
      best = newton(best)
  assert float(best) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("ties", ("breslow", "efron"))
def test_padding_is_at_risk_for_nobody(ties):
  risk = jnp.asarray(np.random.default_rng(1).normal(size=len(WEEKS)))
  loss = lambda r, there: mean_loss(r, ties, there) * len(r)  # noqa: E731
  there = np.arange(len(WEEKS)) % 3 > 0
  value, slope = jax.value_and_grad(loss)(risk, there)
  other, _ = jax.value_and_grad(loss)(jnp.where(there, risk, 30.0), there)
  assert float(value) == pytest.approx(float(other), rel=1e-6)
  assert np.isfinite(slope).all() and not np.asarray(slope)[~there].any()
  nobody, flat = jax.value_and_grad(loss)(risk, np.zeros(len(WEEKS), bool))
  assert float(nobody) == 0 and not np.asarray(flat).any()


def loss_of_example(params, example, key):
  del key
  return losses.cox(params["w"] @ example.image, example.label, example.label > 0)


def test_methods_with_a_gradient_of_each_person_refuse_it():
  batch, params, key = batch_of(0, 0, size=4), {"w": jnp.ones(3)}, jax.random.key(0)
  supervised = methods.supervised(loss_of_example, optax.sgd(0.1))
  state = supervised.init(params, key)
  assert np.isfinite(supervised.update(state, batch, key)[1]["loss"])
  for method in ("auto", "vmap"):
    with pytest.raises(InputError, match="a loss that couples people, got a loss of one example"):
      grads.clipped_sum(loss_of_example, 1.0, method=method)(params, batch, key)


def test_concordance_counts_pairs_as_a_loop_does():
  random = np.random.default_rng(2)
  n = 40
  risk, time = random.integers(0, 6, n).astype(float), random.integers(0, 9, n)
  event, site = random.random(n) < 0.6, random.integers(0, 2, n)
  won = total = 0.0
  for i in range(n):
    for j in range(n):
      known = event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j]))
      if known and site[i] == site[j]:
        total += 1
        won += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
  assert metrics.concordance(risk, time, event, strata=site) == pytest.approx(won / total)
  assert metrics.concordance(-time.astype(float), time, event) > 0.9


def test_parts_are_those_of_the_area_under_the_curve_where_events_come_first():
  random = np.random.default_rng(3)
  event, risk = np.arange(30) % 3 == 0, random.integers(0, 9, 30).astype(float)
  parts = metrics.concordance_parts(risk, np.where(event, 1, 2), event)
  np.testing.assert_allclose(parts, metrics.auroc_parts(risk, event.astype(int)), rtol=1e-12)


def test_the_spread_of_the_parts_is_that_of_the_index():
  """Over draws of people, the deviation of C is that of a mean of its parts."""
  random = np.random.default_rng(4)
  indices, errors = [], []
  for _ in range(300):
    risk = random.normal(size=60)
    life, seen_until = random.exponential(np.exp(-risk)), random.exponential(1.5, 60)
    parts = metrics.concordance_parts(risk, np.minimum(life, seen_until), life < seen_until)
    indices.append(parts.mean())
    errors.append(parts.std(ddof=1) / 60**0.5)
  assert np.std(indices) == pytest.approx(np.mean(errors), rel=0.12)


@pytest.mark.parametrize(
  ("call", "message"),
  (
    (lambda: losses.cox(jnp.ones(()), jnp.ones(()), jnp.ones(())), "axis named 'batch'"),
    (lambda: losses.cox(*[jnp.ones(())] * 3, ties="exact"), "ties"),
    (lambda: metrics.concordance(np.ones(3), np.ones(2), np.ones(3, int)), "time"),
    (
      lambda: metrics.concordance(np.ones(3), np.ones(3), np.zeros(3, int)),
      "event first, got none",
    ),
    (lambda: metrics.concordance(np.array([1, np.nan]), np.arange(2.0), np.ones(2, int)), "finite"),
  ),
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(Exception, match=message):
    call()
