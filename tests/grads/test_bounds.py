"""The bound of clipped sums for every type, index and size, and examples that stay apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core
from jax.sharding import AxisType, PartitionSpec

from medjax import grads
from medjax.check import InputError
from medjax.grads.ghost import derivatives
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


def centred(x):
  return np.asarray(x - np.mean(x), np.float32)


def by_callback(p, x, key):
  del key
  same = jax.ShapeDtypeStruct(x.shape, x.dtype)
  x = jax.pure_callback(centred, same, x, vmap_method="broadcast_all")
  return jnp.vdot(p, x)


@jax.custom_batching.custom_vmap
def centre(x):
  return x


centre.def_vmap(lambda size, is_batched, x: (x - x.mean(0, keepdims=True), True))


def by_batching_rule(p, x, key):
  del key
  return jnp.vdot(p, centre(x))


@jax.custom_vjp
def hidden(p, x):
  return jnp.vdot(p, x)


hidden.defvjp(lambda p, x: (hidden(p, x), x), lambda x, b: (b * centre(x), jnp.zeros_like(x)))


def by_its_derivative(p, x, key):
  del key
  return hidden(p, x)


def by_print(p, x, key):
  jax.debug.print("{}", x)
  return times(p, x, key)


def by_branch(p, x, key):
  return jax.lax.cond(x[0] > 0, lambda: by_callback(p, x, key), lambda: 0.0)


@pytest.mark.parametrize("method", ["ghost", "vmap"])
@pytest.mark.parametrize(
  "loss", [by_callback, by_batching_rule, by_its_derivative, by_print, by_branch]
)
def test_losses_that_could_see_other_examples_are_refused(loss, method):
  with pytest.raises(InputError, match="one example alone"):
    grads.clipped_sum(loss, 1.0, method=method)(jnp.ones(3), jnp.ones((4, 3)), KEY)


@pytest.mark.parametrize("check_vma", [False, True])
def test_collectives_over_devices_are_refused(check_vma):
  """By hand, or by shard_map itself, which sums gradients of replicated parameters."""

  def loss(p, x, key):
    del key
    return jnp.vdot(p, x if check_vma else x - jax.lax.pmean(x, "data"))

  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  spec = PartitionSpec("data")

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=check_vma
  )
  def run(p, x):
    return grads.clipped_sum(loss, 1.0)(p, x, KEY).norms

  with pytest.raises(InputError, match="mixes examples"):
    jax.make_jaxpr(run)(jnp.ones(3), jnp.ones((4, 3)))


def test_axes_inside_the_loss_are_its_own():
  def loss(p, x, key):
    del key
    return jnp.sum(jax.vmap(lambda v: p * v - jax.lax.pmean(p * v, "k"), axis_name="k")(x) ** 2)

  out = grads.clipped_sum(loss, 1.0)(jnp.float32(2), jnp.array([[1.0, 3], [0, 0]]), KEY)
  np.testing.assert_allclose(out.norms, [8, 0], rtol=1e-6)  # p^2 * 2, derivative 4 p


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
