"""A plans file of nnU-Net v2 becomes our axes, our spacing and our normalisers."""

import json

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.formats.dataset_json import DatasetJson
from medjax.data.grid.plans import read_plans
from medjax.data.normalise import ForegroundPercentiles, from_spec, normalise

INTENSITIES = {
  "max": 900.0,
  "mean": 60.0,
  "median": 61.0,
  "min": -300.0,
  "percentile_00_5": -100.0,
  "percentile_99_5": 240.0,
  "std": 40.0,
}


def plans(tmp_path, **changes):
  """A file with the keys that nnU-Net v2 writes; axes have distinct sizes so that order shows."""
  content = {
    "dataset_name": "Dataset001_Prostate",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [3.0, 0.4, 0.5],
    "original_median_shape_after_transp": [25, 270, 271],
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {
      "2d": {
        "batch_size": 32,
        "patch_size": [320, 256],
        "spacing": [0.4, 0.5],
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
        "use_mask_for_norm": [True, False],
      },
      "3d_fullres": {
        "batch_size": 2,
        "patch_size": [24, 256, 224],
        "spacing": [3.0, 0.4, 0.5],
        "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
        "use_mask_for_norm": [False, False],
      },
      "3d_lowres": {"inherits_from": "3d_fullres", "spacing": [6.0, 0.8, 1.0]},
      "big": {"inherits_from": "3d_lowres", "batch_size": 4},
      "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    },
    "foreground_intensity_properties_per_channel": {"0": INTENSITIES, "1": INTENSITIES},
  }
  content.update(changes)
  path = tmp_path / "nnUNetPlans.json"
  path.write_text(json.dumps(content))
  return path


def test_z_y_x_becomes_x_y_z(tmp_path):
  plan = read_plans(plans(tmp_path))
  assert plan.dataset == "Dataset001_Prostate" and plan.configuration == "3d_fullres"
  assert plan.spacing == (0.5, 0.4, 3.0) and plan.patch == (224, 256, 24)
  assert plan.axis is None and plan.batch_size == 2 and not plan.reorient
  assert plan.normalisation[0] == {"name": "zscore"}
  assert from_spec(plan.normalisation[1]) == ForegroundPercentiles(-100.0, 240.0, 60.0, 40.0)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)])
def test_transposition_is_undone(tmp_path, order):
  """Simulates nnU-Net on an array whose sizes are its own axis names."""
  ours = np.zeros((11, 12, 13))  # x, y, z
  theirs = ours.transpose(2, 1, 0).transpose(order)
  path = plans(tmp_path, transpose_forward=list(order))
  content = json.loads(path.read_text())
  content["configurations"]["3d_fullres"]["patch_size"] = list(theirs.shape)
  content["configurations"]["3d_fullres"]["spacing"] = [size / 10 for size in theirs.shape]
  content["configurations"]["2d"]["patch_size"] = list(theirs.shape[1:])
  content["configurations"]["2d"]["spacing"] = [size / 10 for size in theirs.shape[1:]]
  path.write_text(json.dumps(content))
  assert read_plans(path).patch == (11, 12, 13)
  assert read_plans(path).spacing == (1.1, 1.2, 1.3)
  flat = read_plans(path, "2d")
  assert flat.axis is not None and ours.shape[flat.axis] == theirs.shape[0]
  assert flat.patch == tuple(size for size in (11, 12, 13) if size != theirs.shape[0])
  assert flat.spacing == tuple(s / 10 if s != theirs.shape[0] else None for s in (11, 12, 13))


