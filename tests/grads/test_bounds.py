"""The bound of clipped sums for every type, index and size of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import grads
from medjax.check import InputError
from medjax.grads.ghost import lengths
from tests.grads import clipping_cases as cases

KEY = jax.random.key(0)


def length(tree):
  return np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in jax.tree.leaves(tree)))


def added(loss, params, batch, i, max_norm=1.0, **options):
  """Length of what example i adds when all others have weight 0."""
  num = jax.tree.leaves(batch)[0].shape[0]
  run = grads.clipped_sum(loss, max_norm, **options)
  return length(run(params, batch, KEY, weights=jnp.zeros(num).at[i].set(1.0)).grads)


def times(params, example, key):
  """The gradient of an example is the example."""
  del key
  return jnp.sum((params * example).astype(jnp.float32))


def test_random_cases_agree_with_float64():
  random = np.random.default_rng(3)
  for _ in range(4):
    case = cases.draw(random)
    above, off = cases.excess(case)
    assert above <= 1e-5, case
    assert off <= cases.tolerance(case) * cases.NUM, case


@pytest.mark.slow
def test_many_random_cases_agree_with_float64():
  random = np.random.default_rng(4)
  for _ in range(150):
    case = cases.draw(random)
    above, off = cases.excess(case)
    assert above <= 1e-5, case
    assert off <= cases.tolerance(case) * cases.NUM, case


def test_lengths_of_what_the_compiler_knows_are_those_of_what_it_is_given():
  """XLA once squared known rows before it divided them: 0 and inf, for norms of 1e-19 and 1e20."""
  rows = jnp.array([[3e-20, 4e-20], [3e20, 4e20], [3.0, 4.0]])
  want = [5e-20, 5e20, 5.0]
  for measure in (lengths.of_rows, lengths.joint):
    np.testing.assert_allclose(jax.jit(lambda measure=measure: measure(rows))(), want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(measure)(rows), want, rtol=1e-6)


@pytest.mark.parametrize("index", [np.uint8, np.int16, np.uint32])
def test_every_index_type_finds_its_row(index):
  """256 is 0 in uint8: a table of so many rows once looked empty."""

  def loss(table, code, key):
    del key
    return jnp.sum(jnp.take(table, code, axis=0) * jnp.array([[10.0], [-9.0]]))

  table = jnp.zeros((256, 40))
  assert "pair" in grads.explain(loss, table, jnp.zeros(2, index), KEY).leaves[0].rule
  batch = jnp.array([[3, 200], [0, 1]], index)
  np.testing.assert_allclose(added(loss, table, batch, 0), 1, rtol=1e-6)


def test_sums_of_narrow_gradients_are_float32():
  """1024 gradients of norm 1 and one more differ by 1; in bfloat16 they would differ by 0 or 8."""
  run = jax.jit(
    lambda w: grads.clipped_sum(times, 1.0)(
      jnp.zeros(1, jnp.bfloat16), jnp.ones((1040, 1), jnp.bfloat16), KEY, weights=w
    )
  )
  sums = [run((jnp.arange(1040) < n).astype(jnp.float32)).grads for n in (1028, 1029)]
  assert sums[0].dtype == jnp.float32
  assert [float(s[0]) for s in sums] == [1028, 1029]
  by_one = grads.clipped_sum(times, 1.0, chunk=1, method="vmap")
  total = by_one(jnp.array([256.0], jnp.bfloat16), jnp.ones((2, 1), jnp.bfloat16), KEY).grads
  assert total.dtype == jnp.float32 and float(total[0]) == 2


def test_a_tiny_input_times_a_huge_cotangent_is_an_ordinary_gradient():
  """|g| = 1e-19 * 1.5e19 / 8 * 64 * 8 = 96, but the square of 1e-19 is 0."""
  slope = 1.5e19 / 8

  def loss(w, x, key):
    del key
    return jnp.sum(slope * (x @ w))

  w, x = jnp.zeros((4096, 64)), jnp.full((2, 4096), 1e-19)
  assert "pair" in grads.explain(loss, w, x[0], KEY).leaves[0].rule
  for method in ("ghost", "vmap"):
    np.testing.assert_allclose(added(loss, w, x, 0, method=method), 1, rtol=1e-5)


@pytest.mark.parametrize(("size", "bound"), [(5e-20, 1e-18), (5e-20, 1e-25), (1e-30, 1e-32)])
def test_small_gradients_keep_a_small_bound(size, bound):
  batch = jnp.full((2, 1000), size)
  np.testing.assert_allclose(added(times, jnp.zeros(1000), batch, 0, bound), bound, rtol=1e-5)


def test_a_huge_gradient_counts_with_its_share():
  """(3e25, 4e25) has a square beyond float32; clipped to 1 it is (0.6, 0.8)."""
  out = grads.clipped_sum(times, 1.0)(jnp.zeros(2), jnp.array([[3e25, 4e25], [0, 0.5]]), KEY)
  np.testing.assert_allclose(out.norms, [5e25, 0.5], rtol=1e-6)
  np.testing.assert_allclose(out.grads, [0.6, 1.3], rtol=1e-6)


@pytest.mark.parametrize("bound", [1e-46, 1e-39, -1.0, jnp.ones(2)])
def test_bounds_that_float32_does_not_hold_are_refused(bound):
  with pytest.raises(InputError, match="max_norm"):
    grads.clipped_sum(times, bound)


def test_a_bound_that_reaches_zero_lets_nothing_through():
  run = jax.jit(lambda c: grads.clipped_sum(times, c)(jnp.zeros(3), 1e-3 * jnp.ones((2, 3)), KEY))
  for bound in (0.0, 1e-40, float("nan")):
    assert length(run(jnp.float32(bound)).grads) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_no_number_reaches_nobody_else(bad):
  batch = jnp.array([[3.0, 4.0], [0.3, 0.4]])
  out = grads.clipped_sum(times, 1.0)(jnp.zeros(2), batch, KEY, weights=jnp.array([bad, 1.0]))
  np.testing.assert_allclose(out.grads, [0.3, 0.4], rtol=1e-6)


def test_bounds_are_copied():
  batch = 5 * jnp.eye(3)
  array, table = np.array(1.0), {"all": 1.0}
  runs = [
    grads.clipped_sum(times, array),
    grads.clipped_sum(times, table, clip=lambda path: "all"),
  ]
  array[...], table["all"] = 0.1, 0.1
  for run in runs:
    np.testing.assert_allclose(run(jnp.zeros(3), batch, KEY).grads, [1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_leaves_of_size_zero_are_there_and_empty(method):
  def loss(p, x, key):
    return times(p["w"] + jnp.sum(p["none"]), x, key)

  params = {"w": jnp.zeros(2), "none": jnp.zeros((0, 4))}
  batch = jnp.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
  out = grads.clipped_sum(loss, 1.0, chunk=2, method=method)(params, batch, KEY)
  np.testing.assert_allclose(out.grads["w"], [0.9, 1.2], rtol=1e-6)
  assert out.grads["none"].shape == (0, 4)


def test_no_example_changes_the_factor_of_another_one():
  """Example 0 cancels so far that its gradient is formed; the others keep every bit."""

  def loss(w, x, key):
    del key
    return jnp.sum(x["s"][:, None] * (x["a"] @ w) * jnp.cos(jnp.arange(64.0))[None])

  a = jax.random.normal(jax.random.key(1), (1, 1, 48)) * jnp.ones((6, 4, 1))
  s = jnp.tile(jnp.array([1.0, -1.0, 1.0, -0.86]), (6, 1))  # squares are .0013 of their scale
  run = jax.jit(
    lambda s: grads.clipped_sum(loss, 1.0, method="ghost")(
      jnp.zeros((48, 64)), {"a": a, "s": s}, KEY, weights=jnp.array([0.0, 1, 1, 1, 1, 1])
    )
  )
  plain, other = run(s), run(s.at[0].set(jnp.array([1.0, -1, 1, -1 + 1e-4])))
  np.testing.assert_array_equal(plain.norms[1:], other.norms[1:])
  np.testing.assert_array_equal(plain.grads, other.grads)
  # and its own norm is not rounding: |sum s| |a| |b|
  want = 1e-4 * jnp.linalg.norm(a[0, 0]) * jnp.linalg.norm(jnp.cos(jnp.arange(64.0)))
  np.testing.assert_allclose(other.norms[0], want, rtol=5e-2)  # rounded up
