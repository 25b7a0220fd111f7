"""Rows whose mean over people is the score; people on one side; settings by their names."""

import dataclasses

import numpy as np
import pytest

from medjax import data, inference, study
from medjax.check import InputError
from medjax.types import TrainState

random = np.random.default_rng(0)
LABELS = np.array([0, 1, 2, 1, 0, 0, 2, 1, 0, 0])
LOGITS = random.normal(size=(10, 3)).astype(np.float32)
PEOPLE = ["bob", "ann", "bob", "cyd", "cyd", "ann", "eve", "eve", "eve", "dan"]


def area(scores, positive):
  """Share of the pairs of a positive and a negative that are ranked right, ties half."""
  gaps = scores[positive][:, None] - scores[~positive][None]
  return ((gaps > 0) + (gaps == 0) / 2).mean()


def means(rows, wanted):
  return {name: np.mean([row[f"{name}/all"] for row in rows]) for name in wanted}


def test_the_means_of_the_rows_are_accuracy_balanced_accuracy_and_area():
  wanted = ("accuracy", "balanced", "auroc")
  right = LOGITS.argmax(-1) == LABELS
  probability = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
  balanced = np.mean([right[LABELS == k].mean() for k in range(3)])
  auroc = np.mean([area(probability[:, k], LABELS == k) for k in range(3)])
  rows = study.classes(LOGITS, LABELS, about={"arm": "a"}, wanted=wanted)
  found = means(rows, wanted)
  assert found == pytest.approx({"accuracy": right.mean(), "balanced": balanced, "auroc": auroc})
  # The same of people with several pictures; accuracy then counts people, not pictures.
  grouped = study.classes(LOGITS, LABELS, about={"arm": "a"}, subjects=PEOPLE, wanted=wanted)
  by_person = [right[[p == name for p in PEOPLE]].mean() for name in sorted(set(PEOPLE))]
  found = means(grouped, wanted)
  assert found == pytest.approx({
    "accuracy": np.mean(by_person), "balanced": balanced, "auroc": auroc})  # fmt: skip
  assert [row["subject"] for row in grouped] == ["ann", "bob", "cyd", "dan", "eve"]


def test_the_order_of_the_images_changes_no_row():
  order = random.permutation(len(LABELS))
  own = study.classes(LOGITS, LABELS, about={}, subjects=PEOPLE)
  moved = study.classes(LOGITS[order], LABELS[order], about={}, subjects=[PEOPLE[i] for i in order])
  for one, other in zip(own, moved, strict=True):
    assert one == pytest.approx(other)


def test_two_classes_are_ranked_by_the_difference_of_their_logits():
  labels = (LABELS > 0).astype(np.int64)
  rows = study.classes(LOGITS[:, :2], labels, about={}, wanted=("auroc",))
  expected = area(LOGITS[:, 1] - LOGITS[:, 0], labels == 1)
  assert means(rows, ("auroc",))["auroc"] == pytest.approx(expected)


def test_findings_without_both_outcomes_have_no_area():
  labels = np.stack([LABELS > 0, LABELS > 9], -1).astype(np.int64)
  labels[3, 0] = -1  # unknown
  rows = study.findings(
    LOGITS[:, :2], labels, about={}, class_names=("edema", "mass"), subjects=PEOPLE
  )
  known = labels[:, 0] >= 0
  expected = area(LOGITS[known, 0], labels[known, 0] == 1)
  assert np.mean([row["auroc/edema"] for row in rows]) == pytest.approx(expected)
  assert all(np.isnan(row["auroc/mass"]) for row in rows)


@dataclasses.dataclass(frozen=True)
class Case:
  name: str
  truth: np.ndarray
  spacing: tuple[float, ...] = (1.0, 2.0)


def test_a_missed_structure_has_the_diagonal_as_its_distance():
  truth = np.zeros((6, 6), np.int32)
  truth[2:4, 2:4] = 1
  cases = [Case("found", truth), Case("missed", truth)]
  about = lambda case: {"subject": case.name}  # noqa: E731
  found, missed = study.masks(
    [truth, 0 * truth], cases, about=about, class_names=("background", "liver")
  )
  assert found["dice/liver"] == 1.0 and found["subject"] == "found" == found["case"]
  assert missed["dice/liver"] == 0.0
  # Six voxels of 1 mm and six of 2 mm.
  assert study.mean(missed, "hausdorff") == pytest.approx(np.hypot(6.0, 12.0))


