"""Pictures with an outline and a class: their scale, their table, their near-duplicates, scores."""

import jax
import numpy as np
import pytest

from experiments import task_sets, task_trials
from medjax import study
from medjax.check import InputError
from medjax.types import IGNORE
from tests.data.folders import real_set


@pytest.mark.parametrize("size", [5, 13])
def test_pictures_are_scaled_as_jax_does(size):
  picture = np.random.default_rng(0).normal(size=(9, 11, 2)).astype(np.float32)
  want = jax.image.resize(picture, (size, size, 2), "linear")
  np.testing.assert_allclose(task_sets.resized(picture, size), want, atol=1e-5)


def test_near_duplicates_of_real_ultrasound_stay_on_one_side():
  root = real_set("busi150")
  cases = task_sets.folder(root, 8, **task_sets.REAL["ultrasound"])
  assert cases.heads == (("mask", 2), ("class", 3)) and cases.image.shape[1:3] == (8, 8)
  assert len(set(cases.subjects)) < len(cases.subjects) == len(cases.image)
  parts = study.parted(cases.subjects, {"train": 0.6, "test": 0.4}, 0)
  sides = [{cases.subjects[i] for i in rows} for rows in parts.values()]
  assert not sides[0] & sides[1]
  with pytest.raises(InputError, match="a line of class.csv|column"):
    task_sets.folder(root, 8, table="class.csv", label="absent")


def test_scores_are_means_over_a_persons_cases_and_leave_out_what_has_no_label():
  """Two cases of ann and one of bob; the second one of ann has no class."""
  mask = np.zeros((3, 2, 2), np.int32)
  mask[0, 0, 0] = mask[1, 0] = 1
  cases = task_sets.TaskSet(
    "x",
    {"outline": ("mask", 2), "kind": ("class", 2)},
    np.zeros((3, 2, 2, 1), np.float32),
    {"outline": mask, "kind": np.array([1, IGNORE, 0], np.int32)},
    ("ann", "ann", "bob"),
    {},
  )
  said = np.zeros((3, 2, 2, 2), np.float32)
  said[:2, 0, 0, 1] = 1.0  # one pixel of ann's: all of the first outline, half of the second
  kinds = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], np.float32)
  more = {"flatness/both": np.array([1.0, 3.0, 5.0])}
  found = task_trials.scored([said, kinds], cases, range(3), {"arm": "a"}, more)
  ann, bob = found
  np.testing.assert_allclose(ann["dice/outline"], (1 + 2 / 3) / 2, rtol=1e-6)
  assert bob["dice/outline"] == 1  # nothing there, and nothing drawn
  assert (ann["accuracy/kind"], bob["accuracy/kind"], ann["flatness/both"]) == (1, 0, 2)
