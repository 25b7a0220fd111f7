"""Clipped sums against vmap of grad: random networks, all kinds of operations, ways to split."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medjax import grads, nets
from medjax.check import InputError

KEY = jax.random.key(0)


def normal(seed, *shape):
  return jax.random.normal(jax.random.key(seed), shape)


def reference(loss_fn, params, batch, key=KEY, weights=None, max_norm=1.0):
  """Norms and clipped sum from gradients that are all formed, in NumPy's float64."""
  found = jax.jit(grads.per_sample(loss_fn))(params, batch, key).grads
  found = jax.tree.map(lambda g: np.asarray(g, np.float64), found)
  norms = np.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(1) for g in jax.tree.leaves(found)))
  weights = np.ones(len(norms)) if weights is None else np.asarray(weights)
  factor = weights * np.minimum(1, max_norm / norms)
  return norms, jax.tree.map(lambda g: np.tensordot(factor, g, 1), found), found


def assert_trees_close(got, want, tolerance=1e-5):
  largest = max(np.abs(x).max() for x in jax.tree.leaves(want))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance * largest), got, want)


def inner_products(found, direction):
  """[example] over all leaves."""
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(direction), strict=True)
  return sum((np.asarray(g) * np.asarray(r)).reshape(len(g), -1).sum(1) for g, r in pairs)


def check(loss_fn, params, batch, **options):
  norms, want, found = reference(loss_fn, params, batch)
  direction = jax.tree.map(lambda x: normal(x.size, *x.shape), params)
  out = jax.jit(
    lambda p, b, k: grads.clipped_sum(loss_fn, 1.0, method="ghost", **options)(
      p, b, k, direction=direction
    )
  )(params, batch, KEY)
  np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
  assert_trees_close(out.grads, want)
  dots = inner_products(found, direction)
  scale = norms.max() * np.sqrt(sum((np.asarray(r) ** 2).sum() for r in jax.tree.leaves(direction)))
  np.testing.assert_allclose(out.dots, dots, atol=1e-6 * scale)


class RandomNet(nn.Module):
  """A network that hypothesis draws: blocks of convolutions, norms and products, with skips."""

  kinds: tuple[str, ...]
  dims: int

  @nn.compact
  def __call__(self, image):
    x = image[None]
    for i, kind in enumerate(self.kinds):
      window = (3,) * self.dims
      if kind == "strided":
        x = nn.Conv(4, window, strides=2, name=f"c{i}")(x)
      elif kind == "dilated":
        x = nn.Conv(4, window, kernel_dilation=2, name=f"c{i}")(x)
      elif kind == "grouped":
        x = nn.Conv(4, window, feature_group_count=2, name=f"c{i}")(nn.Dense(4, name=f"g{i}")(x))
      elif kind == "transposed":
        x = nn.ConvTranspose(3, (2,) * self.dims, strides=(2,) * self.dims, name=f"c{i}")(x)
      elif kind == "norm":
        x = nn.GroupNorm(num_groups=1, name=f"n{i}")(x)
      elif kind == "dense":
        x = nn.silu(nn.Dense(5, name=f"d{i}")(x))
      elif kind == "attention":
        rows = x.reshape(-1, x.shape[-1])
        rows = nn.MultiHeadDotProductAttention(num_heads=1, qkv_features=4, name=f"a{i}")(rows)
        x = rows.reshape(*x.shape[:-1], rows.shape[-1])
      elif kind == "shared":
        layer = nn.Dense(x.shape[-1], name=f"s{i}")
        x = x + layer(nn.tanh(layer(x)))
    return nn.Dense(2, name="head")(x.reshape(-1))


KINDS = ("strided", "dilated", "grouped", "transposed", "norm", "dense", "attention", "shared")


@settings(max_examples=4, deadline=None, derandomize=True, phases=(Phase.generate,))
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), st.integers(1, 3))
def test_random_networks_agree_with_vmap(kinds, dims):
  net = RandomNet(tuple(kinds), dims)
  images = normal(1, 3, *(5, 4, 3)[:dims], 2)
  params = jax.jit(net.init)(jax.random.key(2), images[0])["params"]
  params = jax.tree.map(lambda x: x + 0.1 * normal(x.size, *x.shape), params)  # no zero biases

  def loss(params, image, key):
    noise = 0.1 * jax.random.normal(key, image.shape)
    return jnp.sum(jnp.tanh(net.apply({"params": params}, image + noise)) ** 2)

  check(loss, params, images)


