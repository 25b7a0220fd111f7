"""Hypergradients through optax's transformations against central differences, in float64.

Transformations without a derivative (sign updates, RAdam's third and fourth step, Adam where a
second moment is 0) are tested where they are reported: `test_hyper`, `test_learn2synth`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from medjax import grads

RATE = 1e-2
TRANSFORMATIONS = {
  "sgd": lambda: optax.sgd(0.5),
  "momentum": lambda: optax.sgd(0.3, momentum=0.9, nesterov=True),
  "adam": lambda: optax.adam(RATE),
  "adamw_clipped": lambda: optax.chain(optax.clip_by_global_norm(0.05), optax.adamw(RATE)),
  "rmsprop": lambda: optax.rmsprop(RATE),
  "adabelief": lambda: optax.adabelief(RATE),
  "adadelta": lambda: optax.adadelta(1.0),
  "adagrad": lambda: optax.adagrad(RATE),
  "adamax": lambda: optax.adamax(RATE),
  "amsgrad": lambda: optax.amsgrad(RATE),
  "apply_if_finite": lambda: optax.apply_if_finite(optax.sgd(RATE), 2),
  "fromage": lambda: optax.fromage(RATE),
  "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(
    optax.cosine_decay_schedule(RATE, 20)
  ),
  "lamb": lambda: optax.lamb(RATE),
  "masked": lambda: optax.masked(optax.adam(RATE), {"a": True, "b": False}),
  "multi_steps": lambda: optax.MultiSteps(optax.adam(RATE), 2).gradient_transformation(),
  "nadam": lambda: optax.nadam(RATE),
  "novograd": lambda: optax.novograd(RATE),
  "radam": lambda: optax.radam(RATE),
  "yogi": lambda: optax.yogi(RATE),
  "adafactor": lambda: optax.adafactor(RATE),
  "adan": lambda: optax.adan(RATE, weight_decay=0.01),
  "lars": lambda: optax.lars(100 * RATE),
  "noisy_sgd": lambda: optax.noisy_sgd(RATE, key=jax.random.key(0)),
  "optimistic": lambda: optax.optimistic_gradient_descent(RATE),
  "partition": lambda: optax.partition(
    {"first": optax.adam(RATE), "second": optax.sgd(RATE)}, {"a": "first", "b": "second"}
  ),
  "sm3": lambda: optax.sm3(RATE),
}
# The remaining aliases and wrappers of optax, and what optax.contrib has. Those that are not here
# ask their update for more than the gradient, and are refused: `test_hyper`.
FURTHER = {
  "adamaxw": lambda: optax.adamaxw(RATE),
  "adaptive_clip": lambda: optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(RATE)),
  "block_clip": lambda: optax.chain(optax.clip_by_block_rms(0.1), optax.sgd(RATE)),
  "centralize": lambda: optax.chain(optax.centralize(), optax.sgd(RATE)),
  "ema": lambda: optax.chain(optax.ema(0.9), optax.sgd(RATE)),
  "nadamw": lambda: optax.nadamw(RATE),
  "non_negative": lambda: optax.chain(optax.sgd(RATE), optax.keep_params_nonnegative()),
  "optimistic_adam": lambda: optax.optimistic_adam_v2(RATE),
  "trust_ratio": lambda: optax.chain(optax.scale_by_trust_ratio(), optax.sgd(RATE)),
  "update_norm": lambda: optax.chain(optax.normalize_by_update_norm(), optax.sgd(RATE)),
  "acprop": lambda: contrib.acprop(RATE),
  "ademamix": lambda: contrib.ademamix(RATE),
  "adopt": lambda: contrib.adopt(RATE),
  "cocob": lambda: contrib.cocob(),
  "dowg": lambda: contrib.dowg(),
  "galore": lambda: contrib.galore(RATE),
  "madgrad": lambda: contrib.madgrad(RATE),
  "muon": lambda: contrib.muon(RATE),
  "sam": lambda: contrib.sam(
    optax.sgd(RATE), optax.chain(contrib.normalize(), optax.sgd(0.05)), sync_period=2
  ),
  "schedule_free": lambda: contrib.schedule_free_adamw(RATE),
  "simplified_ademamix": lambda: contrib.simplified_ademamix(RATE),
}


def inner(params, theta, x, key):
  return jnp.sum((jnp.tanh(x * theta + params["a"]) * params["b"] - x) ** 2)


def outer(params, x, key):
  return jnp.sum((jnp.tanh(x + params["a"]) * params["b"] - x) ** 2)


@pytest.mark.parametrize(
  "name", [*TRANSFORMATIONS, *(pytest.param(name, marks=pytest.mark.slow) for name in FURTHER)]
)
def test_equals_central_differences(name):
  with jax.enable_x64(True):
    tx, step = (TRANSFORMATIONS | FURTHER)[name](), 1e-5
    params = {"a": jnp.array([0.3, -0.5]), "b": jnp.array([0.7, 1.2])}
    inner_batch, outer_batch = jnp.array([[[0.5, 1.0], [-1.5, 0.3]]]), jnp.array([[0.9, -0.4]])
    fn = grads.hypergradient(inner, outer, tx)
    # One program for three thetas: the one asked for, and one on either side.
    at = jax.jit(jax.vmap(fn, (0, None, None, None, None, None)))
    thetas, state = 0.8 + step * jnp.array([0.0, 1.0, -1.0]), tx.init(params)
    for _ in range(7):  # past the steps at which moments are cold
      out = at(thetas, params, state, inner_batch, outer_batch, jax.random.key(0))
      params, state = jax.tree.map(lambda leaf: leaf[0], (out.params, out.opt_state))
    out = at(thetas, params, state, inner_batch, outer_batch, jax.random.key(0))
    difference = (out.aux.outer_loss[1] - out.aux.outer_loss[2]) / (2 * step)
    assert abs(difference) > 1e-7  # there is something to compare
    np.testing.assert_allclose(out.grad[0], difference, rtol=1e-6, atol=1e-11)
    assert bool(out.aux.is_finite[0])
