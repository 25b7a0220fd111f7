"""Embeddings that cannot be chosen from are refused; the choice keeps to the list of its class."""

import dataclasses

import numpy as np
import pytest

from experiments import concept_bottleneck, concept_sets, visual_concepts
from medjax import cli
from medjax.check import InputError

HELD = concept_sets.planted(10, num_classes=3, num_visual=4, num_other=4)


def saved(path, **changes):
  arrays = {
    "image": HELD.image, "label": HELD.label, "text": HELD.text, "owner": HELD.owner,
    "phrase": np.array(HELD.phrases), "subject": np.array(HELD.subjects),
    "class_names": np.array(HELD.class_names), "unlabelled": HELD.unlabelled["other"],
  }  # fmt: skip
  np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
  return path


def test_a_file_is_read_as_it_was_written(tmp_path):
  found = concept_sets.from_file(saved(tmp_path / "own.npz"))
  assert found.phrases == HELD.phrases and found.subjects == HELD.subjects
  np.testing.assert_array_equal(found.image, HELD.image)
  np.testing.assert_array_equal(found.unlabelled["other"], HELD.unlabelled["other"])
  # without names, the same vector is one person, who stands on one side
  twice = saved(tmp_path / "twice.npz", subject=None, image=HELD.image[[0, 0, *range(2, 30)]])
  names = concept_sets.from_file(twice).subjects
  assert names[0] == names[1] and len(set(names)) == 29


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"phrase": np.array([HELD.phrases[0], *HELD.phrases[:-1]])}, "'seen phrase 0' 2 times for c"),
    ({"text": None}, "the array text"),
    ({"text": HELD.text[:, :9]}, "text and what image and phrase ask for of one shape"),
    ({"label": HELD.label + 1}, "label to hold each of 0 to 2"),
    ({"image": np.where(np.arange(30)[:, None] == 4, np.nan, HELD.image)}, "row 4"),
  ],
)  # fmt: skip
def test_what_cannot_be_chosen_from_ends_in_one_line(tmp_path, changes, said):
  with pytest.raises(InputError, match=said):
    concept_sets.from_file(saved(tmp_path / "own.npz", **changes))


def test_a_class_with_too_few_images_is_named_and_fewer_shots_are_among_more(tmp_path):
  rows = np.arange(25)  # five of class 2
  few, more = (concept_bottleneck.shown(HELD.label, rows, n, 0, HELD.class_names) for n in (2, 5))
  assert set(few) < set(more) and np.bincount(HELD.label[few]).tolist() == [2, 2, 2]
  with pytest.raises(InputError, match="6 training images of every class, got 5 of class 2"):
    concept_bottleneck.shown(HELD.label, rows, 6, 0, HELD.class_names)
  config = dataclasses.replace(visual_concepts.PRESETS["embeddings"], arms=("labo", "visual-noise"))
  options = cli.RunOptions(tmp_path / "run", 0, (saved(tmp_path / "own.npz"),), "embeddings", "v")
  with pytest.raises(InputError, match="unlabelled images for the arm visual-noise"):
    visual_concepts.build(config, options)


def test_every_class_chooses_from_its_own_list_by_the_terms_that_count():
  """With coverage 0 and one term it is the best of the list; the other lists are never asked."""
  owner = np.array([0] * 5 + [1] * 3)
  lists = concept_bottleneck.lists_of(owner, 2, 2)
  assert lists.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, -1, -1]]
  text = np.eye(8, dtype=np.float32)
  told = np.array([[0, 9, 0, 8, 0, 1, 2, 3.0]], np.float32)
  visual = np.array([[3, 0, 2, 0, 0, 5, 0, 1.0]], np.float32)
  for weights, want in (((1, 0, 0), [[1, 3], [7, 6]]), ((0, 1, 0), [[0, 2], [5, 7]])):
    found = concept_bottleneck.choose(text, lists, told, visual, np.float32(weights), 2)
    assert np.asarray(found)[0].tolist() == want
  # a value may be below 0 by rounding: the end of a shorter list is still no phrase
  told[0, 5] = -1e-8
  found = concept_bottleneck.choose(text, lists, told, visual, np.float32((1, 0, 0)), 3)
  assert np.asarray(found)[0, 1].tolist() == [7, 6, 5]
  with pytest.raises(InputError, match="num_kept"):
    concept_bottleneck.lists_of(owner, 2, 4)


def test_planted_phrases_that_name_nothing_vary_less_and_are_longer():
  held = concept_sets.planted(100)
  scores, visual = concept_bottleneck.measured(held, np.arange(700), 0.0)
  seen = held.is_visual
  assert scores.shape == (700, 700) and scores.min() > 0
  means = {name: (v[seen].mean(), v[~seen].mean()) for name, v in visual.items()}
  # an attribute of rate 1/3 adds a variance of 2/9 to the noise's 0.16: up to 1.5 times as much
  for name in ("own", "other"):
    assert 1.1 < means[name][0] / means[name][1] < 1.6, name
  assert abs(means["noise"][0] / means["noise"][1] - 1) < 0.05
  assert means["lengths"][0] < means["lengths"][1]


def test_texts_that_point_away_from_images_want_a_shift():
  away = HELD._replace(text=HELD.text * np.where(np.arange(24) == 3, -1, 1)[:, None])
  with pytest.raises(InputError, match="add 0.* or more to all cosines"):
    concept_bottleneck.measured(away, np.arange(30), 0.0)
  plain, moved = (concept_bottleneck.measured(HELD, np.arange(30), s) for s in (0.0, 1.0))
  np.testing.assert_array_equal(plain[0], moved[0])  # a shift is for D alone


def test_a_lead_is_the_difference_of_two_roles_person_by_person():
  row = {"arm": "a", "seed": 0, "subject": "p", "accuracy/all": 1.0, "seen/all": 0.5}
  rows = [
    {**row, "role": role, "balanced/all": value, "lead/all": np.nan}
    for role, value in (("1 shot", 0.25), ("4 shots", 0.5), ("full", 1.0))
  ]
  (lead,) = visual_concepts.lead_of(rows)
  assert lead["lead/all"] == -0.75 and lead["role"] == "1 shot less full"
  assert list(lead) == list(rows[0])  # the columns of one table
