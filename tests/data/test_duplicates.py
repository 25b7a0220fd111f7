"""Copies of a scan are found in spite of small changes; different people are not taken for one."""

import numpy as np
import pytest
from scipy import ndimage

from medjax.check import InputError
from medjax.data.formats import png
from medjax.data.people.duplicates import PICTURES, VOLUMES, check_near_duplicates, near_duplicates
from medjax.data.people.inspection import middle
from medjax.data.people.splits import Splits, split_subjects
from medjax.data.sets.nnunet import NnUNetFolder
from medjax.data.simulated.procedural import ProceduralAnatomy
from medjax.types import Example
from tests.data.folders import real_set

SHAPE = (22, 26, 20)


class Listed:
  """A source over arrays [*space]; subjects are the names unless given."""

  class_names, channel_names = (), ("x",)

  def __init__(self, images, subjects=None, spacings=None):
    names = [f"case{i}" for i in range(len(images))]
    self.subjects = tuple(names if subjects is None else subjects)
    self.domains = ("",) * len(images)
    self.examples = []
    for i, image in enumerate(images):
      spacing = (1.0,) * image.ndim if spacings is None else spacings[i]
      channels = image[..., None].astype(np.float32)
      example = Example(names[i], self.subjects[i], i, channels, None, spacing, np.eye(4))
      self.examples.append(example)

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    return self.examples[index]

  def manifest(self):
    return {}


def smooth(seed, shape=SHAPE, sigma=1.5):
  field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
  return field / field.std()


def person(seed, shape=SHAPE):
  """Two parts of anatomy that all share, one of their own: people correlate by 4 / 5."""
  return 100 + 20 * (2 * smooth(1000, shape) + smooth(seed, shape))


PEOPLE = [person(seed) for seed in range(10)]


def pairs(images, **settings):
  return [(p.first, p.second) for p in near_duplicates(Listed(images, **settings))]


def test_people_of_one_anatomy_are_not_taken_for_one():
  flat = [image.ravel() for image in PEOPLE]
  assert np.corrcoef(flat)[np.triu_indices(10, 1)].min() > 0.7
  assert not pairs(PEOPLE)


CHANGES = {
  "same": lambda x: x,
  "scaled": lambda x: 0.01 * x - 7,
  "curved": lambda x: (x - x.min()) ** 0.7,
  "biased": lambda x: x * np.linspace(0.8, 1.2, x.shape[0])[:, None, None],
  "noisy": lambda x: x + np.random.default_rng(5).normal(size=x.shape) * 0.2 * x.std(),
  "moved": lambda x: np.roll(x, (1, -1, 1), (0, 1, 2)),
  "cropped": lambda x: x[3:, :-3, 1:],
  "blurred": lambda x: ndimage.gaussian_filter(x, 0.7),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change):
  assert pairs([*PEOPLE, CHANGES[change](PEOPLE[3])]) == [(3, 10)]


def test_a_resampled_copy_is_found_by_its_voxel_size():
  copy = ndimage.zoom(PEOPLE[3], 0.75, order=1, grid_mode=True, mode="nearest")
  spacings = [(1.0, 1.0, 1.0)] * 10 + [tuple(a / b for a, b in zip(SHAPE, copy.shape, strict=True))]
  assert pairs([*PEOPLE, copy], spacings=spacings) == [(3, 10)]


def test_similarity_ignores_scale_and_a_negative_is_no_copy():
  found = near_duplicates(Listed([*PEOPLE, 5 * PEOPLE[3] + 1, 7 - PEOPLE[4]]))
  assert [pair[:2] for pair in found] == [(3, 10)]
  np.testing.assert_allclose(found[0].similarity, 1, atol=1e-4)


def test_pictures():
  flat = [person(seed, (60, 50)) for seed in range(12)]
  assert pairs([*flat, flat[2][1:, :-2]]) == [(2, 12)]


def test_scans_of_one_subject_are_no_finding():
  images = [*PEOPLE, PEOPLE[3], PEOPLE[4]]
  subjects = [f"p{i}" for i in range(10)]
  assert pairs(images, subjects=[*subjects, "p3", "p4"]) == []
  assert pairs(images, subjects=[*subjects, "p4", "p3"]) == [(3, 10), (4, 11)]


def test_equal_pairs_stand_in_the_order_of_the_cases_however_their_sums_round():
  for scale in (1.0, 1.1, 1.3, 1.7, 2.3, 3.1):  # changes the last bits, and no similarity
    images = [*PEOPLE, *(scale * PEOPLE[i] for i in (3, 4, 5, 6))]
    found = near_duplicates(Listed(images))
    assert [p[:2] for p in found] == [(3, 10), (4, 11), (5, 12), (6, 13)]
    assert all(p.similarity == round(p.similarity, 4) for p in found)


