"""Label maps without images."""

import numpy as np
import pytest

from medjax import types
from medjax.check import InputError
from medjax.data.formats.nifti import write_nifti
from medjax.data.sets.labelmaps import LabelMapFolder

MAPS = np.random.default_rng(0).choice([0, 2, 41, 507], size=(2, 4, 5, 6))


def write(root, dtype=np.int16):
  for name, array in zip(("seg_1", "seg_2"), MAPS, strict=True):
    write_nifti(root / f"{name}.nii.gz", array.astype(dtype), np.diag([-1.0, 1, 1, 1]))
  return root


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_values_are_collected_and_map_back(tmp_path, dtype):
  source = LabelMapFolder(write(tmp_path, dtype))
  assert isinstance(source, types.Source)
  assert source.label_values == (0, 2, 41, 507)
  assert source.class_names == ("label_0", "label_2", "label_41", "label_507")
  assert source.names == source.subjects == ("seg_1", "seg_2")
  example = source[1]
  assert example.image is None and example.label.dtype == np.int32
  np.testing.assert_array_equal(np.asarray(source.label_values)[example.label], MAPS[1][::-1])
  assert sorted(source.manifest()["files"]) == ["seg_1.nii.gz", "seg_2.nii.gz"]


def test_values_may_be_given(tmp_path):
  write(tmp_path)
  source = LabelMapFolder(tmp_path, label_values=[507, 0, 2, 41, 99], subject_pattern=r"seg_(\d)")
  assert source.label_values == (0, 2, 41, 99, 507) and source.subjects == ("1", "2")
  assert source[0].label.max() == 4
  with pytest.raises(InputError, match=r"label values among \{0, 2\} in .*seg_1.*, got 41, 507"):
    LabelMapFolder(tmp_path, label_values=[0, 2])[0]


def test_coarser_maps_hold_no_new_values(tmp_path):
  example = LabelMapFolder(write(tmp_path), spacing=(2, 2, 2))[0]
  assert example.label.shape == (2, 3, 3) and example.spacing == (2.0, 2.0, 2.0)
  assert set(np.unique(example.label)) <= {0, 1, 2, 3}


def test_bad_folders(tmp_path):
  with pytest.raises(InputError, match="label maps .* got none"):
    LabelMapFolder(tmp_path)
  write_nifti(tmp_path / "x.nii", MAPS[0] + 0.25, np.eye(4))
  with pytest.raises(InputError, match="whole numbers as labels in .*x.nii, got 0.25, 2.25"):
    LabelMapFolder(tmp_path)


def test_two_maps_of_one_name_are_refused_and_capitals_are_read(tmp_path):
  write(tmp_path)
  path = tmp_path / "seg_1.nii.gz"
  path.rename(tmp_path / "seg_1.NII.GZ")
  assert LabelMapFolder(tmp_path).names == ("seg_1", "seg_2")
  write_nifti(tmp_path / "seg_1.nii", MAPS[0], np.eye(4))
  with pytest.raises(InputError, match="one place for label map 'seg_1', got .*seg_1.NII.GZ and"):
    LabelMapFolder(tmp_path)
