"""The readers on real image sets, where these are present, and on the packaged MNI152 template."""

import sys

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.grid.slices import slices
from medjax.data.people.splits import check_content, split_subjects
from medjax.data.sets.labelmaps import LabelMapFolder
from medjax.data.sets.medmnist import MedMNIST
from medjax.data.sets.mni152 import mni152
from medjax.data.sets.nnunet import NnUNetFolder
from tests.data.folders import real_set


@pytest.mark.parametrize(
  ("name", "num_cases", "num_classes", "channels"),
  [
    ("hippocampus_nifti", 40, 3, 1),
    ("ms_lesions", 3, 2, 3),
    ("oasis_scan", 1, 46, 1),
    ("retina", 28, 2, 3),
    ("nuclei/site1", 541, 2, 3),
    ("nuclei/site2", 16, 2, 3),
    ("nuclei/site3", 107, 2, 3),
    ("blood_cells/site1", 300, 3, 3),
    ("blood_cells/site2", 100, 3, 3),
  ],
)
def test_nnunet_sets(name, num_cases, num_classes, channels):
  source = NnUNetFolder(real_set(name))
  assert len(source) == num_cases and len(source.class_names) == num_classes
  example = source[0]
  assert example.image.shape == (*example.label.shape, channels)
  assert example.label.min() == 0 and example.label.max() == num_classes - 1
  deviation = example.image.std(tuple(range(example.label.ndim)), dtype=np.float64)
  np.testing.assert_allclose(deviation, 1, rtol=1e-5)


def test_lesion_voxels_are_those_of_the_readme():
  source = NnUNetFolder(real_set("ms_lesions"))
  assert [int((source[i].label == 1).sum()) for i in range(3)] == [1300, 49769, 8227]


def test_repeat_scans_of_a_person_stay_together():
  source = NnUNetFolder(real_set("brain_t1_tissue"), subject_pattern=r"(person\d+)_")
  assert len(source) == 39 and len(set(source.subjects)) == 24
  splits = split_subjects(source.subjects, seed=0)
  check_content(source, splits)
  rows = splits.indices("test", source.subjects)
  assert {source[i].name.split("_")[0] for i in rows} == set(splits.parts["test"])
  flat = slices(source)
  assert len(flat) == 39 * 18 and flat[7].image.shape == (182, 217, 1)


def test_unlabelled_hippocampus_images():
  source = NnUNetFolder(real_set("hippocampus_nifti"), split="Ts")
  assert len(source) == 8 and source[0].label is None


def test_brain_label_maps():
  source = LabelMapFolder(real_set("brain_label_maps"))
  assert len(source) == 20 and len(source.class_names) == 54
  assert set(source.label_values) >= {0, 2, 41, 136, 137, 163, 164}
  assert source[0].label.shape == (158, 226, 231)


def test_pneumonia_duplicates():
  path = real_set("chest_xray/pneumoniamnist.npz")
  sizes, subjects = {}, {}
  for split in ("train", "val", "test"):
    sizes[split] = len(MedMNIST(path, split=split))
    subjects[split] = set(MedMNIST(path, split=split, drop_duplicates=True).subjects)
  assert sizes == {"train": 4708, "val": 524, "test": 624}
  assert not subjects["train"] & (subjects["val"] | subjects["test"])
  groups = MedMNIST(path).duplicates()
  across = [g for g in groups if len({name.split("_")[0] for name in g.names}) > 1]
  assert (len(groups), len(across)) == (27, 8)  # as the set's README counts them


def test_mni152_is_one_person_and_opens_no_connection(monkeypatch):
  pytest.importorskip("nilearn")

  def refuse(*_, **__):
    raise AssertionError("a network connection was opened")

  monkeypatch.setattr("socket.socket.connect", refuse)
  monkeypatch.setattr("socket.getaddrinfo", refuse)
  whole = mni152(resolution=4, axis=None)
  example = whole[0]
  assert len(whole) == 1 and example.spacing == (4.0, 4.0, 4.0)
  counts = np.bincount(example.label.ravel()) * 4.0**3 / 1000  # ml
  assert 1700 < counts[1:].sum() < 2100 and counts[2] > counts[3] > counts[1] > 0
  left, right = example.label[:24], example.label[:-25:-1]  # the template is symmetric
  assert (left == right).mean() > 0.99
  middle = example.image[..., 0]
  assert middle[example.label == 3].mean() > middle[example.label == 2].mean() > 0.3
  flat = mni152(resolution=4)
  assert set(flat.subjects) == {"mni152"} and flat[0].image.ndim == 3
  assert min((flat[i].label > 0).mean() for i in range(len(flat))) >= 0.05


def test_mni152_without_nilearn(monkeypatch):
  monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
  with pytest.raises(InputError, match=r"nilearn.*got none; pip install -e '.\[demo\]'"):
    mni152()
