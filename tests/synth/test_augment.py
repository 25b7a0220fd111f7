import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import check, types
from medjax.synth import augment, residual

NOISES = ("fixed", "ranged", "modulated")
IMAGE = jax.random.uniform(jax.random.key(9), (8, 7, 1))


def start(noise):
  return (0.02, 0.2) if noise == "ranged" else 0.1


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("sigma", ["softplus", "identity"])
@pytest.mark.parametrize("exponents", ["real", "sigmoid"])
def test_init_gives_the_natural_parameters_asked_for(noise, sigma, exponents):
  model = augment.ParametricAugmentation(noise=noise, sigma=sigma, exponents=exponents)
  named = model.describe(model.init(sigma=start(noise), exponents=(0.9, 0.5, 0.1)))
  expected = {"exponent_2": 0.9, "exponent_4": 0.5, "exponent_8": 0.1}
  ends = {"sigma_low": 0.02, "sigma_high": 0.2}
  expected |= ends if noise == "ranged" else {"sigma": 0.1}
  assert named.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(named[name], value, rtol=1e-5)


@pytest.mark.parametrize("value", [1e-4, 1e-3, 0.05, 1.0, 50.0])
def test_inverse_softplus_is_accurate_from_tiny_to_huge(value):
  model = augment.ParametricAugmentation(bias=False)
  np.testing.assert_allclose(model.describe(model.init(sigma=value))["sigma"], value, rtol=1e-5)


@pytest.mark.parametrize(
  "noise, shape", [("fixed", (12, 10, 1)), ("ranged", (6, 5, 7, 2)), ("modulated", (6, 5, 2))]
)
def test_no_noise_and_no_exponents_is_the_identity(noise, shape):
  model = augment.ParametricAugmentation(noise=noise)
  image = jax.random.uniform(jax.random.key(0), shape)
  tiny = (1e-9, 2e-9) if noise == "ranged" else 1e-9
  theta = model.init(sigma=tiny, exponents=0.0)
  augmented = jax.jit(model)(theta, jax.random.key(1), image)
  np.testing.assert_allclose(augmented, image, atol=1e-7)


@pytest.mark.parametrize("noise", ["fixed", "modulated"])
def test_gradient_in_sigma_is_the_noise_times_the_chain_factor(noise):
  model = augment.ParametricAugmentation(noise=noise, bias=False)
  theta, draws = model.init(sigma=0.03), model.draw(jax.random.key(0), IMAGE.shape)
  jacobian = jax.jit(jax.jacobian(lambda t: model.apply(t, draws, IMAGE)))(theta)
  # d sigma / d raw = sigmoid(raw / s) = 1 - exp(-sigma / s), s = 0.01
  expected = draws.level * draws.eps * (1 - np.exp(-0.03 / 0.01))
  np.testing.assert_allclose(jacobian.sigma, expected, rtol=1e-4)


def test_gradient_in_an_exponent_is_the_image_times_its_log_field():
  model = augment.ParametricAugmentation(noise="none")
  theta, draws = model.init(exponents=(0.4, -0.3, 1.2)), model.draw(jax.random.key(0), IMAGE.shape)
  jacobian = jax.jit(jax.jacobian(lambda t: model.apply(t, draws, IMAGE)))(theta).exponents
  output = model.apply(theta, draws, IMAGE)[..., 0]
  for k in range(3):
    np.testing.assert_allclose(jacobian[..., 0, k], output * draws.log_fields[k], atol=1e-5)


def test_output_is_the_product_of_powers_plus_noise():
  model = augment.ParametricAugmentation()
  theta, draws = model.init(sigma=0.1, exponents=(0.4, -0.3, 1.2)), None
  draws = model.draw(jax.random.key(0), IMAGE.shape)
  alpha = np.exp(np.asarray(draws.log_fields, np.float64))
  assert np.all((alpha >= 0.5) & (alpha <= 2.0 + 1e-6))
  product = alpha[0] ** 0.4 * alpha[1] ** -0.3 * alpha[2] ** 1.2
  expected = np.asarray(IMAGE) * product[..., None] + 0.1 * np.asarray(draws.eps)
  np.testing.assert_allclose(model.apply(theta, draws, IMAGE), expected, atol=1e-5)


def test_noise_levels_over_examples_follow_the_mode():
  keys = jax.random.split(jax.random.key(0), 2000)
  shape = (1, 1, 1)
  for noise, mean, std in (
    ("fixed", 1.0, 0.0),
    ("ranged", 0.5, 12**-0.5),
    ("modulated", 0.0, 1.0),
  ):
    model = augment.ParametricAugmentation(noise=noise, bias=False)
    levels = jax.vmap(lambda k, model=model: model.draw(k, shape).level)(keys)
    np.testing.assert_allclose(jnp.mean(levels), mean, atol=4 * std / 2000**0.5)
    np.testing.assert_allclose(jnp.std(levels), std, atol=0.07)  # 4 / sqrt(2 * 2000)


