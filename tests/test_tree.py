"""Trees: paths as names, and means by weight that no padding row reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check, tree
from medjax.types import TrainState

PARAMS = {"b": [jnp.zeros(2), jnp.ones((1, 3))], "a": {"x": jnp.zeros((), jnp.int32)}}


def test_names_stand_in_the_order_of_the_leaves():
  named = tree.named_leaves(PARAMS)
  assert list(named) == ["a/x", "b/0", "b/1"]
  assert all(x is y for x, y in zip(named.values(), jax.tree.leaves(PARAMS), strict=True))
  assert tree.named_leaves(jnp.zeros(2)).keys() == {""}


def test_two_leaves_of_one_name_are_refused():
  with pytest.raises(check.InputError, match="one leaf of each name.*'a/b'"):
    tree.named_leaves({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})


def test_mapping_with_names_keeps_the_structure():
  found = tree.map_named(lambda name, x: (name, x.shape), PARAMS)
  expected = {"b": [("b/0", (2,)), ("b/1", (1, 3))], "a": {"x": ("a/x", ())}}
  assert found == expected


def test_types_and_shapes_tell_trees_apart():
  same = tree.types_and_shapes(PARAMS)
  assert same == tree.types_and_shapes(jax.tree.map(lambda x: x + 1, PARAMS))
  assert same != tree.types_and_shapes(jax.tree.map(lambda x: x.astype("float32"), PARAMS))
  assert same["['b'][1]"] == "float32[1, 3]"


def test_mean_by_weight_is_numpys():
  rng = np.random.default_rng(0)
  values, weight = rng.normal(size=(5, 2, 3)), rng.uniform(size=5)
  found = tree.weighted_mean({"x": jnp.asarray(values)}, jnp.asarray(weight))["x"]
  np.testing.assert_allclose(found, np.average(values, axis=0, weights=weight), rtol=1e-6)
  np.testing.assert_allclose(
    tree.weighted_mean(jnp.asarray(values), None), values.mean(0), rtol=1e-6
  )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_of_weight_0_changes_nothing_forwards_and_backwards(bad):
  values, weight = jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([1.0, 3.0])
  padded = jnp.concatenate([values, jnp.full((1, 2), bad)]), jnp.append(weight, 0.0)
  mean = jax.jit(tree.weighted_mean)
  np.testing.assert_array_equal(mean(*padded), mean(values, weight))
  gradient = jax.grad(lambda v, w: tree.weighted_mean(v, w).sum())
  np.testing.assert_array_equal(gradient(*padded)[:2], gradient(values, weight))
  assert not gradient(*padded)[2].any()


def test_no_weight_at_all_gives_0():
  assert tree.weighted_mean(jnp.array([1.0, jnp.nan]), jnp.zeros(2)) == 0


def test_a_state_starts_at_step_0_without_statistics():
  state = TrainState.start({"w": 1.0}, ())
  assert state == TrainState(state.step, {"w": 1.0}, (), {}, ())
  assert state.step == 0 and state.step.dtype == jnp.int32
  assert TrainState.start(1.0, (), model_state={"mean": 2.0}).model_state == {"mean": 2.0}
