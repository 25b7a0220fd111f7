"""Every person validates once, folds are even, and nnU-Net's file goes in and out."""

import collections
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from medjax.check import InputError
from medjax.data.people.folds import folds, read_splits_final, write_splits_final
from medjax.data.people.splits import Splits

NAMES = st.lists(st.text("abc123", min_size=1, max_size=4), min_size=1, max_size=40)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  NAMES, st.integers(2, 6), st.integers(0, 2**40), st.randoms(use_true_random=False)
)
def test_each_subject_validates_once_and_order_changes_nothing(names, num_folds, seed, random):
  people = sorted(set(names))
  hypothesis.assume(len(people) >= num_folds)
  drawn = folds(names, num_folds, seed=seed)
  held = [subject for splits in drawn for subject in splits.parts["validation"]]
  assert sorted(held) == people
  assert all(
    sorted(splits.parts["train"] + splits.parts["validation"]) == people for splits in drawn
  )
  sizes = [len(splits.parts["validation"]) for splits in drawn]
  assert max(sizes) - min(sizes) <= 1
  shuffled = list(names) + names[:3]
  random.shuffle(shuffled)
  assert folds(shuffled, num_folds, seed=seed) == drawn


def test_domains_are_spread_evenly():
  subjects = [f"p{i:02d}" for i in range(23)]
  domains = ["north"] * 11 + ["south"] * 7 + ["west"] * 5
  drawn = folds(subjects, 5, seed=3, domains=domains)
  site = dict(zip(subjects, domains, strict=True))
  counts = [collections.Counter(site[s] for s in f.parts["validation"]) for f in drawn]
  for name in ("north", "south", "west"):
    assert max(c[name] for c in counts) - min(c[name] for c in counts) <= 1
  sizes = [len(f.parts["validation"]) for f in drawn]
  assert max(sizes) - min(sizes) <= 1
  assert folds(subjects, 5, seed=4, domains=domains) != drawn
  with pytest.raises(InputError, match="23 domains, one a case, got 2"):
    folds(subjects, 5, seed=0, domains=["a", "b"])


def test_a_person_of_two_sites_stays_whole():
  drawn = folds(["a", "b", "c", "a"], 3, seed=0, domains=["n", "n", "s", "s"])
  assert sorted(f.parts["validation"] for f in drawn) == [("a",), ("b",), ("c",)]


def test_too_few_people_or_folds():
  with pytest.raises(InputError, match="at least 5 subjects for 5 folds, got 2"):
    folds(["a", "b", "a"], seed=0)
  with pytest.raises(InputError, match="num_folds >= 2"):
    folds("abc", 1, seed=0)


NAMES_AT_HAND = ("p1_a", "p1_b", "p2_a", "p3_a")
SUBJECTS = ("p1", "p1", "p2", "p3")


def test_the_file_of_nnunet_comes_back(tmp_path):
  drawn = folds(SUBJECTS, 3, seed=0)
  write_splits_final(tmp_path / "splits_final.json", drawn, NAMES_AT_HAND, SUBJECTS)
  content = json.loads((tmp_path / "splits_final.json").read_text())
  assert [set(fold) for fold in content] == [{"train", "val"}] * 3
  assert sorted(case for fold in content for case in fold["val"]) == sorted(NAMES_AT_HAND)
  found = read_splits_final(tmp_path / "splits_final.json", NAMES_AT_HAND, SUBJECTS)
  assert [splits.parts for splits in found] == [splits.parts for splits in drawn]
  assert found[0].seed is None
  found[0].save(tmp_path / "splits.json")
  assert Splits.load(tmp_path / "splits.json") == found[0]


@pytest.mark.parametrize(
  ("train", "val", "message"),
  [
    (["p1_a", "p1_b", "p2_a"], ["p3_a", "x"], "cases of this data set in fold 0 .*got also x"),
    (["p1_a", "p1_b"], ["p3_a"], "all 4 cases in fold 0 .*got not p2_a"),
    (["p1_a", "p2_a"], ["p3_a", "p1_b"], "both train and val of fold 0 .*got p1;"),
    (["p1_a", "p1_b", "p2_a"], ["p3_a", "p2_a"], "both train and val of fold 0 .*got p2;"),
    (["p1_a", "p1_b", "p2_a", "p3_a"], [], "an empty side"),
  ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, train, val, message):
  path = tmp_path / "splits_final.json"
  path.write_text(json.dumps([{"train": train, "val": val}]))
  with pytest.raises(InputError, match=message):
    read_splits_final(path, NAMES_AT_HAND, SUBJECTS)


@pytest.mark.parametrize("content", ["{", "{}", "[]", "[1]", '[{"train": []}]'])
def test_what_is_no_list_of_folds_is_refused(tmp_path, content):
  path = tmp_path / "splits_final.json"
  path.write_text(content)
  with pytest.raises(InputError, match="a list of .*splits_final.json"):
    read_splits_final(path, NAMES_AT_HAND, SUBJECTS)
  with pytest.raises(InputError, match="nothing there"):
    read_splits_final(tmp_path / "absent", NAMES_AT_HAND, SUBJECTS)