CONVOLUTIONS = {
  "1D": dict(shape=(7,), strides=(1,)),
  "strided, uneven padding": dict(shape=(7, 6), strides=(2, 3), padding=((0, 2), (1, 0))),
  "dilated": dict(shape=(9, 8), rhs_dilation=(2, 3)),
  "negative padding": dict(shape=(8, 8), padding=((-1, 1), (2, -2))),
  "transposed": dict(shape=(3, 4), lhs_dilation=(2, 3), padding=((2, 1), (1, 2))),
  "transposed and strided": dict(shape=(4, 3), lhs_dilation=(3, 1), strides=(2, 2)),
  "grouped": dict(shape=(5, 5), groups=2),
  "3D": dict(shape=(3, 4, 5), strides=(1, 2, 1)),
}


@pytest.mark.parametrize(
  ("name", "layout"),
  [
    *((name, "last") for name in CONVOLUTIONS),
    ("strided, uneven padding", "first"),
    ("transposed", "first"),
  ],
)
def test_convolutions(name, layout):
  """Every geometry, channels last and first; a small and a large kernel take different rules."""
  case = {"strides": None, "padding": None, "rhs_dilation": None, "lhs_dilation": None, "groups": 1}
  case |= CONVOLUTIONS[name]
  dims = len(case["shape"])
  space = "DHW"[-dims:]
  numbers = (
    (f"N{space}C", f"{space}IO", f"N{space}C")
    if layout == "last"
    else (f"NC{space}", f"OI{space}", f"NC{space}")
  )

  def loss(params, image, key):
    del key
    out = jax.lax.conv_general_dilated(
      image,
      params,
      case["strides"] or (1,) * dims,
      case["padding"] or ((1, 1),) * dims,
      lhs_dilation=case["lhs_dilation"],
      rhs_dilation=case["rhs_dilation"],
      dimension_numbers=numbers,
      feature_group_count=case["groups"],
    )
    return jnp.sum(jnp.sin(out))

  has_two_rules = case["groups"] == 1 and case["lhs_dilation"] is None
  for channels_in, channels_out in ((2, 2), (8, 24))[: 1 + has_two_rules]:
    kernel, image = (3,) * dims, (2, *case["shape"], channels_in)
    weight = (*kernel, channels_in // case["groups"], channels_out)
    params, batch = 0.1 * normal(3, *weight), normal(4, 3, *image)
    if layout == "first":
      params = jnp.moveaxis(params, (-1, -2), (0, 1))
      batch = jnp.moveaxis(batch, -1, 2)
    check(loss, params, batch)


GEOMETRIES = {
  "strided": dict(strides=(2, 1), padding=((0, 2), (1, 0))),
  "dilated": dict(rhs_dilation=(2, 1)),
  "transposed": dict(lhs_dilation=(2, 2), padding=((2, 1), (1, 2))),
  "grouped": dict(feature_group_count=2),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolutions_in_the_loop_over_chunks(name):
  """The second one's input gradient is what XLA:CPU computes slowly for kernels in JAX's order."""
  case = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), **GEOMETRIES[name]}
  strides, padding = case.pop("strides"), case.pop("padding")

  def loss(params, image, key):
    del key
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(
      image[None], params["first"], (1, 1), "SAME", dimension_numbers=numbers
    )
    x = jax.lax.conv_general_dilated(
      jnp.tanh(x), params["second"], strides, padding, dimension_numbers=numbers, **case
    )
    return jnp.sum(jnp.sin(x))

  groups = case.get("feature_group_count", 1)
  params = {
    "first": 0.3 * normal(1, 3, 3, 2, 4),
    "second": 0.2 * normal(2, 3, 3, 4 // groups, 48),  # wide: its norm comes from pairs
  }
  batch = normal(3, 5, 6, 5, 2)
  norms, want, _ = reference(loss, params, batch)
  compiled = jax.jit(grads.clipped_sum(loss, 1.0, chunk=2)).lower(params, batch, KEY).compile()
  out = compiled(params, batch, KEY)
  np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
  assert_trees_close(out.grads, want)
  text = compiled.as_text()
  assert "while(" in text and "convolution(" in text
  labels = set(re.findall(r"dim_labels=b01f_(\w+)->b01f", text))
  assert labels == {"01io"}


def test_losses_whose_convolutions_no_loop_is_fast_for_are_unrolled():
  """A convolution inside a scan is differentiated by XLA's own rules."""

  def loss(params, image, key):
    del key
    numbers = ("NHWC", "HWIO", "NHWC")
    layer = lambda x, k: (  # noqa: E731
      jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers),
      None,
    )
    return jnp.sum(jnp.sin(jax.lax.scan(layer, image[None], params)[0]))

  params, batch = 0.3 * normal(1, 2, 3, 3, 2, 2), normal(2, 3, 4, 4, 2)
  _, want, _ = reference(loss, params, batch)
  out = jax.jit(grads.clipped_sum(loss, 1.0, chunk=2))(params, batch, KEY)
  assert_trees_close(out.grads, want)


