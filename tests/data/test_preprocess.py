"""Preprocessing: there and back, as data, and the same as the reader of nnU-Net folders."""

import json

import numpy as np
import pytest

from medjax import data
from medjax.check import InputError
from medjax.data import Preprocessing
from tests.data.folders import nnunet

OBLIQUE = np.eye(4)  # a rotation near a permutation of the axes, times the voxel sizes
OBLIQUE[:3, :3] = np.linalg.qr([[0, -1.0, 0.1], [-1.0, 0, 0.2], [0.1, 0.1, 1.0]])[0]
OBLIQUE[:3] *= (1.0, 2.0, 3.0, 1.0)
OBLIQUE[:3, 3] = (5, 6, 7)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1.0, 2.0, -3.0, 1.0]), OBLIQUE])
@pytest.mark.parametrize("spacing", [None, (1.5, None, 2.0)])
def test_it_is_what_the_folder_reader_does(tmp_path, affine, spacing):
  root = nnunet(tmp_path / "set", channels=("T1", "T2"), affine=affine)
  source = data.NnUNetFolder(root, spacing=spacing, normalise=["zscore", "minmax"])
  preprocess = source.preprocessing(patch=(4, 4, 4))
  cases = data.find_cases(root / "imagesTr", preprocess)
  for example, case in zip(source, cases, strict=True):
    volume = data.read_case(case)
    placed = preprocess.apply(volume)
    np.testing.assert_array_equal(placed.array, example.image)
    back = preprocess.restore(placed.array, volume)
    assert back.shape[:3] == volume.space
    if spacing is None:
      raw = [
        data.normalise(volume.array[..., c : c + 1], how)
        for c, how in enumerate(["zscore", "minmax"])
      ]
      np.testing.assert_array_equal(back, np.concatenate(raw, -1))


def test_a_linear_ramp_survives_resampling_away_from_the_border():
  ramp = np.arange(24, dtype=np.float32)[:, None, None, None] * np.ones((1, 5, 6, 1), np.float32)
  volume = data.Volume(ramp, np.diag([-2.0, 1.0, 1.0, 1.0]), (2.0, 1.0, 1.0))
  preprocess = Preprocessing(("x",), ("a", "b"), (0, 1), (1.1, 1.0, 1.0), ({"name": "none"},))
  back = preprocess.restore(preprocess.apply(volume).array, volume)
  np.testing.assert_allclose(back[2:-2], ramp[2:-2], atol=1e-3)


def test_it_survives_json():
  how = data.ForegroundPercentiles(low=-100.0, high=300.0, mean=50.0, std=80.0)
  one = Preprocessing(
    channel_names=("CT",),
    class_names=("background", "liver"),
    label_values=(0, 6),
    spacing=(0.8, None, 2.0),
    normalisation=(data.to_spec(how),),
    patch=(64, 64),
    axis=1,
  )
  assert Preprocessing.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_fields_of_another_version_are_refused():
  content = Preprocessing(("x",), ("a",), (0,), None, ({"name": "none"},)).to_dict()
  with pytest.raises(InputError, match="crop"):
    Preprocessing.from_dict({**content, "crop": True})
  with pytest.raises(InputError, match="patch"):
    Preprocessing.from_dict({k: v for k, v in content.items() if k != "patch"})


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("channel_names", "T1"),
    ("class_names", None),
    ("label_values", [0.5, 1]),
    ("label_values", [0, 1]),
    ("spacing", "1mm"),
    ("spacing", [1.0, -1.0, None]),
    ("normalisation", []),
    ("normalisation", [{"name": "nothing"}]),
    ("reorient", "yes"),
    ("file_ending", ".dcm"),
    ("patch", [4, 0, 4]),
    ("axis", 3),
  ],
)
def test_content_that_makes_no_sense_is_refused(field, value):
  content = Preprocessing(("x",), ("a",), (0,), None, ({"name": "none"},)).to_dict()
  with pytest.raises(InputError, match="normalise" if "nothing" in str(value) else field):
    Preprocessing.from_dict({**content, field: value})
  with pytest.raises(InputError, match="mapping"):
    Preprocessing.from_dict([1])


def test_values_of_another_grid_are_refused():
  preprocess = Preprocessing(("x",), ("a",), (0,), (2.0, 2.0, 2.0), ({"name": "none"},))
  volume = data.Volume(np.zeros((8, 8, 8), np.float32), np.eye(4), (1.0, 1.0, 1.0))
  with pytest.raises(InputError, match="resampled grid"):
    preprocess.restore(np.zeros((8, 8, 8, 1), np.float32), volume)
