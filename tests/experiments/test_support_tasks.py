"""Who is labelled and who is tested, label maps of folders, and how a prediction is scored."""

import dataclasses

import numpy as np
import pytest

from experiments import support_readers, support_tasks
from medjax.check import InputError
from medjax.study.stacks import Grid, Stack
from tests.data.folders import real_set


def volumes_of(subjects, name=""):
  grid = Grid((4, 4), "resize", "none", is_by_slice=False)
  image, label = np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4), np.int32)
  label[1, :2] = 1
  truth = np.moveaxis(label, 0, 2)
  cases = [
    Stack(f"{s}{i}", s, "", "", image, label, truth, (1.0,) * 3) for i, s in enumerate(subjects)
  ]
  return support_tasks.LabelledVolumes(name, ("background", "organ"), tuple(cases), grid, {})


@pytest.mark.parametrize(("number", "most"), [(3, 2), (5, 2), (7, 3), (12, 10)])
def test_everybody_is_tested_once_by_people_who_are_not_tested_then(number, most):
  subjects = [f"p{i}" for i in range(number)] + ["p0"]  # a second scan of one person
  volumes = volumes_of(subjects)
  folds = support_tasks.folds(volumes, most, seed=0)
  assert sorted(i for fold in folds for i in fold.test) == list(range(number + 1))
  for fold in folds:
    labelled = {subjects[i] for i in fold.pool}
    assert len(labelled) == most and not labelled & {subjects[i] for i in fold.test}
    for num in range(1, most + 1):  # those with fewer labelled people see the first of them
      shown = support_readers.labelled(fold, num)
      assert len({case.subject for case in shown}) == num
  (single,) = support_tasks.folds(volumes, most, seed=0, num_folds=1)
  assert len({subjects[i] for i in single.test}) == number - most


def test_too_few_people_are_refused():
  with pytest.raises(InputError, match=r"more than 2 people in ACDC, .* got 2"):
    support_tasks.folds(volumes_of(["a", "b", "a"], "ACDC"), 2, seed=0)


def test_a_structure_that_the_labelled_people_lack_is_refused_before_anything_is_trained():
  volumes = dataclasses.replace(
    volumes_of(["a", "b", "c"]), class_names=("background", "organ", "spleen")
  )
  fold = support_tasks.Fold(volumes, "", (0, 1), (2,))
  with pytest.raises(
    InputError, match=r"a support that shows spleen \(class id 2\), got class ids"
  ):
    support_readers.check_shown(fold, 2)


def test_a_volume_is_scored_whole_and_in_the_slices_that_show_the_structure():
  fold = support_tasks.Fold(volumes_of(["a", "b"]), "", (0,), (1,))
  said = np.zeros((2, 2, 4, 4), bool)
  said[1, 1, :1] = True  # half of what is there: 2 * 4 / (4 + 8)
  said[1, 0, :3] = True  # and 12 voxels in the slice that shows nothing
  (row,) = support_tasks.scored([said], fold, {"arm": "x"})
  assert row["slice_dice/organ"] == pytest.approx(2 / 3)
  assert row["dice/organ"] == pytest.approx(2 * 4 / (16 + 8))


def test_label_values_become_a_row_and_too_many_are_refused():
  maps = [np.array([[[0, 500], [7, 7]]]), np.array([[[41, 0], [0, 0]]])]
  found, values = support_tasks.renumbered(maps)
  assert values == (0, 7, 41, 500) and found.tolist() == [[[0, 3], [1, 1]], [[2, 0], [0, 0]]]
  with pytest.raises(InputError, match="64 of them at most"):
    support_tasks.renumbered([np.arange(100).reshape(1, 10, 10)])


def test_real_folders_become_families_and_volumes():
  maps = support_tasks.plane_maps(str(real_set("chest_shapes") / "labels"), 32)
  assert maps.shape == (60, 32, 32) and set(np.unique(maps)) == {0, 1, 2, 3}
  heart = support_tasks.folder(real_set("medscribble") / "ACDC", 32, "", "ACDC ")
  assert heart.class_names == ("background", "structure") and len(heart.cases) == 5
  for case in heart.cases:
    assert case.image.shape == (1, 32, 32, 1) and case.truth.shape == (256, 256)
  fine = support_tasks.folder(real_set("medscribble") / "ACDC", 256, "", "ACDC ")
  # A structure of 11 pixels loses a fifth of its Dice on the grid alone; its own grid keeps it.
  assert 0.7 < support_tasks.ceiling(heart) < 0.95 and support_tasks.ceiling(fine) == 1
