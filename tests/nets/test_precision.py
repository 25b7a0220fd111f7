"""One policy: what stays float32, and blocks computed again give the same gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, losses, methods, nets
from medjax.check import InputError

SHAPE, KEY = (8, 8, 1), jax.random.key(0)
NET = nets.UNet(3, (4, 8), norm="group", activation="silu")
BATCH = {
  "image": np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32),
  "label": np.random.default_rng(1).integers(0, 3, (2, *SHAPE[:-1])),
}


def loss_of(network):
  model = nets.from_linen(network)

  def loss_fn(params, example, key):
    del key
    return losses.soft_dice(model.apply(params, example["image"])[0], example["label"])

  return model, loss_fn


def equations(jaxpr):
  for eqn in jaxpr.eqns:
    yield eqn
    for value in eqn.params.values():
      for inner in value if isinstance(value, tuple | list) else (value,):
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns"):
          yield from equations(inner)


def test_everything_but_the_network_inside_stays_float32():
  model, loss_fn = loss_of(nets.Precision(jnp.bfloat16, remat=True).of(NET))
  image = jnp.asarray(BATCH["image"][0])
  params, _ = jax.eval_shape(model.init, KEY, image)
  step = methods.supervised(loss_fn, optax.adam(1e-3))
  state = jax.eval_shape(step.init, params, KEY)
  new, metrics = jax.eval_shape(step.update, state, BATCH, KEY)
  clipped = jax.eval_shape(grads.clipped_sum(loss_fn, 1.0), params, BATCH, KEY)
  for leaf in jax.tree.leaves((params, new, metrics, clipped)):
    assert leaf.dtype in (jnp.float32, jnp.int32)
  logits = jax.eval_shape(lambda p: model.apply(p, image)[0], params)
  assert logits.dtype == jnp.float32
  found = jax.make_jaxpr(step.update)(state, BATCH, KEY).jaxpr
  kinds = {}
  for eqn in equations(found):
    if eqn.invars:
      kinds.setdefault(eqn.primitive.name, set()).add(eqn.invars[0].aval.dtype)
  assert kinds["conv_general_dilated"] == {jnp.dtype("bfloat16")}
  for name in ("rsqrt", "log", "exp"):  # of norms and of the loss
    assert jnp.dtype("bfloat16") not in kinds.get(name, set())


def test_blocks_computed_again_give_the_same_loss_and_gradient():
  model, plain = loss_of(NET)
  _, again = loss_of(nets.Precision(remat=True).of(NET))
  params, _ = model.init(KEY, jnp.asarray(BATCH["image"][0]))

  def both(params):
    mean = lambda f: lambda p: grads.batch_mean(lambda e, k: f(p, e, k), BATCH, KEY)  # noqa: E731
    return [jax.value_and_grad(mean(f))(params) for f in (plain, again)]

  one, other = jax.jit(both)(params)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), one, other)
  example = {name: x[0] for name, x in BATCH.items()}
  names = {
    e.primitive.name for e in equations(jax.make_jaxpr(jax.grad(again))(params, example, KEY).jaxpr)
  }
  assert any("remat" in name or "checkpoint" in name for name in names)


def test_what_a_network_cannot_do_is_refused():
  with pytest.raises(InputError, match="field remat"):
    nets.Precision(remat=True).of(nets.ResNet9(10))
  with pytest.raises(InputError, match="floating-point"):
    nets.Precision(jnp.int8)
