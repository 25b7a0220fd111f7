"""Derivatives written by hand: no gradient of parts is formed where they would see one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from medjax import grads
from medjax.grads.ghost import derivatives

KEY = jax.random.key(0)


@jax.custom_vjp
def limited(w):
  return w


limited.defvjp(lambda w: (w, None), lambda _, b: (jnp.clip(b, -0.1, 0.1),))


WRAPPED = {
  "jit": jax.jit(limited),
  "remat": jax.checkpoint(lambda w: limited(w) * 1.0),
  "map": lambda w: jax.lax.map(limited, w),
  "scan": lambda w: jax.lax.scan(lambda c, _: (limited(c), None), w, None, length=1)[0],
  "cond": lambda w: jax.lax.cond(w[0, 0] > -9, limited, lambda v: v, w),
  "cond in scan": lambda w: jax.lax.scan(
    lambda c, row: (c, jax.lax.cond(row[0] > -9, limited, lambda v: v, row)), 0.0, w
  )[1],
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_derivatives_by_hand_see_the_sum_wherever_they_are(wrap):
  """The parameters are used twice; clip(a) + clip(b) is not clip(a + b)."""

  def loss(w, x, key):
    del key
    w = WRAPPED[wrap](w)
    return jnp.sum(jnp.tanh(x @ w)) + jnp.sum(x**2 @ w)

  w = jax.random.normal(jax.random.key(1), (4, 3))
  x = jax.random.normal(jax.random.key(2), (3, 4))
  want = jax.vmap(lambda x: jnp.linalg.norm(jax.grad(loss)(w, x, KEY)))(x)
  norms = grads.clipped_sum(loss, 1.0, method="ghost")(w, x, KEY).norms
  np.testing.assert_allclose(norms, want, rtol=1e-5)


def test_what_jax_does_not_list_may_have_any_derivative():
  """Kinds of primitives that a later JAX or another package brings."""
  known = jax.make_jaxpr(lambda w: jax.nn.relu(jnp.sort(w) @ w))(jnp.ones(3)).eqns
  assert not any(derivatives.may_be_anything(e.primitive, e.params) for e in known)
  assert derivatives.may_be_anything(core.Primitive("unheard_of"), {})
