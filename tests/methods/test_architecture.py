"""The gradient of an architecture by every method, against differences and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import check
from medjax.methods import architecture_search

RATE, BETA = 0.2, 0.7
RANDOM = np.random.default_rng(0)
START = {"weights": jnp.array([0.3, -0.5]), "architecture": jnp.array([0.4, 0.1, -0.2])}


def batch_of(size=4):
  return {part: {"x": RANDOM.normal(size=(size, 3))} for part in ("train", "validation")}


BATCH = batch_of()


def loss(weights, alpha, example, key):
  del key
  mixture = jax.nn.softmax(alpha) @ example["x"]
  return 0.5 * (weights[0] * mixture + weights[1] - jnp.sin(example["x"][0])) ** 2 + 0.05 * (
    weights @ weights
  )


def mean(weights, alpha, part):
  return np.mean([loss(weights, alpha, {"x": x}, None) for x in BATCH[part]["x"]])


@functools.cache
def run(method):
  """Architecture and weights after one update whose architecture moves by minus the gradient."""
  with jax.enable_x64(True):
    step = architecture_search(
      loss, optax.sgd(RATE), optax.sgd(1.0), method=method, beta=BETA, **(
        {"iterations": 30} if method == "implicit" else {}
      )
    )  # fmt: skip
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), START)
    state = step.init(params, jax.random.key(0))
    new, metrics = jax.jit(step.update)(state, BATCH, jax.random.key(1))
    gradient = params["architecture"] - new.params["architecture"]
    return np.asarray(gradient), np.asarray(new.params["weights"]), metrics


def slope(function, at, step=1e-5):
  at = np.asarray(at, np.float64)
  ends = [[function(at + s * e) for s in (step, -step)] for e in np.eye(len(at))]
  return np.array([(a - b) / (2 * step) for a, b in ends])


@pytest.fixture(scope="module")
def here():
  with jax.enable_x64(True):
    weights, alpha = (np.asarray(START[k], np.float64) for k in ("weights", "architecture"))

    def after(a):
      return weights - RATE * slope(lambda w: mean(w, a, "train"), weights)

    yield weights, alpha, after


def test_milenas_adds_the_two_gradients_at_the_weights_as_they_are(here):
  weights, alpha, after = here
  found, new, metrics = run("milenas")
  want = [slope(lambda a, p=p: mean(weights, a, p), alpha) for p in ("train", "validation")]
  np.testing.assert_allclose(found, want[0] + BETA * want[1], atol=1e-7)
  np.testing.assert_allclose(new, after(alpha), atol=1e-7)
  np.testing.assert_allclose(metrics["validation_loss"], mean(weights, alpha, "validation"))


@pytest.mark.parametrize(("method", "error"), [("exact", 1e-5), ("darts", 1e-4)])
def test_one_step_gradients_are_differences_of_the_loss_after_it(here, method, error):
  weights, alpha, after = here
  want = slope(lambda a: mean(after(a), a, "validation"), alpha, 1e-4)
  found, _, metrics = run(method)
  np.testing.assert_allclose(found, want, atol=error)
  np.testing.assert_allclose(metrics["loss"], mean(weights, alpha, "train"))
  np.testing.assert_allclose(
    metrics["validation_loss"], mean(after(alpha), alpha, "validation"), rtol=1e-6
  )
  direct = slope(lambda a: mean(after(alpha), a, "validation"), alpha)
  assert np.abs(direct - want).max() > 10 * error  # the second derivative counts


def test_the_implicit_gradient_is_that_of_the_minimum_of_a_quadratic():
  """L_tr = (w - a)^2 / 2 is least at w = a, so that L_val = (w - 2)^2 / 2 has the slope w* - 2."""
  step = architecture_search(
    lambda w, a, e, k: 0.5 * jnp.sum((w - e["is_train"] * a - (1 - e["is_train"]) * 2.0) ** 2),
    optax.sgd(0.5),
    optax.sgd(1.0),
    method="implicit",
  )
  parts = {"train": {"is_train": jnp.ones(1)}, "validation": {"is_train": jnp.zeros(1)}}
  params = {"weights": jnp.zeros(1), "architecture": jnp.ones(1)}
  new, _ = step.update(step.init(params, jax.random.key(0)), parts, jax.random.key(1))
  np.testing.assert_allclose(new.params["weights"], [0.5])
  np.testing.assert_allclose(1.0 - new.params["architecture"], [0.5 - 2.0], atol=1e-5)


def test_a_negative_weight_of_validation_is_refused():
  with pytest.raises(check.InputError, match="beta"):
    architecture_search(loss, optax.sgd(1.0), optax.sgd(1.0), beta=-1.0)
