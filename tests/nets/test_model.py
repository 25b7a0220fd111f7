"""The key reaches every random layer, and layers that would silently do something else are told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from medjax import grads, methods, nets
from medjax.check import InputError

KEY = jax.random.key(0)
ONES = jnp.ones(64)


class Noise(nnx.Module):
  """A layer of a user's own that holds a stream of random numbers."""

  def __init__(self, rngs: nnx.Rngs):
    self.stream = rngs.noise.fork()

  def __call__(self, x):
    return x + self.stream.normal(x.shape)


class Net(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first, self.second = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
    self.noise = Noise(rngs)

  def __call__(self, image):
    return jnp.stack([self.first(image), self.second(image), self.noise(image)])


class Stateful(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.out = nnx.SpectralNorm(nnx.Linear(64, 3, rngs=rngs), rngs=rngs)
    self.norm = nnx.BatchNorm(3, axis_name="batch", rngs=rngs)

  def __call__(self, image):
    return self.norm(self.out(self.drop(image)))


def test_layers_of_nnx_that_hold_their_own_streams_draw_from_the_key():
  model = nets.from_nnx(Net)
  params, state = model.init(KEY, ONES)
  assert params == {} and state == {}

  def drawn(key):
    return model.apply(params, ONES, key=key, train=True)[0]

  one, other = jax.jit(jax.vmap(drawn))(jax.random.split(KEY, 2))
  assert not np.array_equal(one[0], one[1])  # each layer draws for itself
  for layer in range(3):
    assert not np.array_equal(one[layer], other[layer])
  np.testing.assert_array_equal(one, drawn(jax.random.split(KEY, 2)[0]))
  kept = np.asarray(one[0])
  assert set(kept.tolist()) == {0.0, 2.0} and abs((kept > 0).mean() - 0.5) < 0.25  # 4 deviations
  np.testing.assert_array_equal(model.apply(params, ONES)[0][0], ONES)
  with pytest.raises(InputError, match=r"a key for a network that draws .*got key=None"):
    model.apply(params, ONES, train=True)


def test_a_batch_and_its_steps_get_one_mask_each():
  model = nets.from_nnx(Net)
  loss = jax.jit(
    grads.per_sample(
      lambda p, e, key: (p, model.apply({}, e, key=key, train=True)[0][0]), has_aux=True
    )
  )
  masks = {
    tuple(np.asarray(mask).tolist())
    for t in range(2)
    for mask in loss(jnp.ones(()), jnp.ones((3, 64)), jax.random.key(t)).aux
  }
  assert len(masks) == 6


def test_state_of_nnx_modules_is_trained_beside_the_parameters():
  model = nets.from_nnx(Stateful)
  params, state = model.init(KEY, ONES)
  with pytest.raises(InputError, match="the model_state that init gave, got none"):
    model.apply(params, ONES)

  def loss(params, example, key, held):
    logits, held = model.apply(params, example["x"], model_state=held, key=key, train=True)
    return (logits**2).sum(), held

  step = methods.supervised(loss, optax.sgd(0.1), model_state=state)
  before = step.init(params, KEY)
  x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
  after, _ = jax.jit(step.update)(before, {"x": x}, KEY)
  assert jax.tree.map(jnp.shape, after.model_state) == jax.tree.map(jnp.shape, state)
  # One power iteration on the kernel: u <- W'(W u) normalised, sigma = |W u|.
  kernel = np.asarray(params["out"]["layer_instance"]["kernel"])
  u = np.asarray(state["out"]["batch_stats"]["kernel", "u"])[0]
  v = kernel @ u / np.linalg.norm(kernel @ u)
  u = kernel.T @ v / np.linalg.norm(kernel.T @ v)
  found = after.model_state["out"]["batch_stats"]
  np.testing.assert_allclose(found["kernel", "u"][0], u, rtol=1e-5)
  np.testing.assert_allclose(found["kernel", "sigma"], v @ kernel @ u, rtol=1e-5)
  assert np.any(after.model_state["norm"]["mean"] != 0)


def test_a_counter_among_the_state_stays_a_whole_number():
  class Counting(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
      calls = self.variable("counts", "calls", lambda: jnp.zeros((), jnp.int32))
      if train:
        calls.value += 1
      return linen.Dense(1)(x)

  model = nets.from_linen(Counting())
  params, state = model.init(KEY, ONES)

  def loss(params, example, key, held):
    logits, held = model.apply(params, example["x"], model_state=held, key=key, train=True)
    return logits.sum(), held

  step = methods.supervised(loss, optax.sgd(0.1), model_state=state)
  start = step.init(params, KEY)
  after, _ = jax.jit(step.update)(start, {"x": np.ones((3, 64), np.float32)}, KEY)
  calls = after.model_state["counts"]["calls"]
  assert calls.dtype == jnp.int32 and calls == 1


class Switched(linen.Module):
  @linen.compact
  def __call__(self, x, deterministic=True):
    x = linen.Dropout(0.5, deterministic=deterministic)(x)
    return x if deterministic else x * (1 + jax.random.uniform(self.make_rng("noise")))


def test_linen_modules_that_are_told_deterministic_drop_in_training():
  model = nets.from_linen(Switched())
  params = {}
  dropped = model.apply(params, ONES, key=KEY, train=True)[0]
  kept = set(np.asarray(dropped).tolist()) - {0.0}
  assert len(kept) == 1 and 2 < kept.pop() < 4  # 2 for the dropped ones, times 1 plus the noise
  assert (np.asarray(dropped) == 0).any()
  np.testing.assert_array_equal(model.apply(params, ONES)[0], ONES)


def test_dropout_that_never_drops_is_refused_in_training():
  never = nets.from_linen(linen.Sequential([linen.Dropout(0.5, deterministic=True)]))
  np.testing.assert_array_equal(never.apply({}, ONES)[0], ONES)
  with pytest.raises(InputError, match="every dropout layer is deterministic; give its __call__"):
    never.apply({}, ONES, key=KEY, train=True)

  class Field(linen.Module):
    deterministic: bool = True

    def __call__(self, x):
      return x

  with pytest.raises(InputError, match=r"got Field with the field 'deterministic'; make it an arg"):
    nets.from_linen(Field())


def test_batch_norm_over_one_image_is_refused_in_training():
  class Linen(linen.Module):
    axis_name: str | None

    @linen.compact
    def __call__(self, x, train=False):
      return linen.BatchNorm(use_running_average=not train, axis_name=self.axis_name)(x)

  class Nnx(nnx.Module):
    def __init__(self, axis_name, rngs):
      self.norm = nnx.BatchNorm(64, axis_name=axis_name, rngs=rngs)

    def __call__(self, x):
      return self.norm(x)

  images = jnp.asarray(np.random.default_rng(0).normal(size=(5, 64)), jnp.float32)
  for make in (
    lambda axis: nets.from_linen(Linen(axis)),
    lambda axis: nets.from_nnx(lambda rngs: Nnx(axis, rngs)),
  ):
    model = make("batch")
    params, state = make(None).init(KEY, ONES)

    def train(image, params=params, state=state, model=model):
      return model.apply(params, image, model_state=state, train=True)[0]

    normalised = jax.jit(jax.vmap(train, axis_name="batch"))(images)
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-5)
    with pytest.raises(InputError, match="two examples or more in a batch"):
      jax.eval_shape(jax.vmap(train, axis_name="batch"), images[:1])
    make(None).apply(params, ONES, model_state=state)
    with pytest.raises(InputError, match=r"axis_name=\"batch\"\) in training, got one without"):
      make(None).apply(params, ONES, model_state=state, train=True)
