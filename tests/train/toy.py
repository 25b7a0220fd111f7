"""A noisy linear regression with Adam: the smallest Step with all that a loop must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax.types import Step, TrainState

PARAMS = {"bias": np.zeros((), np.float32), "weight": np.zeros(3, np.float32)}


def params():
  return jax.tree.map(jnp.asarray, PARAMS)


def stream(step, *, size=4):
  """Inputs [size, 3] and targets [size] of y = x . (1, -2, 3) + 1, a function of the step."""
  x = np.random.default_rng(step).normal(size=(size, 3)).astype(np.float32)
  return {"x": x, "y": x @ np.float32([1, -2, 3]) + 1}


def linear(*, manifest=None, hints=None, poison_step=None, learning_rate=0.1, on_trace=None):
  """The Step; its loss is NaN at `poison_step`."""
  tx = optax.adam(learning_rate)

  def init(params, key):
    # `extra` repeats the parameters and keeps a typed key: both must survive donation and restart.
    return TrainState(0, params, tx.init(params), {}, (params, key))

  def update(state, batch, key):
    if on_trace is not None:
      on_trace()

    def loss_fn(params):
      noise = 0.01 * jax.random.normal(key, batch["y"].shape)
      error = batch["x"] @ params["weight"] + params["bias"] + noise - batch["y"]
      return jnp.mean(jnp.square(error))

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new = optax.apply_updates(state.params, updates)
    if poison_step is not None:
      loss = jnp.where(state.step == poison_step, jnp.nan, loss)
    state = state.replace(step=state.step + 1, params=new, opt_state=opt_state)
    return state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

  return Step(init, update, manifest=manifest or {}, hints=hints or {})


def leaves(state):
  """Every array of a state on the host, keys as their words."""

  def host(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)

  return [host(x) for x in jax.tree.leaves(state)]


def assert_same_bits(a, b):
  for x, y in zip(leaves(a), leaves(b), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)
