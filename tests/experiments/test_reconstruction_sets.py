"""Clients' measurements: own masks, own people, and real k-space that the solver agrees with."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import fedautomri, reconstruction_sets
from medjax import check, cli
from medjax.ops import cartesian
from tests.data.folders import real_set


@pytest.fixture(scope="module")
def found():
  config = fedautomri.Config(num_clients=2, num_people=6, size=12, noise=0.0)
  options = cli.RunOptions(pathlib.Path("unused"), 0, (), "demo", "fedautomri")
  return reconstruction_sets.load(config, options)


def test_what_was_measured_is_the_picture_under_the_mask_of_its_client(found):
  train = found.parts["train"]
  for client in (0, 1):
    masks = train.image[train.domain == client][..., -1]
    assert (masks == masks[:1]).all() and masks[0].sum() == 12 * 3  # a quarter of 12 lines
  kspace, mask = reconstruction_sets.unpacked(jnp.asarray(train.image[0]))
  want = cartesian.acquired(jnp.asarray(train.label[0]), mask)
  np.testing.assert_allclose(kspace, want, atol=1e-5)
  assert train.label.min() >= 0 and train.label.max() == 1


def test_every_client_has_people_of_its_own_in_every_part(found):
  names = [name for part in found.people.values() for name in part]
  assert len(names) == len(set(names)) == 12
  assert all(len(rows) for held in found.held.values() for rows in held)


def test_clients_that_would_sample_no_line_are_refused():
  config = fedautomri.Config(num_clients=2, num_people=6, size=12, acceleration=30.0)
  options = cli.RunOptions(pathlib.Path("unused"), 0, (), "demo", "fedautomri")
  with pytest.raises(check.InputError, match="at least one sampled line, got 12 lines at 30"):
    reconstruction_sets.load(config, options)


def test_what_is_no_measurement_of_coils_is_refused(tmp_path):
  np.save(tmp_path / "image.npy", np.ones((4, 4)))
  with pytest.raises(check.InputError, match="complex"):
    reconstruction_sets.measured(tmp_path / "image.npy")
  np.save(tmp_path / "nothing.npy", np.zeros((2, 4, 4), np.complex64))
  with pytest.raises(check.InputError, match="a mask with a sampled line"):
    reconstruction_sets.measured(tmp_path / "nothing.npy")


def test_conjugate_gradients_explain_real_measurements():
  kspace, mask, coils = reconstruction_sets.measured(real_set("kspace_brain") / "cartesian_ksp.npy")
  assert kspace.shape == (8, 230, 180) and 0.11 < mask.mean() < 0.14 and mask[0, 0] == 1
  arrays = [jnp.asarray(x) for x in (kspace, mask, coils)]

  @jax.jit
  def misfit(kspace, mask, coils):
    start = cartesian.adjoint(kspace, mask, coils)
    found = cartesian.consistent(0 * start, kspace, mask, 1e-3, coils, iterations=15)
    apart = [cartesian.acquired(x, mask, coils) - kspace for x in (start, found)]
    return [jnp.abs(x).sum() / jnp.abs(kspace).sum() for x in apart]

  zero_filled, solved = misfit(*arrays)
  assert float(solved) < float(zero_filled) / 2