def test_ranged_level_stays_between_its_ends_whatever_theta():
  model = augment.ParametricAugmentation(noise="ranged", bias=False)
  for raw in (jnp.array([-0.1, -0.2]), jnp.array([0.3, -1.0]), jnp.array([-1.0, 0.3])):
    named = model.describe(augment.Theta(None, raw))
    assert 0 <= named["sigma_low"] <= named["sigma_high"]


@pytest.mark.parametrize("sigma, reached", [("softplus", 4e-3), ("identity", 1e-4)])
def test_adam_takes_sigma_to_zero(sigma, reached):
  # Mean squared change of the image is sigma^2: the best sigma is 0. Plain softplus stays at 0.07.
  model = augment.ParametricAugmentation(bias=False, sigma=sigma)
  tx = optax.adam(1e-3)

  def loss(theta, key):
    return jnp.mean(jnp.square(model(theta, key, IMAGE) - IMAGE))

  def update(carry, key):
    theta, state = carry
    change, state = tx.update(jax.grad(loss)(theta, key), state)
    return (optax.apply_updates(theta, change), state), None

  theta = model.init(sigma=0.1)
  keys = jax.random.split(jax.random.key(0), 500)
  (theta, _), _ = jax.jit(lambda c: jax.lax.scan(update, c, keys))((theta, tx.init(theta)))
  assert 0 <= model.describe(theta)["sigma"] < reached


def test_same_key_same_image_alone_and_in_any_batch():
  model = augment.ParametricAugmentation(noise="ranged")
  theta = model.init(sigma=start("ranged"))
  keys = jax.random.split(jax.random.key(0), 3)
  alone = jax.jit(model)(theta, keys[2], IMAGE)
  batched = jax.jit(jax.vmap(model, (None, 0, None)))
  batch, pair = batched(theta, keys, IMAGE), batched(theta, keys[1:], IMAGE)
  # Vectorised exp and log round differently in loops of other lengths: one unit in the last place.
  np.testing.assert_allclose(batch[2], alone, atol=1e-6)
  np.testing.assert_allclose(pair[1], alone, atol=1e-6)
  assert not np.allclose(batch[0], batch[1])


def linear_model():
  """[x, xi] -> x a_0 + xi a_1."""

  def init(key, image):
    return {"weights": jnp.zeros(image.shape[-1])}, {}

  def apply(params, image, *, model_state=None, key=None, train=False):
    return jnp.sum(image * params["weights"].reshape(1, 1, -1), axis=-1, keepdims=True), {}

  return types.Model(init, apply)


def test_network_residual_adds_gain_times_the_network_of_image_and_noise():
  model = residual.UNetResidual(linear_model(), gain=0.5)
  theta = model.init(jax.random.key(0), IMAGE)
  np.testing.assert_array_equal(model(theta, jax.random.key(1), IMAGE), IMAGE)
  theta, draws = {"weights": jnp.array([2.0, 3.0])}, model.draw(jax.random.key(1), IMAGE.shape)
  expected = IMAGE + 0.5 * (2 * IMAGE + 3 * draws)
  np.testing.assert_allclose(model(theta, jax.random.key(1), IMAGE), expected, atol=1e-6)
  np.testing.assert_allclose(model.describe(theta)["parameter_norm"], 13**0.5, rtol=1e-6)


def test_networks_with_state_or_another_shape_are_refused():
  good = linear_model()
  with_state = types.Model(lambda key, image: ({"weights": jnp.ones(2)}, {"mean": 0.0}), good.apply)
  with pytest.raises(check.InputError, match="batch statistics"):
    residual.UNetResidual(with_state).init(jax.random.key(0), IMAGE)
  with pytest.raises(check.InputError, match="one shape"):
    residual.UNetResidual(good).init(jax.random.key(0), jnp.zeros((4, 4, 2)))


def test_both_augmentations_keep_one_protocol():
  for model in (augment.ParametricAugmentation(), residual.UNetResidual(linear_model())):
    assert isinstance(model, augment.LearnableAugmentation)
    assert list(inspect.signature(model.apply).parameters) == ["theta", "draws", "image"]
    assert hash(model) == hash(model)


@pytest.mark.parametrize(
  "build",
  [
    lambda: augment.ParametricAugmentation(noise="none", bias=False),
    lambda: augment.ParametricAugmentation().init(sigma=0.0),
    lambda: augment.ParametricAugmentation().init(sigma=(0.1, 0.2)),
    lambda: augment.ParametricAugmentation(noise="ranged").init(sigma=(0.2, 0.1)),
    lambda: augment.ParametricAugmentation(exponents="sigmoid").init(exponents=1.0),
  ],
)
def test_bad_input_is_refused(build):
  with pytest.raises(check.InputError):
    build()
