"""Two copies of a network and a choice between them, against the network of the chosen copy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads, nets
from medjax.grads.two_copies import chosen

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
SMALL = (
  (nets.UNet(num_outputs=2, widths=(2, 4), norm="group"), (8, 8, 1)),
  (nets.UNet(num_outputs=2, widths=(2, 4), norm="instance"), (4, 4, 4, 1)),
)


def copies(module, shape):
  """Network, two trees of parameters, and a batch of three images."""
  model = nets.from_linen(module)
  image = jnp.asarray(RANDOM.normal(size=(3, *shape)), jnp.float32)
  params, others = (model.init(jax.random.key(i), image[0])[0] for i in range(2))
  return model, params, others, image


def choices(params, num):
  """[num] choices, one for each leaf."""
  leaves, structure = jax.tree.flatten(params)
  return jax.tree.unflatten(
    structure, list(jnp.asarray(RANDOM.integers(0, 2, (len(leaves), num)), jnp.float32))
  )


@pytest.mark.parametrize(
  ("module", "shape"), [SMALL[0], pytest.param(*SMALL[1], marks=pytest.mark.slow)]
)
def test_values_and_gradients_are_those_of_the_chosen_parameters(module, shape):
  model, params, others, image = copies(module, shape)
  z = choices(params, 3)

  def network(params, image):
    return jnp.tanh(model.apply(params, image)[0]).sum()

  def direct(both, image, z):
    mixed = jax.tree.map(lambda p, q, c: c * p + (1 - c) * q, *both, z)
    return network(mixed, image)

  def by_outputs(both, image, z):
    return chosen(network, *both, z, image)

  def over_batch(one):
    def total(both, image):
      return jax.vmap(one, (None, 0, 0))(both, image, z).sum()

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))((params, others), image)

  found, want = over_batch(by_outputs), over_batch(direct)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), found, want)


def test_the_gradient_of_a_choice_is_the_difference_of_the_outputs():
  x, w, v = (jnp.asarray(RANDOM.normal(size=s)) for s in ((3,), (2, 3, 4), (2, 4, 2)))

  def fn(p, x):
    return (jnp.tanh(x @ p["a"]) @ p["b"]).sum()

  def value(za, zb):
    first, second = ({"a": w[i], "b": v[i]} for i in range(2))
    return chosen(fn, first, second, {"a": za, "b": zb}, x)

  def published(za, zb):
    h = jnp.tanh(za * (x @ w[0]) + (1 - za) * (x @ w[1]))
    return (zb * (h @ v[0]) + (1 - zb) * (h @ v[1])).sum()

  for z in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]:
    found, want = (jax.value_and_grad(f, argnums=(0, 1))(*z) for f in (value, published))
    np.testing.assert_allclose(found[0], want[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], want[1], rtol=1e-5)


def test_no_convolution_is_grouped_under_vmap():
  """A grouped convolution is what per-example kernels become, and takes ten times as long."""
  model, params, others, image = copies(*SMALL[0])
  z = choices(params, 3)

  def loss(params, image, z):
    return chosen(lambda p, x: model.apply(p, x)[0].sum(), params, others, z, image)

  def total(params):
    return jax.vmap(loss, (None, 0, 0))(params, image, z).sum()

  text = jax.jit(jax.grad(total)).lower(params).as_text()
  assert "convolution" in text or "dot_general" in text
  assert "feature_group_count = 3" not in text and "batch_group_count = 3" not in text
  grouped = jax.jit(jax.grad(lambda p: jax.vmap(
    lambda x, z: model.apply(jax.tree.map(lambda a, b, c: c * a + (1 - c) * b, p, others, z), x)[
      0
    ].sum()
  )(image, z).sum())).lower(params).as_text()  # fmt: skip
  assert "feature_group_count = 3" in grouped  # what the test would see


def test_values_without_parameters_and_whole_numbers_pass():
  """What does not come from a leaf is as it is; whole numbers that do are chosen."""

  def fn(p, x):
    return x * 2.0, (p["w"] * x).sum(), (p["w"] @ x > 1).astype(jnp.int32)

  z = {"w": jnp.array(1.0)}
  doubled, product, one = chosen(fn, {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}, z, jnp.ones(2))
  np.testing.assert_array_equal(doubled, [2, 2])
  assert product == 2 and one == 1


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_the_copy_that_is_not_chosen_may_hold_anything(bad):
  def fn(p, x):
    return (p["w"] @ x).sum() + (p["b"] * x).sum()

  good = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
  broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, bad), good)
  z = {"w": jnp.array(1.0), "b": jnp.array(1.0)}
  value, gradient = jax.value_and_grad(lambda g: chosen(fn, g, broken, z, jnp.ones(2)))(good)
  assert value == 6
  jax.tree.map(np.testing.assert_array_equal, gradient, jax.tree.map(jnp.ones_like, good))


def test_the_gradient_of_a_choice_where_a_parameter_is_divided_by_or_mapped():
  """Not linear in the parameter, so outputs are mixed: the difference of the outputs."""
  first, second, x = {"w": jnp.array(2.0)}, {"w": jnp.array(4.0)}, jnp.array(3.0)
  for fn in (lambda p, x: x / p["w"], lambda p, x: jnp.exp(p["w"]) * x):
    found = jax.grad(lambda z, fn=fn: chosen(fn, first, second, {"w": z}, x))(1.0)
    np.testing.assert_allclose(found, fn(first, x) - fn(second, x), rtol=1e-6)


def test_gradients_of_one_example_can_still_be_taken_apart():
  """Per-example gradients of a chosen network, for methods that need them."""
  params, others = {"w": jnp.arange(3.0)}, {"w": jnp.ones(3)}
  batch = {"x": jnp.eye(3), "z": jnp.array([1.0, 0.0, 1.0])}

  def loss(p, example, key):
    del key
    return chosen(lambda p, x: (p["w"] @ x) ** 2, p, others, {"w": example["z"]}, example["x"])

  found = grads.per_sample(loss)(params, batch, KEY).grads["w"]
  np.testing.assert_allclose(found, np.diag([0.0, 0.0, 4.0]))