def test_configurations_inherit(tmp_path):
  plan = read_plans(plans(tmp_path), "big")
  assert plan.batch_size == 4 and plan.spacing == (1.0, 0.8, 6.0) and plan.patch == (224, 256, 24)
  with pytest.raises(InputError, match="configuration of .* to be one of '2d', .*, got .*'4d'"):
    read_plans(plans(tmp_path), "4d")
  with pytest.raises(InputError, match="3d_cascade_fullres after 3d_lowres"):
    read_plans(plans(tmp_path), "3d_cascade_fullres")
  circle = {"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}
  with pytest.raises(InputError, match="without a circle in .*, got a from b from a"):
    read_plans(plans(tmp_path, configurations=circle), "a")


def test_each_scheme_does_what_nnunet_does(tmp_path):
  """The formulas of nnunetv2/preprocessing/normalization, written again."""
  path = plans(tmp_path)
  content = json.loads(path.read_text())
  names = ["ZScore", "ZScore", "CT", "No", "RescaleTo01", "RGBTo01"]
  settings = content["configurations"]["3d_fullres"]
  settings["normalization_schemes"] = [f"{name}Normalization" for name in names]
  settings["use_mask_for_norm"] = [False, True] + [False] * 4
  content["foreground_intensity_properties_per_channel"] = {"2": INTENSITIES}
  path.write_text(json.dumps(content))
  image = np.zeros((8, 8, 8, 6), np.float32)
  image[2:7, 2:7, 2:7] = np.random.default_rng(0).uniform(1, 255, (5, 5, 5, 6))
  functions = [from_spec(spec) for spec in read_plans(path).normalisation]
  result = normalise(image, functions)
  mask = image[..., 0] > 0
  expected = image.astype(np.float64)
  expected[..., 0] = (expected[..., 0] - expected[..., 0].mean()) / expected[..., 0].std()
  inside = expected[mask, 1]
  expected[mask, 1] = (inside - inside.mean()) / inside.std()
  expected[..., 2] = (np.clip(expected[..., 2], -100, 240) - 60) / 40
  expected[..., 4] /= expected[..., 4].max()
  expected[..., 5] /= 255
  np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_pictures_keep_rows_and_columns(tmp_path):
  plan = read_plans(plans(tmp_path, image_reader_writer="NaturalImage2DIO"), "2d")
  assert plan.patch == (320, 256) and plan.axis is None and plan.spacing is None


def test_a_reader_that_reorients_and_one_that_is_unknown(tmp_path):
  assert read_plans(plans(tmp_path, image_reader_writer="NibabelIOWithReorient")).reorient
  with pytest.raises(InputError, match="image_reader_writer in .*'Tiff3DIO'"):
    read_plans(plans(tmp_path, image_reader_writer="Tiff3DIO"))


def test_what_is_no_plan_is_refused_in_one_line(tmp_path):
  with pytest.raises(InputError, match="nothing there"):
    read_plans(tmp_path / "absent.json")
  path = tmp_path / "nnUNetPlans.json"
  for content in ("[1, 2]", "{}", '{"configurations": {"3d_fullres": {}}}'):
    path.write_text(content)
    with pytest.raises(InputError, match="an nnU-Net v2 plans file .*nnUNetPlans.json, got"):
      read_plans(path)
  path.write_text("{")
  with pytest.raises(InputError, match="JSON in"):
    read_plans(path)
  with pytest.raises(InputError, match="transpose_forward as an order"):
    read_plans(plans(tmp_path, transpose_forward=[0, 0, 2]))


def test_old_plans_call_channels_modalities(tmp_path):
  path = plans(tmp_path)
  content = json.loads(path.read_text())
  content["foreground_intensity_properties_by_modality"] = content.pop(
    "foreground_intensity_properties_per_channel"
  )
  path.write_text(json.dumps(content))
  assert read_plans(path).normalisation[1]["mean"] == 60.0


def test_the_number_of_channels_must_be_that_of_the_data(tmp_path):
  dataset = DatasetJson(("T2",), ("background", "gland"), (0, 1), None, ".nii.gz")
  plan = read_plans(plans(tmp_path))
  with pytest.raises(InputError, match="2 channels as in the plans of Dataset001_Prostate, got 1"):
    plan.preprocessing(dataset)
