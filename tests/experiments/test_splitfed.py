"""How an arm of the study of lossy links cuts and joins."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import splitfed
from medjax.check import InputError


def test_layers_are_parts_of_their_own_and_hold_every_parameter():
  task = splitfed.Task(splitfed.Config(shape=(8, 8), widths=(4, 8)))
  paths = splitfed.paths_of(task)
  parts = splitfed.Way(by_layers=True).parts(task)
  owners = [[part.name for part in parts if part.holds(path)] for path in paths]
  assert all(len(own) == 1 for own in owners)
  assert all(path.startswith(f"{own[0]}/") for own, path in zip(owners, paths, strict=True))
  assert splitfed.Way().parts(task) == ()


def test_nearness_weighs_by_one_over_one_plus_the_distance_from_the_mean():
  rows = jnp.array([[0.0, 0.0], [6.0, 0.0], [9.0, 9.0]])
  weight = jnp.array([1.0, 2.0, 0.0])  # the third is absent: the mean is (3, 0)
  np.testing.assert_allclose(splitfed.near(rows, weight), [1 / 4, 2 / 4, 0])


def test_bad_input_is_one_clear_line():
  with pytest.raises(InputError, match="loss_rates to be one of"):
    splitfed.Config(loss_rates=(0.2,))
