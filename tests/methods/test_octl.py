"""Optimiser continuation against Algorithms 2 and 3 in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods
from medjax.check import InputError
from medjax.methods.octl import continued_adam, octl, remembering

RATE = optax.piecewise_constant_schedule(0.1, {6: 0.1})
random = np.random.default_rng(0)
START = {"w": random.normal(size=(3, 2)), "b": random.normal(size=2)}
OLD = [{"w": random.normal(size=(3, 2)), "b": random.normal(size=2)} for _ in range(30)]
NEW = [{"w": random.normal(size=(3, 2)), "b": random.normal(size=2)} for _ in range(12)]


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def run(tx, state, gradients, params=None):
  params = jax.tree.map(jnp.asarray, START if params is None else params)
  state = tx.init(params) if state is None else state
  update = jax.jit(tx.update)
  for gradient in gradients:
    updates, state = update(jax.tree.map(jnp.asarray, gradient), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def donor(tx):
  return run(tx, None, OLD)[1]


def rate(t):
  return 0.1 if t < 6 else 0.01


def adam_by_hand(name, b1, b2, count, keep=(True, True), debias=False):
  """Algorithm 3; with `debias` a moment that is not kept is corrected by its own count first."""
  m = v = np.zeros_like(START[name])
  for gradient in OLD:
    m, v = b1 * m + (1 - b1) * gradient[name], b2 * v + (1 - b2) * gradient[name] ** 2
  m, v = m * keep[0], v * keep[1]
  phi = START[name]
  for t, gradient in enumerate(NEW, start=1):
    g = gradient[name]
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    own = [1 - b**t if debias and not kept else 1 for b, kept in zip((b1, b2), keep, strict=True)]
    m_hat = m / own[0] / (1 - b1 ** (t + count))
    v_hat = v / own[1] / (1 - b2 ** (t + count))
    phi = phi - rate(t - 1) * m_hat / (np.sqrt(v_hat) + 1e-8)
  return phi


@pytest.mark.parametrize("b1", [0.99, 0.9])
@pytest.mark.parametrize("count", [100, 0, 7])
def test_algorithm_3(b1, count):
  tx = optax.adam(RATE, b1=b1)
  params = jax.tree.map(jnp.asarray, START)
  state = octl(donor(tx), tx, params, count=count)
  found, _ = run(tx, state, NEW)
  for name in START:
    np.testing.assert_allclose(found[name], adam_by_hand(name, b1, 0.999, count), rtol=1e-12)


def test_algorithm_2():
  source, tx = optax.sgd(0.3, momentum=0.9, nesterov=True), optax.sgd(RATE, momentum=0.99)
  state = octl(donor(source), tx, jax.tree.map(jnp.asarray, START))
  found, _ = run(tx, state, NEW)
  for name in START:
    u = np.zeros_like(START[name])
    for gradient in OLD:
      u = 0.9 * u + gradient[name]
    phi = START[name]
    for t, gradient in enumerate(NEW):
      u = 0.99 * u + gradient[name]
      phi = phi - rate(t) * u
    np.testing.assert_allclose(found[name], phi, rtol=1e-12)


def test_schedules_start_anew_and_counts_do_not():
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(RATE))
  state = octl(donor(tx), tx, jax.tree.map(jnp.asarray, START))
  assert optax.tree.get(state, "count", filtering=_of_adam) == 100
  assert optax.tree.get(state, "count", filtering=lambda p, x: not _of_adam(p, x)) == 0


def _of_adam(path, value):
  del value
  return any("ScaleByAdamState" in str(getattr(part, "tuple_name", "")) for part in path)


def groups(head_rate=0.1):
  return optax.partition(
    {"body": optax.adam(RATE), "head": optax.adam(head_rate)},
    lambda tree: {k: "head" if k == "head" else "body" for k in tree},
  )


def test_a_new_head_starts_afresh_in_its_group():
  tx, head = groups(), np.ones(4)
  params = jax.tree.map(jnp.asarray, {**START, "head": head})
  state = octl(donor(optax.adam(RATE)), tx, params)
  new = [{**g, "head": random.normal(size=4)} for g in NEW]
  found, _ = run(tx, state, new, params)
  alone, _ = run(optax.adam(0.1), None, [g["head"] for g in new], head)
  np.testing.assert_allclose(found["head"], alone, rtol=1e-12)
  for name in START:
    np.testing.assert_allclose(found[name], adam_by_hand(name, 0.9, 0.999, 100), rtol=1e-12)


def test_a_partitioned_donor_gives_to_one_group_and_the_other_way_round():
  masked = optax.partition({"a": optax.adam(RATE), "b": optax.adam(RATE)}, {"w": "a", "b": "b"})
  params = jax.tree.map(jnp.asarray, START)
  for source, target in ((masked, optax.adam(RATE)), (optax.adam(RATE), masked)):
    found, _ = run(target, octl(donor(source), target, params), NEW)
    for name in START:
      np.testing.assert_allclose(found[name], adam_by_hand(name, 0.9, 0.999, 100), rtol=1e-12)


@pytest.mark.parametrize("keep", [(True, True), (True, False), (False, True), (False, False)])
def test_each_moment_may_be_kept_alone_at_the_same_step_size(keep):
  tx = continued_adam(
    RATE, donor(optax.adam(RATE, b1=0.99)), b1=0.99, first=keep[0], second=keep[1]
  )
  found, _ = run(tx, None, NEW)
  for name in START:
    want = adam_by_hand(name, 0.99, 0.999, 100, keep, debias=True)
    np.testing.assert_allclose(found[name], want, rtol=1e-10)


def test_kept_both_it_is_octl():
  source = donor(optax.adam(RATE, b1=0.99))
  plain = optax.adam(RATE, b1=0.99)
  found, _ = run(continued_adam(RATE, source), None, NEW)
  want, _ = run(plain, octl(source, plain, jax.tree.map(jnp.asarray, START)), NEW)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), found, want)


def test_moments_are_rebuilt_without_moving_the_parameters():
  def loss(params, example, key):
    del key
    return sum((params[name] * example[name]).sum() for name in params)

  tx = optax.adam(RATE)
  step = remembering(loss, tx)
  params = jax.tree.map(jnp.asarray, START)
  state, update = step.init(params, jax.random.key(0)), jax.jit(step.update)
  for gradient in OLD:
    state, _ = update(state, jax.tree.map(lambda g: g[None], gradient), jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, state.params, params)
  found, _ = run(tx, octl(state.opt_state, tx, params), NEW)
  for name in START:
    np.testing.assert_allclose(found[name], adam_by_hand(name, 0.9, 0.999, 100), rtol=1e-10)


def test_rebuilding_moves_no_running_statistics():
  """The moments are those of a training at rate 0, which sees the batch's own statistics."""

  def loss(params, example, key, model_state):
    del key
    mean = jax.lax.pmean(example, "batch")
    new = {"mean": 0.9 * model_state["mean"] + 0.1 * mean}
    return (params["b"] * (example - mean) ** 2).sum(), new

  params, statistics = jax.tree.map(jnp.asarray, START), {"mean": jnp.ones(2)}
  batch = jnp.asarray(random.normal(size=(3, 2)))
  rebuilt = remembering(loss, optax.adam(0.1), model_state=statistics)
  at_rest = methods.supervised(loss, optax.adam(0.0), model_state=statistics)
  found, want = (
    jax.jit(s.update)(s.init(params, jax.random.key(0)), batch, jax.random.key(0))[0]
    for s in (rebuilt, at_rest)
  )
  np.testing.assert_array_equal(found.model_state["mean"], statistics["mean"])
  assert (want.model_state["mean"] != 1).all()
  for one, other in zip(*map(jax.tree.leaves, (found.opt_state, want.opt_state)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_donor_survives_a_training_that_donates_its_state():
  tx = optax.adam(RATE)
  held, params = donor(tx), jax.tree.map(jnp.asarray, START)
  step = methods.supervised(
    lambda p, e, k: (p["w"] ** 2).sum(), tx, opt_state=octl(held, tx, params)
  )
  jax.jit(step.update, donate_argnums=0)(
    step.init(params, jax.random.key(0)), {"x": jnp.ones(1)}, jax.random.key(0)
  )
  assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(held))


@pytest.mark.parametrize(
  ("source", "target", "message"),
  [
    (optax.sgd(0.1, momentum=0.9), optax.adam(0.1), "donor with a state of ScaleByAdamState"),
    (optax.adam(0.1), optax.sgd(0.1), "optimiser with moments"),
    (optax.sgd(0.1), optax.adam(0.1), "remembering"),
  ],
)
def test_another_kind_of_optimiser_is_refused(source, target, message):
  with pytest.raises(InputError, match=message):
    octl(donor(source), target, jax.tree.map(jnp.asarray, START))


def test_another_tree_is_refused():
  tx = optax.adam(0.1)
  with pytest.raises(InputError, match="group of their own"):
    octl(donor(tx), tx, jax.tree.map(jnp.asarray, {**START, "head": np.ones(4)}))
  with pytest.raises(InputError, match="shape"):
    octl(donor(tx), tx, jax.tree.map(jnp.asarray, {**START, "b": np.ones(5)}))
