"""Cut U-Nets and links that lose packets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import nets, ops
from medjax.check import InputError
from medjax.ops.lossy_link import masked
from medjax.tree import named_leaves

KEY, CUTS = jax.random.key(0), ("shallow", "deep", "deep-skip")
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 1)), jnp.float32)
UNET = nets.UNet(2, (4, 4, 4), norm="group", activation="silu", convolution="native")
PARAMS = jax.jit(UNET.init)(KEY, IMAGE)["params"]
WEIGHT = jnp.asarray(np.random.default_rng(1).normal(size=(8, 8, 2)), jnp.float32)


def loss(apply, params, image):
  return (WEIGHT * apply(params, image)).sum()


@functools.cache
def program(cut):
  def slope(forward, backward):
    def link(number, x):
      ones = jnp.ones((1,) * x.ndim)
      return masked(x, forward[number] * ones, backward[number] * ones)

    apply = functools.partial(nets.split(UNET, cut).apply, link=link)
    return jax.grad(functools.partial(loss, apply), (0, 1))(PARAMS, IMAGE)

  return jax.jit(slope)


def slopes(cut, forward=1.0, closed=()):
  """Gradients with links that scale features; those in `closed` pass no gradient back."""
  backward = np.ones(4, np.float32)
  backward[list(closed)] = 0
  return program(cut)(np.full(4, forward, np.float32), backward)


@pytest.mark.parametrize(
  "cut", ["deep-skip", *[pytest.param(cut, marks=pytest.mark.slow) for cut in CUTS[:2]]]
)
def test_without_losses_it_is_the_whole_network(cut):
  """Bit for bit forward; back two programs sum in different orders, and links change no bit."""
  own = nets.split(UNET, cut)

  def over_links(params, image):
    keys = jax.random.split(KEY, own.num_links)
    return own.apply(params, image, lambda number, x: ops.lossy_link(x, keys[number], 0.0))

  def whole(params, image):
    return UNET.apply({"params": params}, image)

  (value, slope), (same, want) = (
    jax.jit(jax.value_and_grad(functools.partial(loss, f), (0, 1)))(PARAMS, IMAGE)
    for f in (over_links, whole)
  )
  assert value == same
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, slope, want)


def test_a_link_without_losses_changes_no_bit_forward_or_back():
  x, g = jnp.asarray(np.random.default_rng(3).normal(size=(2, 4, 4, 3)), jnp.float32)
  found, back = jax.vjp(lambda x: ops.lossy_link(x, KEY, 0.0), x)
  np.testing.assert_array_equal(found, x)
  np.testing.assert_array_equal(back(g)[0], g)


@pytest.mark.parametrize("cut", CUTS)
def test_nothing_passes_by_the_links_but_the_skip_connection_of_the_deep_cut(cut):
  _, slope = slopes(cut, forward=0.0, closed=range(4))
  assert bool(jnp.abs(slope).max() > 0) == (cut == "deep")


@pytest.mark.parametrize("cut", CUTS)
def test_parameters_are_on_the_side_that_they_say(cut):
  """Where nothing comes back over the last link, the back alone has a gradient; and so on."""
  side = nets.split(UNET, cut).side
  number_of = {"front": 0, "server": 1, "back": 2}
  sides = {path: number_of[side(path)] for path in named_leaves(PARAMS)}
  assert set(sides.values()) == {0, 1, 2}
  skips = {"deep": 0}.get(cut)  # its front hears of the loss over its own skip connection
  for closed, least in (((1, 3), 2), ((0, 2), 1)):
    slope, _ = slopes(cut, closed=closed)
    for path, leaf in named_leaves(slope).items():
      hears = sides[path] >= least or sides[path] == skips
      assert bool(jnp.abs(leaf).max() > 0) == hears, (path, closed)


def test_a_lost_packet_is_a_row_of_one_map_and_losses_forward_and_back_are_apart():
  x, g = jnp.ones((6, 5, 3)), jnp.full((6, 5, 3), 2.0)
  out, back = jax.vjp(lambda x: ops.lossy_link(x, KEY, 0.5), x)
  (slope,) = back(g)
  for found, one in ((out, 1), (slope, 2)):
    rows = np.asarray(found).transpose(0, 2, 1).reshape(18, 5)
    assert (rows == rows[:, :1]).all() and set(np.unique(rows)) == {0, one}
  assert (np.asarray(out) * 2 != np.asarray(slope)).any()


@pytest.mark.parametrize(("rescales", "share"), ((False, 0.3), (True, 1.0)))
def test_the_mean_gradient_is_the_share_that_arrives(rescales, share):
  """Over draws; five deviations of a mean of 4,000 masks are .036 of g, rescaled .12."""
  g = jnp.asarray(np.random.default_rng(2).normal(size=(2, 1, 2)), jnp.float32)

  def drawn(key):
    link = functools.partial(ops.lossy_link, key=key, loss_rate=0.7, rescales=rescales)
    return jax.grad(lambda x: (g * link(x)).sum())(jnp.ones((2, 1, 2)))

  found = jax.jit(jax.vmap(drawn))(jax.random.split(KEY, 4000)).mean(0)
  np.testing.assert_allclose(found / g, share, atol=0.12 if rescales else 0.036)


@pytest.mark.parametrize(
  ("call", "message"),
  (
    (lambda: nets.split(nets.UNet(2, (4,)), "deep"), "two levels and two convolutions"),
    (lambda: ops.lossy_link(jnp.ones((2, 2)), KEY, -0.5), r"loss_rate in \[0, 1\), got -0.5"),
    (lambda: ops.lossy_link(jnp.ones((2, 2)), KEY, 1.0), r"loss_rate in \[0, 1\), got 1"),
    (lambda: ops.lossy_link(jnp.ones((2, 2)), KEY, np.nan), r"loss_rate in \[0, 1\), got nan"),
  ),
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message):
    call()