def test_a_predictor_gives_what_the_network_gives_and_averages_symmetries():
  images = random.normal(size=(5, 4, 4, 1)).astype(np.float32)
  rising = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
  apply = lambda scale, image: scale * image * rising  # noqa: E731
  plain = study.ChunkedPredictor(apply, chunk=2)(3.0, images)
  np.testing.assert_allclose(plain, 3 * images * rising, rtol=1e-6)
  both = study.ChunkedPredictor(apply, chunk=2, symmetries=inference.mirrorings(1))(3.0, images)
  flipped = rising[::-1]  # a mirrored image meets the weights of the mirrored place
  np.testing.assert_allclose(both, 3 * images * (rising + flipped) / 2, rtol=1e-5)


def test_validation_accuracy_is_the_share_that_is_right():
  cases = data.stack(data.ProceduralAnatomy(3, (8, 8), 2, 0, with_image=True))
  cases = cases.replace(label=np.array([0, 1, 1]))
  logits = lambda params, image: params + 0 * image.sum()  # noqa: E731
  state = TrainState(0, np.array([0.0, 1.0], np.float32), (), {}, ())
  assert study.accuracy_of(study.ChunkedPredictor(logits), cases)(state) == {"accuracy": 2 / 3}


# --- turns, arms, settings --------------------------------------------------------------


def test_sites_are_left_out_in_turn_and_no_person_stands_on_two_sides():
  # People of two procedural sites of one seed would be the same people: another seed each.
  sites = {name: data.ProceduralAnatomy(10, (16, 16), 4, seed) for seed, name in enumerate("abc")}
  whole = data.concat(sites)
  fractions = {"train": 0.6, "validation": 0.1, "test": 0.3}
  turns = study.turns_of(whole, [("a",), ("b", "c")], tuple, fractions=fractions, seed=3)
  assert [turn.name for turn in turns] == ["a", "b+c"]
  for turn, unseen in zip(turns, ({"a"}, {"b", "c"}), strict=True):
    assert {whole.domains[i] for i in turn.test["unseen"]} == unseen
    assert not unseen & {whole.domains[i] for i in (*turn.train, *turn.test["in-domain"])}
    assert len(turn.test["unseen"]) == 10 * len(unseen)
  people = [person for own in turns[0].people.values() for person in own]
  assert len(people) == len(set(people)) == 30
  splits = study.splits_of(turns, 3)
  assert set(splits["turns"]["a"]) == {*fractions, "unseen"} and splits["seed"] == 3
  with pytest.raises(InputError, match="a site to train on"):
    study.turns_of(whole, [("a", "b", "c")], tuple, fractions=fractions, seed=3)
  with pytest.raises(InputError, match="turns of different names"):
    study.splits_of([turns[0], turns[0]], 3)


def test_settings_keep_the_promises_of_their_names():
  @dataclasses.dataclass(frozen=True)
  class Config(study.Settings):
    batch_size: int = 4
    mix_fraction: float = 0.5
    max_test: int = 0
    name: str = ""

    def __post_init__(self):
      study.check_fields(self, may_be_zero=("max_test",))

  Config()
  for bad in ({"batch_size": 0}, {"mix_fraction": 1.5}, {"max_test": -1}, {"margin": -0.1}):
    with pytest.raises(InputError, match=next(iter(bad))):
      Config(**bad)


def test_arms_are_told_apart_and_start_from_earlier_ones():
  plain = study.Arm("plain", "nothing", dict)
  with pytest.raises(InputError, match="two 'plain'"):
    study.arms(plain, plain)
  with pytest.raises(InputError, match="start of arm ours"):
    study.arms(study.Arm("ours", "the method", dict, "plain"), plain)
  for names, words in (((), "one or more"), (("x",), "one of"), (("plain",) * 2, "repeats")):
    with pytest.raises(InputError, match=words):
      study.chosen("arms", names, study.arms(plain))