def lookup(p, tokens, key):
  del key
  return jnp.sum(jnp.tanh(p["table"][tokens] @ p["w"]) ** 2)


def lookup_outside(p, tokens, key):
  """Indices beyond the table: dropped by one reading, clipped to the last row by the other."""
  del key
  rows = p["table"].at[tokens - 7].get(mode="fill", fill_value=0.5)
  rows += p["other"].at[2 * tokens].get(mode="clip")
  return jnp.sum(jnp.tanh(rows) ** 2)


def tied(p, tokens, key):
  del key
  return jnp.sum(jax.nn.log_softmax(jnp.tanh(p["table"][tokens] @ p["w"]) @ p["table"].T))


def recurrent(p, tokens, key):
  del key
  steps = jax.nn.one_hot(tokens, 3)
  h, _ = jax.lax.scan(lambda h, x: (jnp.tanh(p["w"] @ h + x), None), jnp.zeros(3), steps)
  return jnp.sum(h**2)


def branched(p, tokens, key):
  del key
  x = jax.nn.one_hot(tokens, 3) @ p["w"]
  return jnp.sum(
    jax.lax.cond(tokens[0] > 2, lambda x: x * p["b"][None], lambda x: x - p["b"][None], x) ** 2
  )


def normalised(p, tokens, key):
  del key
  weight = p["w"] / jnp.linalg.norm(
    p["w"], axis=0, keepdims=True
  )  # weight norm: not linear in the leaf
  return jnp.sum(jnp.cos(jax.nn.one_hot(tokens, 3) @ weight) * p["b"][None])


def called(p, tokens, key):
  del key
  layer = jax.checkpoint(jax.jit(lambda w, x: jax.nn.silu(x @ w)))
  return jnp.sum(layer(p["w"], jax.nn.one_hot(tokens, 3)) / (1 + p["b"][None] ** 2))


@jax.custom_vjp
def doubled(w, x):
  return 2 * w @ x


doubled.defvjp(
  lambda w, x: (2 * w @ x, (w, x)),
  lambda saved, b: (3 * jnp.outer(b, saved[1]), 2 * saved[0].T @ b),
)  # a wrong gradient on purpose: it must be kept


def custom(p, tokens, key):
  del key
  return jnp.sum(doubled(p["w"], tokens[:3].astype(jnp.float32)) ** 2)


def clamped(p, tokens, key):
  del key
  x = jax.nn.relu6(jax.nn.one_hot(tokens, 3) @ p["w"])  # custom_jvp
  return jnp.sum(x**2) + 0.1 * jnp.sum(p["w"] ** 2)  # a term that no example enters


def sliced(p, tokens, key):
  del key
  x = jax.nn.one_hot(tokens, 3)
  return jnp.sum((x @ p["w"][:, :2]) ** 2) + jnp.sum((x @ p["w"][:, 2:]).sum() * p["b"])


@pytest.mark.parametrize(
  "loss",
  [lookup, lookup_outside, tied, recurrent, branched, normalised, called, custom, clamped, sliced],
)
def test_operations_of_every_kind(loss):
  params = {
    "w": normal(5, 3, 3),
    "b": normal(6, 3),
    "table": normal(7, 5, 3),
    "other": normal(9, 4, 3),
  }
  check(loss, params, jax.random.randint(jax.random.key(8), (4, 6), 0, 5))


