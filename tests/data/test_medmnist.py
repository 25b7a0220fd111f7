"""npz files in MedMNIST form, and their duplicates."""

import numpy as np
import pytest

from medjax import types
from medjax.check import InputError
from medjax.data.sets.medmnist import MedMNIST


def arrays():
  images = np.random.default_rng(0).integers(0, 255, (9, 4, 4)).astype(np.uint8)
  images[3] = images[1]  # inside train
  images[6] = images[0]  # train and val
  images[8] = images[1]  # train and test
  labels = np.array([0, 1, 0, 1, 2, 0, 1, 0, 1], np.uint8)[:, None]
  parts = {"train": slice(0, 5), "val": slice(5, 7), "test": slice(7, 9)}
  return {
    f"{part}_{kind}": array[rows]
    for part, rows in parts.items()
    for kind, array in (("images", images), ("labels", labels))
  }


def write(root, **changes):
  content = {k: v for k, v in {**arrays(), **changes}.items() if v is not None}
  np.savez(root / "x.npz", **content)
  return root / "x.npz"


def test_reads_what_was_written(tmp_path):
  source = MedMNIST(write(tmp_path), split="val")
  assert isinstance(source, types.Source)
  assert len(source) == 2 and len(source.class_names) == 3 and source.channel_names == ("grey",)
  example = source[1]
  np.testing.assert_allclose(example.image[..., 0] * 255, arrays()["val_images"][1], rtol=1e-6)
  assert example.image.dtype == np.float32 and example.label == 1 and example.label.shape == ()
  assert example.name == "val_00001"
  assert list(source.manifest()["files"]) == ["x.npz"]


def test_duplicates_are_reported_share_a_subject_and_are_dropped(tmp_path):
  path = write(tmp_path)
  groups = MedMNIST(path).duplicates()
  assert groups == [
    (("train_00000", "val_00001"), (0, 1)),
    (("train_00001", "train_00003", "test_00001"), (1, 1, 1)),
  ]
  train = MedMNIST(path)
  assert train.subjects[1] == train.subjects[3] != train.subjects[0]
  kept = {
    split: MedMNIST(path, split=split, drop_duplicates=True).names
    for split in ("train", "val", "test")
  }
  assert kept == {
    "train": ("train_00000", "train_00001", "train_00002", "train_00004"),
    "val": ("val_00000",),
    "test": ("test_00000",),
  }
  assert MedMNIST(path, drop_duplicates=True)[3].name == "train_00004"


def test_colour(tmp_path):
  colour = {f"{s}_images": np.repeat(arrays()[f"{s}_images"][..., None], 3, -1) for s in ("train",)}
  source = MedMNIST(write(tmp_path, **colour))
  assert source[0].image.shape == (4, 4, 3) and source.channel_names == ("R", "G", "B")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train_images": None}, "key 'train_images' in .*x.npz, got train_labels, val_images"),
    ({"train_labels": np.zeros((4, 1), np.uint8)}, "as many train_labels .* x.npz, got 4 and 5"),
    (
      {"train_labels": np.full((5, 14), 2, np.uint8)},
      r"train_labels of class ids .* of 0 and 1 in .* got \(5, 14\) uint8, values \[2\]",
    ),
    ({"train_labels": np.full((5, 1), -1)}, r"train_labels of class ids from 0.* values \[-1\]"),
    (
      {"train_images": np.zeros((5, 4, 4, 2), np.uint8)},
      r"volumes of equal sides, .* got \(5, 4, 4, 2\): both could be meant",
    ),
    ({"train_images": np.zeros((5, 4, 4))}, r"uint8 in .*x.npz, got \(5, 4, 4\) float64"),
  ],
)
def test_bad_contents(tmp_path, changes, message):
  with pytest.raises(InputError, match=message.replace(" x.npz", ".*x.npz")):
    MedMNIST(write(tmp_path, **changes))


def test_a_volume_has_three_axes_and_one_channel(tmp_path):
  volumes = np.random.default_rng(0).integers(0, 255, (5, 6, 6, 6)).astype(np.uint8)
  for content in (volumes, volumes[..., None]):
    source = MedMNIST(write(tmp_path, train_images=content))
    assert source[0].image.shape == (6, 6, 6, 1) and source[0].spacing == (1.0, 1.0, 1.0)
    assert source.channel_names == ("grey",)
    np.testing.assert_allclose(source[2].image[..., 0] * 255, volumes[2], rtol=1e-6)


def test_several_findings_are_a_label_of_zeros_and_ones(tmp_path):
  findings = np.random.default_rng(0).integers(0, 2, (5, 14)).astype(np.uint8)
  source = MedMNIST(write(tmp_path, train_labels=findings))
  assert len(source.class_names) == 14 and source.class_names[0] == "finding_0"
  np.testing.assert_array_equal(source[3].label, findings[3])
  assert source[3].label.dtype == np.int32


def test_all_parts_are_those_as_published_and_the_test_set_stays_whole(tmp_path):
  source = MedMNIST(write(tmp_path), split="all")
  assert isinstance(source, types.Source) and len(source) == 9
  assert source.parts == ("train",) * 5 + ("val",) * 2 + ("test",) * 2
  # train 0 is val 1; train 1 and 3 are test 1
  assert source.indices("train") == (2, 4)
  assert source.indices("val") == (5, 6) and source.indices("test") == (7, 8)
  with pytest.raises(InputError, match="images of one shape in train and val"):
    MedMNIST(write(tmp_path, val_images=np.zeros((2, 4, 4, 3), np.uint8)), split="all")


def test_damaged_files(tmp_path):
  path = write(tmp_path)
  data = path.read_bytes()
  for length in (0, 10, 100, len(data) // 2, len(data) - 5):
    path.write_bytes(data[:length])
    with pytest.raises(InputError, match="readable npz file .*x.npz, got a damaged one"):
      MedMNIST(path)
  with pytest.raises(InputError, match="nothing there"):
    MedMNIST(tmp_path / "y.npz")
  np.save(tmp_path / "z.npy", np.zeros(3))
  with pytest.raises(InputError, match="an npz file .*z.npy"):
    MedMNIST(tmp_path / "z.npy")
