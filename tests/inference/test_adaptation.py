"""Test-time methods of one image, against closed forms and a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from medjax import check, inference, nets

KEY = jax.random.key(0)
IMAGE = jnp.array([0.4, -1.2, 0.7])


def two_classes(params, image):
  """Logits (w . x, 0)."""
  return jnp.array([1.0, 0.0]) * (params["head"]["w"] @ image) + params["offset"]


PARAMS = {"head": {"w": jnp.array([0.5, 0.2, -0.3])}, "offset": jnp.zeros(2)}


def same(key, image):
  return image


def test_a_step_of_tent_is_the_closed_form_of_two_classes():
  # H(z) of logits (z, 0) has the slope -z p (1 - p), p = sigmoid(z); descent moves w along x.
  z = float(PARAMS["head"]["w"] @ IMAGE)
  p = 1 / (1 + np.exp(-z))
  moved = PARAMS["head"]["w"] + 0.5 * z * p * (1 - p) * IMAGE
  found = inference.tent(
    two_classes, PARAMS, IMAGE, KEY, vary=same, num_copies=2,
    is_adapted=lambda name: name == "head/w", rate=0.5,
  )  # fmt: skip
  expected = jax.nn.log_softmax(jnp.array([moved @ IMAGE, 0.0]))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_copies_are_averaged_as_probabilities():
  vary = lambda key, image: image * jax.random.uniform(key)  # noqa: E731
  found = inference.over_copies(two_classes, PARAMS, IMAGE, KEY, vary=vary, num_copies=5)
  scales = [float(jax.random.uniform(k)) for k in jax.random.split(KEY, 5)]
  z = np.array(scales) * float(PARAMS["head"]["w"] @ IMAGE)
  mean = np.mean(1 / (1 + np.exp(-z)))
  np.testing.assert_allclose(jnp.exp(found), [mean, 1 - mean], rtol=1e-5)


def test_entropy_of_a_certain_answer_is_0_and_has_a_finite_slope():
  certain = jnp.array([0.0, -jnp.inf])
  assert float(inference.entropy(certain)) == 0
  assert np.isfinite(jax.grad(inference.entropy)(jnp.array([0.0, -200.0]))).all()
  np.testing.assert_allclose(inference.entropy(jnp.zeros(7)), np.log(7), rtol=1e-6)


def test_prototypes_of_a_stream_are_those_of_a_loop():
  random = np.random.default_rng(1)
  weights, stream = random.normal(size=(3, 4)), random.normal(size=(12, 4))
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
  rows, members, expected = unit(weights), [[] for _ in range(3)], []

  def doubt(x):
    p = np.exp(rows @ x) / np.exp(rows @ x).sum()
    return -(p * np.log(p)).sum()

  for x in unit(stream):
    means = lambda: np.stack([np.mean([r, *m], axis=0) for r, m in zip(rows, members)])  # noqa: E731, B905
    own = members[int(np.argmax(means() @ x))]
    own.append(x)
    own.sort(key=doubt)
    del own[2:]
    expected.append(means() @ x)
  found = inference.prototypes(
    jnp.asarray(weights, jnp.float32), jnp.asarray(stream, jnp.float32), num_kept=2
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_noise_covers_all_but_the_mask_and_keeps_the_tint():
  image = jnp.asarray(np.random.default_rng(0).normal(3.0, 0.5, (40, 40, 1)), jnp.float32)
  mask = jnp.zeros((40, 40), bool).at[:10].set(True)
  found = inference.noise_outside(KEY, image, mask)
  np.testing.assert_array_equal(found[:10], image[:10])
  outside = np.asarray(found[10:])
  # 1200 draws: the mean is known to 0.5 / sqrt(1200) = 0.014, taken here five times.
  assert abs(outside.mean() - 3.0) < 0.1 and abs(outside.std() - 0.5) < 0.06


def test_batch_statistics_of_a_network_are_those_of_the_copies():
  model = nets.from_linen(Normed())
  params, state = model.init(KEY, IMAGE)

  def predict(params, image):
    return model.apply(params, image, model_state=state, train=True)[0]

  shifted = lambda key, image: image + jax.random.normal(key)  # noqa: E731
  found = inference.over_copies(predict, params, IMAGE, KEY, vary=shifted, num_copies=4)
  copies = np.stack([shifted(k, IMAGE) for k in jax.random.split(KEY, 4)])
  z = (copies - copies.mean(0)) / np.sqrt(copies.var(0) + 1e-5)
  p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
  np.testing.assert_allclose(jnp.exp(found), p.mean(0), rtol=1e-4)
  with pytest.raises(check.InputError, match="two examples or more in a batch"):
    inference.over_copies(predict, params, IMAGE, KEY, vary=shifted, num_copies=1)


class Normed(linen.Module):
  @linen.compact
  def __call__(self, x, train=False):
    return linen.BatchNorm(use_running_average=not train, axis_name="batch")(x)


def test_one_copy_and_nothing_that_moves_are_refused():
  more = {"vary": same, "is_adapted": lambda name: True}
  with pytest.raises(check.InputError, match="two copies"):
    inference.tent(two_classes, PARAMS, IMAGE, KEY, num_copies=1, **more)
  more["is_adapted"] = lambda name: "norm" in name
  with pytest.raises(check.InputError, match="a leaf that is_adapted accepts"):
    inference.tent(two_classes, PARAMS, IMAGE, KEY, num_copies=2, **more)