def test_the_most_similar_come_first_and_indices_choose():
  noisy = CHANGES["noisy"](PEOPLE[6])
  source = Listed([*PEOPLE, noisy, PEOPLE[2]])
  assert [pair[:2] for pair in near_duplicates(source)] == [(2, 11), (6, 10)]
  assert [pair[:2] for pair in near_duplicates(source, [*range(10), 10])] == [(6, 10)]
  assert near_duplicates(source, []) == []


def test_few_people_and_empty_images_are_not_judged():
  assert pairs([*PEOPLE[:4], PEOPLE[0]]) == []
  empty = np.zeros(SHAPE)
  dot = empty.copy()
  dot[5, 5, 5] = 1
  assert pairs([*PEOPLE, empty, empty, dot, dot]) == []
  assert pairs([empty] * 8) == []


def test_a_copy_across_a_split_is_refused_by_name():
  source = Listed([*PEOPLE, CHANGES["cropped"](PEOPLE[3])])
  names = source.subjects
  across = Splits({"train": names[:6], "test": names[6:]})
  with pytest.raises(InputError, match=r"people in train and test, got cases case3 and case10 of"):
    check_near_duplicates(source, across)
  check_near_duplicates(source, across, threshold=1.0)
  check_near_duplicates(source, Splits({"train": (*names[:6], names[10]), "test": names[6:10]}))
  check_near_duplicates(source, Splits({"train": names[:5], "test": names[5:10]}))  # 10 in no part


def test_the_refused_pair_can_be_looked_at(tmp_path):
  source = Listed([*PEOPLE, CHANGES["cropped"](PEOPLE[3])])
  across = Splits({"train": source.subjects[:6], "test": source.subjects[6:]})
  path = tmp_path / "runs" / "pair.png"
  with pytest.raises(InputError, match="look at .*pair.png: give them.*--near_duplicates"):
    check_near_duplicates(source, across, picture=path)
  shown = png.read_png(path).array
  first, second = (middle(source[i])[0] for i in (3, 10))
  assert shown.shape[1] == first.shape[1] + 4 + second.shape[1]
  np.testing.assert_array_equal(shown[:, : first.shape[1]], np.rint(255 * first))


def test_pictures_need_more_likeness_than_volumes():
  """A copy of another shape of crop passes the threshold of volumes alone."""
  flat = [person(seed, (60, 50)) for seed in range(12)]
  copy = flat[2] + 0.5 * flat[2].std() * smooth(99, (60, 50), 1.0)
  source = Listed([*flat, copy])
  (pair,) = near_duplicates(source, threshold=VOLUMES)
  assert pair[:2] == (2, 12) and VOLUMES < pair.similarity < PICTURES
  assert near_duplicates(source) == []


@pytest.mark.parametrize(
  "name", ["blood_cells/site2", pytest.param("retina", marks=pytest.mark.slow)]
)
def test_small_sets_of_pictures_that_differ_pass(name):
  whole = NnUNetFolder(real_set(name), normalise="none")
  random = np.random.default_rng(0)
  for size in (8, 10, 15):
    for _ in range(10):
      assert not near_duplicates(whole, random.choice(len(whole), size, replace=False))


def test_wrong_input():
  with pytest.raises(InputError, match="one number of axes"):
    near_duplicates(Listed([PEOPLE[0], PEOPLE[0][0]]))
  with pytest.raises(InputError, match="an image, got case procedural_0_00000 without"):
    near_duplicates(ProceduralAnatomy(6, (16, 16), 3, 0))
  with pytest.raises(InputError, match="grid >= 4"):
    near_duplicates(Listed(PEOPLE), grid=2)
  with pytest.raises(InputError, match="threshold in"):
    near_duplicates(Listed(PEOPLE), threshold=2)


@pytest.mark.slow
def test_repeat_scans_of_real_people_are_found_and_people_told_apart():
  """19 pairs are scans of one person, found before by the agreement of their labels."""
  root = real_set("brain_t1_tissue")
  known = NnUNetFolder(root, subject_pattern=r"(person\d+)_")
  found = near_duplicates(NnUNetFolder(root))
  people = known.subjects
  same = {(i, j) for i in range(39) for j in range(i) if people[i] == people[j]}
  assert {(pair.second, pair.first) for pair in found} == same and len(same) == 19
  check_near_duplicates(known, split_subjects(people, seed=0), threshold=0.5)


@pytest.mark.slow
def test_no_duplicates_among_hippocampi():
  assert not near_duplicates(NnUNetFolder(real_set("hippocampus_nifti")), threshold=0.45)
