"""Inner products of gradients against rows that are all formed, and gradients of several tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads
from medjax.check import InputError
from medjax.types import Batch

KEY = jax.random.key(0)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def in_float64(loss, params, batch):
  found = jax.jit(grads.per_sample(loss))(params, batch, KEY).grads
  rows = [np.asarray(g, np.float64).reshape(len(g), -1) for g in jax.tree.leaves(found)]
  rows = np.concatenate(rows, axis=1)
  return rows @ rows.T


def everything(p, x, key):
  """A convolution, a lookup, products with one and with many rows, a bias and a tied matrix."""
  image = (x["rows"] + 0.1 * jax.random.normal(key, x["rows"].shape)).reshape(1, 4, 6, 2)
  numbers = ("NHWC", "HWIO", "NHWC")
  y = jax.lax.conv_general_dilated(image, p["k"], (1, 1), "SAME", dimension_numbers=numbers)
  h = jnp.tanh(y.reshape(-1, 8) @ p["w"] + p["b"][None])
  h = h.mean(0) + jnp.take(p["table"], x["code"], axis=0).sum(0)
  return jnp.sum(jnp.sin(h @ p["v"]) @ p["v"].T) + jnp.sum(jnp.cos(h @ p["u"]))


PARAMS = {
  "k": normal(1, 3, 3, 2, 4),
  "w": 0.3 * normal(2, 8, 30),
  "b": normal(3, 30),
  "table": normal(4, 256, 30),
  "v": 0.2 * normal(5, 30, 20),
  "u": 0.2 * normal(6, 30, 40),
}
BATCH = {
  "rows": normal(7, 5, 6, 8),
  "code": jax.random.randint(jax.random.key(8), (5, 3), 0, 6).astype(jnp.uint8),
}


def test_products_agree_with_rows_that_are_formed():
  got = jax.jit(grads.gramian(everything, method="ghost"))(PARAMS, BATCH, KEY)
  want = in_float64(everything, PARAMS, BATCH)
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  by_rows = jax.jit(grads.gramian(everything, method="vmap"))(PARAMS, BATCH, KEY)
  np.testing.assert_allclose(by_rows, want, atol=1e-5 * np.abs(want).max())


def test_terms_that_cancel_are_formed():
  """The gradient is a difference of large terms: products of pairs alone would be rounding."""

  def loss(w, x, key):
    del key
    y = x @ w
    return jnp.sum(jnp.sin(y - y.mean(0, keepdims=True)))

  w, batch = 0.1 * normal(1, 32, 64), 100 + normal(2, 3, 2, 32)
  got = jax.jit(grads.gramian(loss))(w, batch, KEY)
  want = in_float64(loss, w, batch)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_the_rows_of_a_wide_layer_are_never_in_memory():
  """32 gradients of 512 x 512 take 32 MiB; the pairs of one row each take 128 KiB."""

  def loss(w, x, key):
    del key
    return jnp.sum(jnp.tanh(x @ w))

  arguments = jnp.zeros((512, 512)), jnp.zeros((32, 512)), KEY

  def memory(method):
    program = jax.jit(grads.gramian(loss, method=method)).lower(*arguments).compile()
    return program.memory_analysis().temp_size_in_bytes

  assert memory("vmap") > 2**25
  assert memory("ghost") < 2**21


def test_a_lost_example_stays_its_own():
  def loss(p, x, key):
    del key
    return jnp.sum(p * x)

  out = grads.gramian(loss)(jnp.zeros(2), jnp.array([[1.0, 2], [jnp.nan, 0], [3, 4]]), KEY)
  assert np.isnan(out[1]).all() and np.isnan(out[:, 1]).all()
  np.testing.assert_allclose(out[::2, ::2], [[5, 11], [11, 25]])
  with pytest.raises(InputError, match="mixes examples"):
    grads.gramian(lambda p, x, k: jax.lax.pmean(p @ x, "batch"))(
      jnp.zeros(2), jnp.ones((3, 2)), KEY
    )


def test_rows_of_tasks_are_the_gradients_of_their_means():
  def first(p, e, key):
    return jnp.sum((p["w"] @ e.image - e.label) ** 2) + 0.1 * jax.random.normal(key)

  def second(p, e, key):
    del key
    return jnp.sum(jnp.abs(p["w"]) * e.image) * p["v"]

  rows = np.arange(3)
  batch = Batch(normal(1, 3, 2), normal(2, 3), rows, rows, rows, np.float32([1, 0, 3]))
  params = {"w": normal(3, 2), "v": jnp.float32(2)}
  values, found = jax.jit(grads.jacobian([first, second]))(params, batch, KEY)
  for i, loss in enumerate((first, second)):
    mean = lambda p, loss=loss: grads.batch_mean(lambda e, k: loss(p, e, k), batch, KEY)  # noqa: E731
    value, gradient = jax.value_and_grad(mean)(params)
    np.testing.assert_allclose(values[i], value, rtol=1e-5)
    for name in params:
      np.testing.assert_allclose(found[name][i], gradient[name], rtol=1e-5)


def three_tasks(p, x, key):
  """A convolution, a matrix, a bias, a lookup and a head a task; the last two share a tied head."""
  image = (x["rows"] + 0.1 * jax.random.normal(key, x["rows"].shape)).reshape(1, 4, 6, 2)
  numbers = ("NHWC", "HWIO", "NHWC")
  y = jax.lax.conv_general_dilated(image, p["k"], (1, 1), "SAME", dimension_numbers=numbers)
  h = jnp.tanh(y.reshape(-1, 8) @ p["w"] + p["b"][None])
  h = h.mean(0) + jnp.take(p["table"], x["code"], axis=0).sum(0)
  first = jnp.sum(jnp.sin(h @ p["v"]) @ p["v"].T)
  return jnp.stack([first, jnp.sum(jnp.cos(h @ p["u"])), h.sum()])


def of_tasks(x):
  return x["has"]


def test_products_of_tasks_agree_with_rows_that_are_formed():
  """With a task that some examples lack, one that all lack, and NaN where no task looks."""
  has = jnp.array([[1.0, 1, 0], [1, 0, 0], [2, 1, 0], [0, 0, 0], [1, 1, 0]])
  weight = jnp.array([1.0, 3, 1, 1, 2])
  batch = {**BATCH, "has": has, "weight": weight}
  batch["rows"] = batch["rows"].at[3].set(jnp.nan)
  values, got = jax.jit(grads.task_gramian(three_tasks, of_tasks))(PARAMS, batch, KEY)
  clean = {**batch, "rows": BATCH["rows"]}
  want_values, rows = jax.jit(grads.jacobian(three_tasks, of_tasks))(PARAMS, clean, KEY)
  np.testing.assert_allclose(values, want_values, rtol=1e-5)
  flat = [np.asarray(g, np.float64).reshape(3, -1) for g in jax.tree.leaves(rows)]
  flat = np.concatenate(flat, axis=1)
  want = flat @ flat.T
  np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
  assert float(jnp.abs(got[2]).max()) == 0 and got[0, 0] > 0
  lost = {**batch, "rows": batch["rows"].at[1].set(jnp.inf)}  # an example of task 0 alone
  _, lost = jax.jit(grads.task_gramian(three_tasks, of_tasks))(PARAMS, lost, KEY)
  assert np.isnan(lost[0]).all() and np.isnan(lost[:, 0]).all()
  np.testing.assert_allclose(lost[1:, 1:], got[1:, 1:], rtol=1e-6)


def two_heads(p, x, key):
  del key
  h = x
  for w in p["trunk"]:
    h = jnp.tanh(h @ w)
  return jnp.stack([jnp.sum(h @ p["a"]), jnp.sum(jnp.sin(h @ p["b"]))])


def test_the_trunk_runs_once_and_the_rows_of_tasks_are_never_in_memory():
  wide = {"trunk": [jnp.zeros((256, 256))] * 2, "a": jnp.zeros((256, 3)), "b": jnp.zeros((256, 3))}
  batch = jnp.zeros((8, 256))

  def of(function):
    program = jax.jit(function).lower(wide, batch, KEY)
    return program.as_text().count("stablehlo.tanh"), program.compile()

  ghost, rows = (of(grads.task_gramian(two_heads, method=m))[1] for m in ("ghost", "vmap"))
  layers, plain = of(
    jax.grad(lambda p, x, k: grads.batch_mean(lambda e, k: two_heads(p, e, k).sum(), x, k))
  )
  assert of(grads.task_gramian(two_heads))[0] == layers == 2
  flops = [x.cost_analysis()["flops"] for x in (ghost, rows, plain)]
  assert flops[0] < 0.6 * flops[1] and flops[0] < 1.4 * flops[2]
  memory = [x.memory_analysis().temp_size_in_bytes for x in (ghost, rows)]
  assert memory[1] > 2 * 2 * 256 * 256 * 4 and memory[0] < 0.25 * memory[1]


def test_gradients_of_tasks_whose_examples_cancel_are_formed_in_slices():
  """Two examples that nearly undo each other: products of pairs alone would be rounding."""
  w = {"trunk": [normal(1, 40, 30) / 8], "a": normal(2, 30, 3), "b": normal(3, 30, 3)}
  x = normal(4, 1, 40)
  batch = jnp.concatenate([x, -x * 1.001])

  def odd(p, x, key):
    return two_heads(p, x, key) * jnp.sign(x[0]) ** jnp.array([0, 1])

  run = jax.jit(grads.task_gramian(odd, method="ghost"))
  _, got = run(w, batch, KEY)
  with jax.enable_x64():
    exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), (w, batch))
    _, want = jax.jit(grads.task_gramian(odd, method="vmap"))(*exact, KEY)
  got, want = np.asarray(got), np.asarray(want)
  length = np.sqrt(np.diagonal(want))
  assert length[0] < 1e-2 * length[1]
  np.testing.assert_allclose(
    got / np.outer(length, length), want / np.outer(length, length), atol=1e-3
  )
  # An infinite pixel saturates the layer, whose cotangent is 0: 0 times infinity is no number.
  _, lost = run(w, batch.at[1, 0].set(jnp.inf), KEY)
  assert np.isnan(lost).all()


def test_operations_that_differ_in_a_setting_are_two_and_equal_ones_are_one():
  """The losses sum the same numbers from the front and from the back."""
  losses = [
    lambda p, x, key, back=back: jnp.sum(x * jax.lax.cumsum(p * x, reverse=back))
    for back in (False, True, False)
  ]
  p, batch = normal(1, 6), normal(2, 4, 6)
  got, want = (
    jax.jit(grads.task_gramian(losses, method=method))(p, batch, KEY)[1]
    for method in ("ghost", "vmap")
  )
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert abs(got[0, 1] - got[0, 0]) > 1e-2 * got[0, 0] and got[0, 0] == got[0, 2]
