"""No person and no picture stands on two sides of a split."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from medjax.check import InputError
from medjax.data.people.splits import Splits, check_content, check_disjoint, split_subjects
from medjax.data.sets.combine import concat
from medjax.data.simulated.procedural import ProceduralAnatomy

NAMES = st.lists(st.text("abc123", min_size=1, max_size=4), min_size=1, max_size=40)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(NAMES, st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_parts_are_disjoint_complete_and_independent_of_order(names, seed, random):
  hypothesis.assume(len(set(names)) >= 3)
  splits = split_subjects(names, seed=seed)
  members = [subject for part in splits.parts.values() for subject in part]
  assert sorted(members) == sorted(set(names))
  assert all(splits.parts.values())
  shuffled = list(names) + names[:3]
  random.shuffle(shuffled)
  assert split_subjects(shuffled, seed=seed) == splits
  rows = [i for part in splits.parts for i in splits.indices(part, names)]
  assert sorted(rows) == list(range(len(names)))


def test_sizes_follow_the_fractions_and_the_seed_matters():
  names = [f"p{i}" for i in range(24)]
  splits = split_subjects(names, seed=0)
  sizes = {part: len(members) for part, members in splits.parts.items()}
  assert sizes == {"train": 14, "validation": 5, "test": 5}  # 14.4, 4.8, 4.8
  assert split_subjects(names, seed=1).parts != splits.parts
  tiny = split_subjects(["a", "b", "c"], {"train": 0.98, "validation": 0.01, "test": 0.01}, seed=0)
  assert [len(m) for m in tiny.parts.values()] == [1, 1, 1]


def test_saved_splits_come_back(tmp_path):
  splits = split_subjects("abcdefg", seed=3)
  splits.save(tmp_path / "splits.json")
  assert Splits.load(tmp_path / "splits.json") == splits
  assert len(list(tmp_path.iterdir())) == 1
  (tmp_path / "splits.json").write_text('{"parts": 3}')
  with pytest.raises(InputError, match="saved splits in .*splits.json"):
    Splits.load(tmp_path / "splits.json")
  with pytest.raises(InputError, match="nothing there"):
    Splits.load(tmp_path / "other.json")


def test_a_shared_subject_is_named():
  with pytest.raises(InputError, match="no subject in both train and test, got b, c; "):
    check_disjoint({"train": "abc", "validation": "d", "test": "bce"})
  with pytest.raises(InputError, match="both train and test, got b"):
    Splits({"train": ("a", "b"), "test": ("b",)}, 0)


def test_bad_arguments():
  with pytest.raises(InputError, match="at least 3 subjects for 3 parts, got 2"):
    split_subjects(["a", "b", "a"], seed=0)
  with pytest.raises(InputError, match="positive fractions of sum 1"):
    split_subjects("abc", {"train": 0.5, "test": 0.4}, seed=0)
  splits = split_subjects("abc", seed=0)
  with pytest.raises(InputError, match="subjects of the saved splits, got also x"):
    splits.indices("train", ["a", "x"])
  with pytest.raises(InputError, match="part to be one of 'train'"):
    splits.indices("val", ["a"])


def test_identical_pixels_under_two_names_are_found():
  site = ProceduralAnatomy(2, (16, 16), 3, 0, with_image=True)
  both = concat({"A": site, "B": site})
  across = Splits({"train": both.subjects[:2], "test": both.subjects[2:]}, 0)
  with pytest.raises(InputError, match="different images in train and test, got identical ones in"):
    check_content(both, across)
  together = Splits({"train": (both.subjects[0], both.subjects[2]), "test": both.subjects[1::2]}, 0)
  check_content(both, together)
  noisy = ProceduralAnatomy(2, (16, 16), 3, 0, with_image=True, noise=0.2)
  both = concat({"A": site, "B": noisy})  # other images of the same anatomy
  with pytest.raises(InputError, match="different labels in train and test"):
    check_content(both, across)


def test_constant_label_maps_are_no_evidence():
  class Empty(ProceduralAnatomy):
    def __getitem__(self, index):
      example = super().__getitem__(index)
      return dataclasses.replace(example, label=np.zeros_like(example.label))

  source = Empty(2, (16, 16), 3, 0, with_image=True)
  check_content(source, Splits({"train": source.subjects[:1], "test": source.subjects[1:]}, 0))
