"""nnU-Net folders: values, ids, order, and one clear line for each way to get them wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from medjax import types
from medjax.check import InputError
from medjax.data import Preprocessing, find_cases
from medjax.data.formats.nifti import read_nifti, write_nifti
from medjax.data.sets.nnunet import NnUNetFolder
from tests.data.folders import nnunet, write_json


def test_reads_what_was_written(tmp_path):
  source = NnUNetFolder(nnunet(tmp_path), normalise="none", domain="here")
  assert isinstance(source, types.Source)
  assert source.names == ("a", "b") and source.subjects == ("a", "b")
  assert source.class_names == ("background", "organ", "lesion")
  example = source[1]
  raw = read_nifti(tmp_path / "imagesTr" / "b_0000.nii.gz").array
  np.testing.assert_array_equal(example.image, raw[..., None])
  assert (example.name, example.index, example.domain) == ("b", 1, "here")
  assert example.image.dtype == np.float32 and example.label.dtype == np.int32
  assert source[-1].name == "b"
  with pytest.raises(IndexError):
    source[2]


def test_class_ids_map_back_to_the_values_of_the_file(tmp_path):
  source = NnUNetFolder(nnunet(tmp_path, labels={"lesion": 7, "background": 0, "organ": 3}))
  assert source.class_names == ("background", "organ", "lesion")
  raw = read_nifti(tmp_path / "labelsTr" / "a.nii.gz").array
  np.testing.assert_array_equal(np.asarray(source.label_values)[source[0].label], raw)


def test_the_ignore_label(tmp_path):
  labels = {"background": 0, "organ": 3, "ignore": 7}
  source = NnUNetFolder(nnunet(tmp_path, labels=labels))
  raw = read_nifti(tmp_path / "labelsTr" / "a.nii.gz").array
  np.testing.assert_array_equal(source[0].label == types.IGNORE, raw == 7)
  np.testing.assert_array_equal(source[0].label == 1, raw == 3)
  assert source.class_names == ("background", "organ")


def test_channels_stand_in_the_order_of_their_numbers(tmp_path):
  source = NnUNetFolder(nnunet(tmp_path, channels=("FLAIR", "T1", "T2")), normalise="none")
  assert source.channel_names == ("FLAIR", "T1", "T2")
  for c in range(3):
    raw = read_nifti(tmp_path / "imagesTr" / f"a_000{c}.nii.gz").array
    np.testing.assert_array_equal(source[0].image[..., c], raw)


def test_one_file_may_hold_all_channels(tmp_path):
  nnunet(tmp_path, names=("a",))
  write_json(tmp_path, channels=("x", "y"))
  image = np.random.default_rng(0).normal(size=(6, 5, 4, 2)).astype(np.float32)
  write_nifti(tmp_path / "imagesTr" / "a_0000.nii.gz", image, np.eye(4))
  np.testing.assert_array_equal(NnUNetFolder(tmp_path, normalise="none")[0].image, image)


def png_folder(root):
  for folder in ("imagesTr", "labelsTr"):
    (root / folder).mkdir()
  write_json(root, channels=("R", "G", "B"), labels={"background": 0, "cell": 1}, ending=".png")
  random = np.random.default_rng(0)
  image = random.integers(0, 255, (5, 7, 3)).astype(np.uint8)
  label = random.integers(0, 2, (5, 7)).astype(np.uint8)
  Image.fromarray(image).save(root / "imagesTr" / "cell_1_0000.png")
  Image.fromarray(label).save(root / "labelsTr" / "cell_1.png")
  return image, label


def test_a_colour_png_holds_its_three_channels(tmp_path):
  image, label = png_folder(tmp_path)
  example = NnUNetFolder(tmp_path, normalise="none")[0]
  np.testing.assert_array_equal(example.image, image)
  np.testing.assert_array_equal(example.label, label)
  assert example.spacing == (1.0, 1.0) and example.affine is None and example.name == "cell_1"
  with pytest.raises(InputError, match="spacing=None for PNG"):
    NnUNetFolder(tmp_path, spacing=(1, 1))
  path = tmp_path / "imagesTr" / "cell_1_0000.png"
  path.write_bytes(path.read_bytes()[:60])
  with pytest.raises(InputError, match="readable PNG file .*cell_1_0000.png, got a damaged one"):
    NnUNetFolder(tmp_path)[0]
  Image.fromarray(image[..., 0]).save(path)
  with pytest.raises(InputError, match="3 channels of case cell_1 .* got no cell_1_0001.png, cell"):
    NnUNetFolder(tmp_path)
  Image.fromarray(np.dstack([image, image[..., :1]])).save(path)  # with transparency
  with pytest.raises(InputError, match=r"3 channels \(R, G, B\) in .*cell_1_0000.png, got 4; conv"):
    NnUNetFolder(tmp_path)


def test_test_images_have_no_labels(tmp_path):
  nnunet(tmp_path)
  write_nifti(tmp_path / "imagesTs" / "c_0000.nii.gz", np.ones((3, 3, 3), np.float32), np.eye(4))
  source = NnUNetFolder(tmp_path, split="Ts")
  assert len(source) == 1 and source[0].label is None and source.class_names == ()
  assert (source[0].image == 0).all()  # a constant image
  # Labels that lie beside them all the same are not read: the cases stay unlabelled.
  (tmp_path / "labelsTs").mkdir()
  write_nifti(tmp_path / "labelsTs" / "c.nii.gz", np.ones((3, 3, 3), np.uint8), np.eye(4))
  assert NnUNetFolder(tmp_path, split="Ts")[0].label is None
  # Among the images they would be taken for pictures.
  write_nifti(tmp_path / "imagesTs" / "c.nii.gz", np.ones((3, 3, 3), np.uint8), np.eye(4))
  with pytest.raises(InputError, match=r"four digits count the channels, got .*imagesTs/c.nii.gz"):
    NnUNetFolder(tmp_path, split="Ts")


def test_reorientation_and_resampling_treat_image_and_label_alike(tmp_path):
  affine = np.diag([-2.0, -2.0, 2.0, 1.0])
  nnunet(tmp_path, names=("a",), affine=affine, shape=(6, 4, 4))
  raw = read_nifti(tmp_path / "labelsTr" / "a.nii.gz").array
  write_nifti(tmp_path / "imagesTr" / "a_0000.nii.gz", raw.astype(np.float32), affine)
  source = NnUNetFolder(tmp_path, normalise="none", spacing=(1, 1, 1))
  example = source[0]
  assert example.label.shape == (12, 8, 8) and example.spacing == (1.0, 1.0, 1.0)
  flipped = raw[::-1, ::-1].repeat(2, 0).repeat(2, 1).repeat(2, 2)
  np.testing.assert_array_equal(np.asarray(source.label_values)[example.label], flipped)
  inside = example.image[1:-1, 1:-1, 1:-1, 0]
  assert np.corrcoef(inside.ravel(), flipped[1:-1, 1:-1, 1:-1].ravel())[0, 1] > 0.5
  world = example.affine @ (-0.5, -0.5, -0.5, 1)  # outer corner of the grid: right to left flipped
  np.testing.assert_allclose(world, affine @ (5.5, 3.5, -0.5, 1), atol=1e-6)


def test_cache_keeps_the_example_and_the_manifest_is_json(tmp_path):
  nnunet(tmp_path, names=("p1_s1", "p1_s2"))
  source = NnUNetFolder(tmp_path, subject_pattern=r"(p\d)_", cache=True)
  assert source[0] is source[0]
  assert source.subjects == ("p1", "p1")
  content = json.loads(json.dumps(source.manifest()))
  assert set(content["files"]) == {
    "dataset.json",
    *(f"imagesTr/p1_s{i}_0000.nii.gz" for i in (1, 2)),
    *(f"labelsTr/p1_s{i}.nii.gz" for i in (1, 2)),
  }
  assert content["subjects"] == ["p1", "p1"] and str(tmp_path.parent) not in json.dumps(content)
  before = content["files"]["dataset.json"]
  write_json(tmp_path, labels={"background": 0, "other": 3})
  assert source.manifest()["files"]["dataset.json"] != before


def rewrite_json(**changes):
  def edit(root):
    content = json.loads((root / "dataset.json").read_text())
    content.update(changes)
    content = {key: value for key, value in content.items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(content))

  return edit


def replace(name, array, affine=None):
  return lambda root: write_nifti(root / name, array, np.eye(4) if affine is None else affine)


def remove(*names):
  return lambda root: [(root / name).unlink() for name in names]


ZEROS = np.zeros((6, 5, 4), np.float32)
A, B, LABEL = "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz"
STRANGERS = np.where(np.arange(120).reshape(6, 5, 4) % 2, 5, 9)

BAD = {
  "no dataset.json": (remove("dataset.json"), "a file .*dataset.json, got nothing there"),
  "no json": (lambda r: (r / "dataset.json").write_text("{"), "JSON in .*dataset.json"),
  "no channel names": (rewrite_json(channel_names=None), "key 'channel_names' in .*dataset.json"),
  "old label order": (rewrite_json(labels={"0": "background"}), "'0': 'background'"),
  "regions": (rewrite_json(labels={"background": 0, "whole": [1, 2]}), r"region 'whole': \[1, 2\]"),
  "no background": (rewrite_json(labels={"organ": 3}), "background label of value 0"),
  "equal values": (rewrite_json(labels={"background": 0, "b": 0}), "distinct label values"),
  "file ending": (rewrite_json(file_ending=".dcm"), "file_ending .nii.gz or .nii or .png .*'.dcm'"),
  "empty folder": (remove(A, B), "images NAME_0000.nii.gz in .*imagesTr, got none"),
  "missing channel": (
    rewrite_json(channel_names={"0": "T1", "1": "T2"}),
    "2 channels of case a .*, got no a_0001.nii.gz",
  ),
  "extra channel": (
    replace("imagesTr/a_0001.nii.gz", ZEROS),
    "1 channels of case a .* also a_0001",
  ),
  "channel number": (replace("imagesTr/a.nii.gz", ZEROS), "image names NAME_0000.*got .*a.nii.gz"),
  "missing label": (
    remove(LABEL),
    "a label file for each case, got 1 missing: .*labelsTr/a.nii.gz",
  ),
  "unknown values": (replace(LABEL, STRANGERS), r"among \{0, 3, 7\} in .*a.nii.gz, got 5, 9; "),
  "label fractions": (
    replace(LABEL, ZEROS + 0.5),
    "whole numbers as labels in .*a.nii.gz, got 0.5",
  ),
  "label shape": (replace(LABEL, ZEROS[:5]), r"one shape, got \(6, 5, 4\) and \(5, 5, 4\)"),
  "label affine": (
    replace(LABEL, ZEROS, np.diag([1, 1, 2, 1])),
    r"a_0000.nii.gz and .*a.nii.gz on one grid, corners at most 0.1 mm apart, got 3.5 mm",
  ),
  "NaN": (replace(A, ZEROS * np.nan), "finite voxels in .*a_0000.nii.gz, got 120 NaN"),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", BAD)
def test_bad_folders_get_one_line(tmp_path, case):
  edit, message = BAD[case]
  edit(nnunet(tmp_path))
  with pytest.raises(InputError, match=message) as caught:
    NnUNetFolder(tmp_path)[0]
  assert "\n" not in str(caught.value)


def test_channels_of_one_case_must_agree(tmp_path):
  nnunet(tmp_path, channels=("T1", "T2"))
  write_nifti(tmp_path / "imagesTr" / "a_0001.nii.gz", ZEROS[:4], np.eye(4))
  with pytest.raises(InputError, match=r"a_0000.*a_0001.* got \(6, 5, 4\) and \(4, 5, 4\)"):
    NnUNetFolder(tmp_path)[0]
  write_nifti(tmp_path / "imagesTr" / "a_0001.nii.gz", ZEROS, np.diag([1, 3, 1, 1]))
  with pytest.raises(InputError, match="a_0000.*a_0001.*on one grid"):
    NnUNetFolder(tmp_path)[0]


@pytest.mark.parametrize(
  ("pattern", "message"),
  [
    (r"(p\d+)_", r"case names that match .*, got 'a'"),
    (r"a", "subject_pattern with one group, got 'a' with 0"),
    (r"(a)(b)", "with 2"),
    (r"(", "regular expression"),
  ],
)
def test_bad_subject_patterns(tmp_path, pattern, message):
  with pytest.raises(InputError, match=message):
    NnUNetFolder(nnunet(tmp_path), subject_pattern=pattern)


def test_endings_in_capitals_are_read_and_not_passed_over(tmp_path):
  nnunet(tmp_path)
  for path in (tmp_path / "imagesTr/b_0000.nii.gz", tmp_path / "labelsTr/b.nii.gz"):
    path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
  source = NnUNetFolder(tmp_path)
  assert source.names == ("a", "b") and source[1].label is not None


def test_four_digits_that_are_no_channel_belong_to_the_name(tmp_path):
  nnunet(tmp_path, ("scan",))
  path = tmp_path / "imagesTr" / "scan_0000.nii.gz"
  path.rename(path.with_name("scan_2020.nii.gz"))
  with pytest.raises(InputError, match="digits count the channels, got .*rename .*scan_2020_0000"):
    NnUNetFolder(tmp_path)
  found = find_cases(tmp_path / "imagesTr", one_channel())
  assert [case.name for case in found] == ["scan_2020"]


def one_channel():
  return Preprocessing(("MRI",), ("background", "organ"), (0, 1), None, ({"name": "zscore"},))
