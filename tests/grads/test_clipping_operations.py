"""Clipped sums of every operation that a loss may hold, against gradients that are all formed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from medjax import grads
from tests.grads.clipping_checks import (
  KEY,
  RandomNet,
  assert_trees_close,
  check,
  normal,
  random_params,
  reference,
)

KINDS = ("strided", "dilated", "grouped", "transposed", "norm", "dense", "attention", "shared")


@settings(max_examples=2, deadline=None, derandomize=True, phases=(Phase.generate,))
@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), st.integers(1, 3))
def test_random_networks_agree_with_vmap(kinds, dims):
  net = RandomNet(tuple(kinds), dims)
  images = normal(1, 3, *(5, 4, 3)[:dims], 2)
  params = random_params(net, images[0])

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
  "wide": dict(shape=(40, 33), strides=(1, 2)),
  "tiles": dict(shape=(7, 6), strides=(3, 3), padding=((0, 0), (0, 0))),
  "tiles, grouped": dict(shape=(6, 11), strides=(3, 3), padding=((0, 0), (0, -1)), groups=2),
}


@pytest.mark.parametrize(
  ("name", "layout"),
  [
    *((name, "last") for name in CONVOLUTIONS),
    ("strided, uneven padding", "first"),
    ("transposed", "first"),
    ("tiles", "first"),
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
      params = np.moveaxis(params, (-1, -2), (0, 1))
      batch = np.moveaxis(batch, -1, 2)
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
