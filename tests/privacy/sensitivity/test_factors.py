"""Factors by which a row of norm n is clipped, right ones and wrong ones; guards against NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax.check import InputError
from medjax.privacy import check_sensitivity
from tests.privacy.sensitivity.releases import (
  BATCH,
  PARAMS,
  C,
  along,
  augmented,
  clipped,
  gradients,
  norms,
  scaled,
  total,
)

# Ways to clip: the factor of a gradient of norm n.
FACTORS = {
  "min": lambda n: jnp.minimum(1.0, C / n),
  "max": lambda n: 1 / jnp.maximum(1.0, n / C),
  "max_inside": lambda n: C / jnp.maximum(n, C),
  "automatic": lambda n: C / (n + 0.01),
  "clamp": lambda n: jnp.clip(C / n, 0.0, 1.0),
  "where": lambda n: jnp.where(n > C, C / n, 1.0),
  "where_not": lambda n: jnp.where(n <= C, 1.0, C / n),
  "rsqrt": lambda n: jnp.minimum(1.0, C * jax.lax.rsqrt(n**2 + 1e-6)),
  "power": lambda n: C * (n**2 + 1e-6) ** -0.5,
  "nan_to_num": lambda n: jnp.nan_to_num(jnp.minimum(1.0, C / n)),
  "soft": lambda n: C / n * jnp.tanh(n),
}


@pytest.mark.parametrize("name", FACTORS)
def test_usual_factors_bound_all_leaves_together(name):
  def release(batch, params):
    found = gradients(batch, params)
    return total(scaled(found, FACTORS[name](norms(found))))

  assert check_sensitivity(release, BATCH, PARAMS).l2 == pytest.approx(2 * C)


WRONG_FACTORS = {
  "larger": lambda n: jnp.maximum(1.0, C / n),
  "other side": lambda n: jnp.where(n > C, 1.0, C / n),
  "norm squared": lambda n: jnp.minimum(1.0, C / n**2),
  "negative": lambda n: jnp.minimum(-n, C / n),
  "negative floor": lambda n: C / (n + -0.01),
  "root of norm": lambda n: C * (n + 1e-6) ** -0.25,
  "two sides": lambda n: jnp.minimum(1.0, C / n) - n,
  "of some": lambda n: jnp.where(n > C, jnp.where(n > 2 * C, 1.0, C / n), 1.0),
  "private bound": lambda n: jnp.minimum(1.0, (C + n) / n) + n,
}


@pytest.mark.parametrize("name", WRONG_FACTORS)
def test_other_factors_bound_nothing(name):
  def release(batch, params):
    found = gradients(batch, params)
    return total(scaled(found, WRONG_FACTORS[name](norms(found))))

  with pytest.raises(InputError, match=r"unbounded rows.*releases.py"):
    check_sensitivity(release, BATCH, PARAMS)


def guarded(batch, params, guard):
  rows, n = clipped(batch, params), norms(gradients(batch, params))
  if guard == "norm":
    return total(jax.tree.map(lambda x: jnp.where(along(jnp.isfinite(n), x), x, 0), rows))
  found = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), gradients(batch, params))
  return total(scaled(found, jnp.minimum(1, C / norms(found))))


def test_a_guard_on_other_rows_of_an_example_leaves_the_assumption():
  def release(batch, params):
    rows, n = clipped(augmented(batch), params), norms(gradients(augmented(batch), params))
    n = n.reshape(-1, 3)[:, ::-1].reshape(-1)
    return total(jax.tree.map(lambda x: jnp.where(along(jnp.isfinite(n), x), x, 0), rows))

  assert check_sensitivity(release, BATCH, PARAMS).assumptions


@pytest.mark.parametrize("guard", ["norm", "elements"])
def test_a_guard_against_numbers_that_are_not_finite_leaves_no_assumption(guard):
  release = functools.partial(guarded, guard=guard)
  assert check_sensitivity(release, BATCH, PARAMS, require_finite=True).assumptions == ()
  huge = BATCH | {"y": np.float32([[1] * 5, [np.nan] * 5, [np.inf] * 5, [1e30] * 5])}
  without = {name: x[:1] for name, x in BATCH.items()}
  run = jax.jit(release)
  moved = optax.tree.norm(optax.tree.sub(run(huge, PARAMS), run(without, PARAMS)))
  assert moved <= 5 * C * (1 + 1e-5)


def test_clipping_without_a_guard_rests_on_an_assumption_that_is_named():
  release = lambda batch, params: total(clipped(batch, params))  # noqa: E731
  found = check_sensitivity(release, BATCH, PARAMS)
  assert any("releases.py" in where for where in found.assumptions)
  with pytest.raises(InputError, match="finite"):
    check_sensitivity(release, BATCH, PARAMS, require_finite=True)
