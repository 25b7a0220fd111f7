"""Subnetworks of units: later domains change no bit of an earlier one's logits; scores by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods
from medjax.check import InputError
from medjax.methods import unit_masks

SIZES = {"first": 6, "second": 5}
RANDOM = np.random.default_rng(0)
KEY = jax.random.key(0)


def start():
  shapes = {"first": (3, 6), "second": (6, 5), "head": (5, 2)}
  return {
    layer: {
      "kernel": jnp.asarray(RANDOM.normal(size=shape), jnp.float32),
      "bias": jnp.asarray(RANDOM.normal(size=shape[-1:]), jnp.float32),
    }
    for layer, shape in shapes.items()
  }


def apply(params, gates, image):
  x = image
  for layer in SIZES:
    x = jnp.tanh(x @ params[layer]["kernel"] + params[layer]["bias"]) * gates[layer]
  return x @ params["head"]["kernel"] + params["head"]["bias"]


def loss_fn(params, gates, example, key):
  return jnp.sum((apply(params, gates, example["image"]) - example["label"]) ** 2)


def batch(seed, num=4):
  random = np.random.default_rng(seed)
  return {
    "image": random.normal(size=(num, 3)).astype(np.float32),
    "label": random.normal(size=(num, 2)).astype(np.float32),
    "index": np.arange(num, dtype=np.int32),
  }


def units(first, second):
  found = unit_masks.no_units(SIZES)
  found["first"][list(first)], found["second"][list(second)] = 1, 1
  return found


def trained(params, gates, used, tx, seed, num=5):
  moves = unit_masks.may_move(params, used, head="head")
  own = lambda p, example, key: loss_fn(p, gates, example, key)  # noqa: E731
  step = methods.supervised(own, unit_masks.only_moved(tx, moves))
  state, update = step.init(params, KEY), jax.jit(step.update)
  for t in range(num):
    state, _ = update(state, batch(seed + t), jax.random.fold_in(KEY, t))
  return state.params


@pytest.mark.parametrize("tx", [optax.adamw(0.1, weight_decay=0.1), optax.sgd(0.1, 0.9)])
def test_later_domains_change_no_bit_of_earlier_logits(tx):
  first, second = units((0, 3), (1, 2)), units((1, 4), (0, 3))
  run = jax.jit(jax.vmap(apply, (None, None, 0)))
  images = jnp.asarray(batch(99, 8)["image"])
  params = trained(start(), first, unit_masks.no_units(SIZES), tx, 0)
  before = np.asarray(run(params, first, images))
  both = unit_masks.joined(first, second)
  later = trained(params, both, first, tx, 50)  # it may read the first one's units
  np.testing.assert_array_equal(np.asarray(run(later, first, images)), before)
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), later, params)
  assert min(moved["first"]["kernel"], moved["second"]["kernel"], moved["head"]["kernel"]) > 0.01
  last = trained(later, unit_masks.joined(both, units((2,), (4,))), both, tx, 90)
  np.testing.assert_array_equal(np.asarray(run(last, first, images)), before)
  free = trained(params, both, unit_masks.no_units(SIZES), tx, 50)  # without the masks it forgets
  assert np.abs(np.asarray(run(free, first, images)) - before).max() > 0.1


def test_first_order_scores_are_what_silencing_a_unit_changes():
  """By differences of the gates in NumPy's float64, example by example."""
  params, own, gates = start(), batch(3), units((0, 1, 3), (1, 2))
  found = unit_masks.taylor(loss_fn, params, gates, own, KEY)
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def value(which, i):
    x = own["image"][i].astype(np.float64)
    for layer in SIZES:
      x = np.tanh(x @ p[layer]["kernel"] + p[layer]["bias"]) * which[layer]
    return np.sum((x @ p["head"]["kernel"] + p["head"]["bias"] - own["label"][i]) ** 2)

  for layer, unit in (("first", 3), ("second", 1), ("second", 0)):
    slopes = []
    for i in range(4):
      sides = []
      for h in (1e-5, -1e-5):
        which = {n: g.astype(np.float64) for n, g in gates.items()}
        which[layer][unit] += h
        sides.append(value(which, i))
      slopes.append(abs(sides[0] - sides[1]) / 2e-5)
    expected = np.mean(slopes) if gates[layer][unit] else 0.0
    np.testing.assert_allclose(found[layer][unit], expected, rtol=1e-4)


def test_magnitudes_are_lengths_of_what_feeds_a_unit():
  params, gates = start(), units((0, 2), (4,))
  found = unit_masks.magnitude(params, gates)
  expected = np.linalg.norm(np.asarray(params["first"]["kernel"]), axis=0)
  np.testing.assert_allclose(found["first"], expected * gates["first"], rtol=1e-6)


def test_what_is_used_up_or_coupled_is_refused():
  scores, used = {"first": np.arange(6.0)}, {"first": np.array([1, 1, 1, 1, 0, 0])}
  assert unit_masks.kept(scores, used, 1 / 3)["first"].tolist() == [0, 0, 0, 0, 1, 1]
  with pytest.raises(InputError, match="3 free units in first, got 2 of 6"):
    unit_masks.kept(scores, used, 0.5)
  five = {"first": np.zeros(128, np.float32)}
  for _ in range(5):  # a fifth each fits, although 128 is not a multiple of five
    mine = unit_masks.kept({"first": np.arange(128.0)}, five, 0.2)
    five = unit_masks.joined(five, mine)
  assert five["first"].sum() == 125
  normed = {**start(), "norm": {"scale": jnp.ones(6)}}
  with pytest.raises(InputError, match="norm"):
    unit_masks.may_move(normed, unit_masks.no_units(SIZES), head="head")
  with pytest.raises(InputError, match="5 units that the head reads"):
    unit_masks.may_move(start(), unit_masks.no_units({"first": 6, "second": 6}), head="head")
