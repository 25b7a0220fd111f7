"""Slices on a network's grid and back, and 2D networks scored where the cases are."""

import numpy as np
import pytest

from medjax import study
from medjax.check import InputError
from medjax.study import sites, stack_scores
from medjax.study.stacks import Grid, alike_together
from medjax.types import IGNORE, Example, TrainState


def example(space=(10, 6, 3), name="ann_1"):
  label = np.zeros(space, np.int32)
  label[3:7, 2:4] = 1
  label[4:6, 3:4] = 2
  image = (label + np.arange(space[0]).reshape(-1, *[1] * (len(space) - 1))).astype(np.float32)
  return Example(name, name[:3], 0, image[..., None], label, (1.0, 2.0, 3.0)[: len(space)])


def test_a_crop_loses_what_lies_outside_and_does_not_score_it():
  grid = Grid((8, 8))
  stack = grid.stack(example(), "here")
  assert stack.image.shape == (3, 8, 8, 1) and stack.label.shape == (3, 8, 8)
  assert (stack.label[:, :, [0, 7]] == IGNORE).all()  # the case is 6 wide
  assert (stack.truth[[0, 9]] == IGNORE).all() and (stack.truth[1:9] >= 0).all()
  back = grid.restored(np.maximum(stack.label, 0), stack)
  known = stack.truth != IGNORE
  np.testing.assert_array_equal(back[known], stack.truth[known])
  with pytest.raises(InputError, match="voxel size"):
    grid.stack(example().replace(spacing=(1.0, 0.0, 1.0)), "here")


def test_outside_of_a_volume_that_is_normalised_whole_it_is_as_dark_as_its_darkest_voxel():
  case = example()
  by_volume = Grid((12, 12), normalise="none", is_by_slice=False).stack(case, "here")
  assert (by_volume.image[:, 0] == case.image.min()).all()
  brighter = case.replace(image=case.image + 10 * np.arange(3, dtype=np.float32)[:, None])
  slices = Grid((12, 12), normalise="none").stack(brighter, "here").image
  assert [float(plane[0, 0, 0]) for plane in slices] == [0.0, 10.0, 20.0]


def test_pictures_have_one_slice_and_come_back_as_pictures():
  stack = Grid((8, 8), "resize").stack(example((16, 12)), "here")
  assert stack.label.shape == (1, 8, 8) and stack.truth.shape == (16, 12)
  assert Grid((8, 8), "resize").restored(stack.label, stack).shape == (16, 12)


def test_dice_is_twice_the_common_voxels_over_all_of_them():
  truth = np.array([0, 1, 1, 2, IGNORE, 1])
  found = stack_scores.dice(np.array([0, 1, 2, 2, 1, 1]), truth, 4)
  np.testing.assert_allclose(found[:2], [2 * 2 / (2 + 3), 2 * 1 / (2 + 1)])
  assert np.isnan(found[2])


def test_a_perfect_network_has_dice_one_everywhere_and_shows_its_fullest_slice():
  grid = Grid((12, 12))
  cases = [grid.stack(example(name=n), site) for n, site in (("ann_1", "a"), ("bob_1", "b"))]
  answers = {case.image.tobytes(): np.maximum(case.label, 0) for case in cases}
  names = ("background", "liver", "tumour")
  scored = stack_scores.score(
    lambda image: answers[image.tobytes()],
    cases,
    grid,
    about=lambda case: {"arm": "ours", "subject": case.subject, "domain": case.site},
    class_names=names,
  )
  assert [study.mean(row, "dice") for row in scored.rows] == [1.0, 1.0]
  assert [row["case"] for row in scored.rows] == ["ann_1", "bob_1"]
  assert [p.site for p in scored.pictures] == ["a", "b"]
  np.testing.assert_array_equal(scored.pictures[0].truth, cases[0].truth[..., 0])
  wrong = stack_scores.score(
    lambda image: answers[image.tobytes()], cases, grid, about=lambda case: {}, class_names=names,
    cleaned=np.zeros_like,
  )  # fmt: skip
  assert [study.mean(row, "dice") for row in wrong.rows] == [0.0, 0.0]
  evaluate = stack_scores.validation(lambda state, image: answers[image.tobytes()], cases, 3)
  state = TrainState(0, {}, (), {}, ())
  assert evaluate["validation"](state) == {"dice": 1.0}
  assert stack_scores.validation(lambda state, image: image, (), 3) == {}


class Scans:
  """Twelve people; the last two are one scan at two brightnesses."""

  subjects = tuple(f"p{i:02d}" for i in range(12))
  names, domains, class_names, channel_names = subjects, ("",) * 12, (), ("grey",)

  def __len__(self):
    return 12

  def __getitem__(self, index):
    image = np.random.default_rng(min(index, 10)).normal(size=(24, 24, 1)).astype(np.float32)
    image = image if index < 11 else 3 * image + 1
    return Example(self.names[index], self.subjects[index], index, image, None, (1.0, 1.0))

  def manifest(self):
    return {}


def test_people_who_look_like_one_scan_get_one_part():
  source = Scans()
  assert alike_together(source) == (*source.subjects[:11], "p10")
  for seed in range(5):
    part_of = sites.drawn_of(source, {"train": 0.5, "test": 0.5}, seed)
    assert part_of["p10"] == part_of["p11"] and set(part_of) == set(source.subjects)


def test_some_people_keep_all_their_cases(tmp_path):
  grid = Grid((12, 12))
  people = ("ann", "bob", "cyd", "dan")
  cases = [grid.stack(example(name=f"{p}_{i}"), "a") for p in people for i in range(2)]
  kept = sites.some_people(cases, 2, 0, "tested")
  assert len(kept) == 4 and len({case.subject for case in kept}) == 2
  assert sites.some_people(cases, 0, 0, "tested") == cases
  (tmp_path / "x" / "scans").mkdir(parents=True)
  with pytest.raises(InputError, match="folders of different names"):
    sites.names_of([tmp_path / "x" / "scans", tmp_path / "y" / "scans"])