def classifier(widths=(4, 4, 8, 8)):
  net = nets.from_linen(nets.ResNet9(num_outputs=3, widths=widths, num_groups=2))
  images, labels = normal(1, 7, 16, 16, 2), jnp.arange(7) % 3

  def loss(params, example, key):
    image = example[0] + 0.1 * jax.random.normal(key, example[0].shape)
    return -jax.nn.log_softmax(net.apply(params, image)[0])[example[1]]

  params, _ = net.init(jax.random.key(2), images[0])
  return loss, params, (images, labels)


@pytest.fixture(scope="module")
def resnet():
  loss, params, batch = classifier()
  return loss, params, batch, reference(loss, params, batch)


@pytest.mark.parametrize("chunk", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_chunks_change_the_sum_by_rounding_only(resnet, chunk):
  loss, params, batch, (norms, want, _) = resnet
  out = jax.jit(grads.clipped_sum(loss, 1.0, chunk=chunk))(params, batch, KEY)
  np.testing.assert_allclose(out.norms, norms, rtol=1e-5)
  assert out.losses.shape == (7,)
  assert_trees_close(out.grads, want, 2e-6)


def test_order_and_padding_change_the_sum_by_rounding_only():
  """Keys follow the index of an example, and padding has weight 0 whatever it holds."""

  def loss(params, example, key):
    return jnp.sin(params @ (example.image + jax.random.normal(key, (3,))))

  def batch(rows, weight):
    from medjax.types import Batch

    rows = np.asarray(rows)
    image = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)[rows]
    return Batch(image, rows, rows, rows, rows, np.float32(weight))

  run = jax.jit(grads.clipped_sum(loss, 0.5))
  params = normal(3, 3)
  want = run(params, batch([0, 1, 2], [1, 1, 0.5]), KEY).grads
  got = run(params, batch([4, 2, 0, 1, 3], [0, 0.5, 1, 1, 0]), KEY).grads
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("chunk", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_two_devices_equal_one(resnet, chunk):
  loss, params, batch, (_, want, _) = resnet
  batch = jax.tree.map(lambda x: x[:6], batch)
  _, want, _ = reference(loss, params, batch)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  rows = NamedSharding(mesh, PartitionSpec("data"))
  run = jax.jit(grads.clipped_sum(loss, 1.0, chunk=chunk))
  out = run(params, jax.device_put(batch, rows), KEY)
  assert_trees_close(out.grads, want, 2e-6)


def test_works_inside_shard_map_with_donated_arguments(resnet):
  loss, params, batch, _ = resnet
  batch = jax.tree.map(lambda x: x[:6], batch)
  _, want, _ = reference(lambda p, e, k: loss(p, e, KEY), params, batch)
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  spec = PartitionSpec("data")

  @functools.partial(jax.jit, donate_argnums=1)
  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(PartitionSpec(), spec),
    out_specs=PartitionSpec(),
    check_vma=False,
  )
  def run(params, batch):
    out = grads.clipped_sum(lambda p, e, k: loss(p, e, KEY), 1.0)(params, batch, KEY)
    return jax.lax.psum(out.grads, "data")

  copy = jax.device_put(jax.tree.map(jnp.copy, batch), NamedSharding(mesh, spec))
  assert_trees_close(run(params, copy), want, 2e-6)


def linear(params, example, key):
  """The gradient of an example is the example."""
  del key
  return sum(jnp.vdot(p, x) for p, x in zip(params, example, strict=True))


PARAMS = (jnp.zeros(2), jnp.zeros(1))
BATCH = (jnp.array([[3.0, 4.0], [0.3, 0.0]]), jnp.array([[12.0], [0.4]]))  # norms 13 and 0.5


