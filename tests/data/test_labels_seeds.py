"""Whole numbers of files and of people who call us: labels stored as scaled floats, NumPy seeds."""

import nibabel
import numpy as np
import pytest

from medjax import data
from medjax.check import InputError
from medjax.data import seeds
from medjax.data.formats import labels, nifti


def test_labels_that_nibabel_scaled_into_16_bits_are_whole(tmp_path):
  """The factor is kept in 32 bits, so that FreeSurfer's 14175 is read as 14175.0005."""
  values = np.array([0, 4725, 9450, 14175.0])[np.arange(64).reshape(4, 4, 4) % 4]
  header = nibabel.Nifti1Header()
  header.set_data_dtype(np.int16)
  nibabel.save(nibabel.Nifti1Image(values, np.eye(4), header), tmp_path / "a.nii")
  read = nifti.read_nifti(tmp_path / "a.nii").array
  assert np.abs(read - values).max() > 1e-4
  np.testing.assert_array_equal(labels.whole_numbers(read, "a.nii"), values)


def test_a_fraction_is_refused_and_shown(tmp_path):
  with pytest.raises(InputError, match="whole numbers as labels in a.nii, got 14175.02; resample"):
    labels.whole_numbers(np.array([0.0, 14175.02]), "a.nii")
  with pytest.raises(InputError, match="got 1.0002;"):
    labels.whole_numbers(np.array([0.0, 1.0002]), "a.nii")


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64, np.uint32, np.uint8])
def test_a_numpy_seed_is_the_number_that_it_holds(kind):
  subjects = list("abcdefgh")
  for seed in (5, 2**8 - 1):
    assert data.split_subjects(subjects, seed=kind(seed)) == data.split_subjects(
      subjects, seed=seed
    )
    assert data.folds(subjects, 3, seed=kind(seed)) == data.folds(subjects, 3, seed=seed)
    draws = [seeds.generator(s, "x", 3).integers(2**60) for s in (seed, kind(seed))]
    assert draws[0] == draws[1]


def test_the_largest_and_negative_seeds_count_modulo_2_to_the_64():
  for seed, same in ((np.uint64(2**64 - 1), -1), (np.int64(-1), 2**64 - 1)):
    one, two = (seeds.generator(s).integers(2**60) for s in (seed, same))
    assert one == two