@pytest.mark.parametrize("method", ["ghost", "vmap"])
@pytest.mark.parametrize(
  ("clip", "max_norm", "want"),
  [
    ("global", 1.0, ([3 / 13 + 0.3, 4 / 13], [12 / 13 + 0.4])),
    ("global", jnp.inf, ([3.3, 4.0], [12.4])),
    ("per_leaf", 1.0, ([0.6 + 0.3, 0.8], [1.0 + 0.4])),
    ("automatic", 1.0, ([3 / 13.01 + 0.3 / 0.51, 4 / 13.01], [12 / 13.01 + 0.4 / 0.51])),
    (lambda path: "a" if path == "0" else "b", {"a": 2.5, "b": 0.2}, ([1.8, 2.0], [0.4])),
  ],
)
def test_ways_to_clip(method, clip, max_norm, want):
  run = jax.jit(grads.clipped_sum(linear, max_norm, clip=clip, method=method))
  out = run(PARAMS, BATCH, KEY)
  np.testing.assert_allclose(out.norms, [13, 0.5], rtol=1e-6)
  for got, expected in zip(out.grads, want, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_weights_and_alignment_multiply_what_was_clipped(method):
  direction = (jnp.array([1.0, 0.0]), jnp.array([-1.0]))  # dots 3 - 12 = -9 and 0.3 - 0.4 = -0.1

  def keep_aligned(norm, dot):
    return jnp.where(dot > -1, 5.0, jnp.nan)  # cut to 1, and NaN to 0

  run = grads.clipped_sum(linear, 1.0, method=method)
  out = run(
    PARAMS, BATCH, KEY, weights=jnp.array([1.0, 0.5]), direction=direction, weight_fn=keep_aligned
  )
  np.testing.assert_allclose(out.dots, [-9, -0.1], rtol=1e-5)
  np.testing.assert_allclose(out.grads[0], [0.15, 0], rtol=1e-6)


def broken_dense(params, example, key):
  del key
  return jnp.sum((example @ params["w"]) ** 2)


def broken_convolution(params, example, key):
  del key
  x = example.reshape(1, 4, 4, 1)
  out = jax.lax.conv_general_dilated(
    x, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return jnp.sum(jnp.sqrt(out))  # slope infinite at 0, NaN below


@pytest.mark.parametrize("method", ["ghost", "vmap"])
@pytest.mark.parametrize("loss", [broken_dense, broken_convolution])
def test_a_gradient_that_is_not_finite_adds_exactly_nothing(loss, method):
  params = {"w": jnp.ones((16, 2)), "k": jnp.ones((3, 3, 1, 1))}
  good = jnp.abs(normal(1, 2, 16)) + 1
  bad = jnp.stack([good[0], jnp.full(16, jnp.nan), good[1], jnp.full(16, jnp.inf)])
  run = jax.jit(grads.clipped_sum(loss, 1.0, method=method))
  want = run(params, good, KEY)
  got = run(params, bad, KEY)
  assert not np.isfinite(np.asarray(got.norms)[[1, 3]]).any()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got.grads, want.grads)


def test_a_loss_that_mixes_examples_is_refused():
  def loss(params, example, key):
    del key
    return jnp.sum((params * example - jax.lax.pmean(example, "batch")) ** 2)

  for method in ("ghost", "vmap"):
    with pytest.raises(InputError, match="mixes examples"):
      grads.clipped_sum(loss, 1.0, method=method)(jnp.ones(2), jnp.ones((3, 2)), KEY)
  with pytest.raises(InputError, match="mixes examples"):
    grads.per_sample_dot(loss)(jnp.ones(2), jnp.ones((3, 2)), KEY, jnp.ones(2))


def test_an_ordinary_name_error_stays_one():
  def loss(params, example, key):
    return undefined  # noqa: F821

  with pytest.raises(NameError, match="undefined"):
    grads.per_sample(loss)(jnp.ones(2), jnp.ones((3, 2)), KEY)


@pytest.mark.parametrize("options", [{"max_norm": 0.0}, {"max_norm": float("nan")}, {"chunk": 0}])
def test_bad_settings_are_refused(options):
  with pytest.raises(InputError):
    grads.clipped_sum(linear, **{"max_norm": 1.0, **options})


def test_auxiliary_output_comes_per_example():
  def loss(params, example, key):
    return linear(params, example, key), {"first": example[0][0]}

  for method in ("ghost", "vmap"):
    out = grads.clipped_sum(loss, 1.0, has_aux=True, method=method)(PARAMS, BATCH, KEY)
    np.testing.assert_allclose(out.aux["first"], [3, 0.3])


def test_products_cost_little_more_than_those_of_a_plain_gradient():
  loss, params, batch = classifier((16, 16, 32, 32))

  def plain(params, batch, key):
    keys = jax.random.split(key, 7)
    return jax.grad(lambda p: jax.vmap(loss, (None, 0, 0))(p, batch, keys).sum())(params)

  def flops(function):
    return jax.jit(function).lower(params, batch, KEY).compile().cost_analysis()["flops"]

  assert flops(grads.clipped_sum(loss, 1.0)) <= 1.15 * flops(plain)


def test_dots_by_jvp_and_microbatches_of_per_sample():
  net, batch = RandomNet(("norm", "dense"), 2), normal(1, 4, 5, 4, 2)
  params = jax.jit(net.init)(jax.random.key(2), batch[0])["params"]

  def loss(params, image, key):
    return jnp.sum(jnp.tanh(net.apply({"params": params}, image) + jax.random.normal(key, (2,))))

  direction = jax.tree.map(lambda x: normal(x.size, *x.shape), params)
  whole = jax.jit(grads.per_sample(loss))(params, batch, KEY)
  parts = jax.jit(grads.per_sample(loss, microbatch=2))(params, batch, KEY)
  assert_trees_close(parts.grads, jax.tree.map(np.asarray, whole.grads))
  want = inner_products(whole.grads, direction)
  got = jax.jit(grads.per_sample_dot(loss))(params, batch, KEY, direction)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  with pytest.raises(InputError, match="divides"):
    grads.per_sample(loss, microbatch=3)(params, batch, KEY)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_terms_that_cancel_do_not_let_an_example_through(offset):
  """Large inputs and cotangents that sum to zero: a Gram product alone would be rounding."""

  def dense(params, example, key):
    del key
    y = example @ params["w"]
    return jnp.sum(jnp.sin(y - y.mean(0, keepdims=True)))

  def convolution(params, example, key):
    del key
    y = jax.lax.conv_general_dilated(
      example.reshape(1, 4, 4, 32),
      params["k"],
      (1, 1),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jnp.sum(jnp.sin(y - y.mean((1, 2), keepdims=True)))

  params = {"w": 0.1 * normal(1, 32, 32), "k": 0.1 * normal(2, 1, 1, 32, 48)}
  batch = offset + normal(3, 4, 16, 32)
  for loss in (dense, convolution):
    explained = grads.explain(loss, params, batch[0], KEY).leaves
    assert any("pair" in row.rule for row in explained)
    run = jax.jit(lambda p, b, w, loss=loss: grads.clipped_sum(loss, 1.0)(p, b, KEY, weights=w))
    for i in range(4):  # what one example adds
      out = run(params, batch, jnp.zeros(4).at[i].set(1.0))
      added = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(out.grads)))
      assert np.isfinite(out.norms).all()
      assert added <= 1 + 1e-5


@jax.custom_vjp
def bounded(p):
  return p


bounded.defvjp(lambda p: (p, None), lambda _, g: (jnp.clip(g, -1, 1),))


def test_a_nonlinear_derivative_of_the_parameters_sees_the_sum():
  def loss(p, example, key):
    del key
    w = bounded(p)
    return jnp.vdot(w, example) + jnp.vdot(w, 0.5 * example)

  check(loss, normal(1, 3), 2 * normal(2, 4, 3))


def test_shared_functions_of_parameters_are_traced_in_linear_time():
  def loss(p, example, key):
    del key
    for _ in range(40):
      p = p - 0.1 * p * p
    return jnp.vdot(p, example)

  check(loss, 0.1 * normal(1, 3), normal(2, 4, 3))


def test_a_batch_of_no_examples_gives_a_gradient_of_zeros():
  for method in ("ghost", "vmap"):
    run = jax.jit(grads.clipped_sum(linear, 1.0, method=method))
    out = run(PARAMS, jax.tree.map(lambda x: x[:0], BATCH), KEY)
    assert out.norms.shape == (0,)
    assert all(float(jnp.abs(g).max()) == 0 for g in out.grads)


def test_what_has_no_norm_here_is_refused():
  with pytest.raises(InputError, match="real floating-point"):
    grads.clipped_sum(linear, 1.0)((jnp.zeros(2, jnp.complex64), jnp.zeros(1)), BATCH, KEY)
  with pytest.raises(InputError, match="finite max_norm"):
    grads.clipped_sum(linear, jnp.inf, clip="automatic")
  with pytest.raises(TypeError, match="scalar"):
    grads.clipped_sum(lambda p, e, k: p * e, 1.0)(jnp.zeros(2), jnp.ones((3, 2)), KEY)
