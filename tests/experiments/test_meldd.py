"""Patients stand in one fold, sets keep their lesions, and bad tables end in one line."""

import dataclasses

import numpy as np
import pytest

from experiments import meldd, patient_sets, patients
from medjax import study
from medjax.check import InputError

HELD = patients.simulated(40, size=3)
HEADER = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,target"


def table(path, *lines, header=HEADER):
  path.write_text("\n".join([header, *lines]) + "\n")
  return path


GOOD = ("a1,ann,female,45.0,torso,0", "a2,ann,female,50.0,,1", "b1,bob,,,head/neck,0")


def test_a_table_is_read_with_what_is_unknown(tmp_path):
  found = patients.from_table(table(tmp_path / "own.csv", *GOOD))
  assert found.patients == ("ann", "ann", "bob") and found.label.tolist() == [0, 1, 0]
  assert [patients.SITES[i] for i in found.site] == ["torso", "unknown", "head/neck"]
  assert found.sex.tolist() == [0, 0, 2] and np.isnan(found.age).tolist() == [False, False, True]
  assert found.is_drawn and found.folds is None
  code = patient_sets.age_code(found.age)
  assert code.shape == (3, 9) and code[2].tolist() == [0.0] * 9 and code[0, 8] == 1
  # 45 and 49 years are one bin; the shortest wavelength is four bins, so 20 years
  np.testing.assert_array_equal(code[0], patient_sets.age_code(np.array([49.0]))[0])
  np.testing.assert_allclose(code[0][[0, 4]], patient_sets.age_code(np.array([65.0]))[0][[0, 4]],
                             atol=1e-6)  # fmt: skip


@pytest.mark.parametrize(
  ("lines", "header", "said"),
  [
    ((*GOOD, "a3,ann,male,45.0,torso,0"), HEADER, "one sex of every patient, got two of ann"),
    (("a1,ann,male,1,torso,0,x", "a2,ann,male,1,torso,0,y"), HEADER + ",fold",
     "one fold of every patient, got two of ann"),
    (("a1,ann,male,45,torso,2",), HEADER, "target 0 or 1 in line 2"),
  ],
)  # fmt: skip
def test_a_table_that_contradicts_itself_is_refused(tmp_path, lines, header, said):
  with pytest.raises(InputError, match=said):
    patients.from_table(table(tmp_path / "own.csv", *lines, header=header))


def test_features_of_your_own_follow_the_names_and_not_the_order(tmp_path):
  path = table(tmp_path / "own.csv", *GOOD)
  feature = np.arange(6.0).reshape(3, 2)
  np.savez(tmp_path / "own.npz", name=["b1", "a2", "a1"], feature=feature)
  found = patients.from_table(path, tmp_path / "own.npz")
  assert found.feature.tolist() == feature[::-1].tolist() and not found.is_drawn
  np.savez(tmp_path / "own.npz", name=["b1", "a2"], feature=feature[:2])
  with pytest.raises(InputError, match="features of every lesion, got none of a1"):
    patients.from_table(path, tmp_path / "own.npz")


def test_a_constant_feature_is_named():
  flat = HELD.feature.copy()
  flat[:30, 1] = 5.0  # the same among the training lesions, not among all
  with pytest.raises(InputError, match="feature 1 the same in all"):
    patient_sets.standardised(flat, np.arange(30))


def test_no_patient_stands_in_two_parts_and_every_one_is_tested_once():
  turns = patient_sets.turns_of(HELD, 2, 0)
  tested = [name for turn in turns for name in turn.people["test"]]
  assert sorted(tested) == sorted(set(HELD.patients))
  for turn in turns:
    people = [name for own in turn.people.values() for name in own]
    assert len(people) == len(set(people)) == 40
  given = HELD._replace(folds=np.array([name < "patient_0020" for name in HELD.patients]))
  own = patient_sets.turns_of(given, 5, 0)  # the table's two folds, whatever the settings say
  assert sorted(own[1].people["test"]) == [f"patient_{i:04d}" for i in range(20)]
  both = [
    turns[0],
    turns[1]._replace(name="x", people={**turns[1].people, "test": turns[1].people["train"]}),
  ]  # noqa: E501
  with pytest.raises(InputError, match="no subject in both"):
    study.splits_of(both, 0)
  alone = HELD._replace(label=0 * HELD.label)
  with pytest.raises(InputError, match="melanomas and other lesions in the train part"):
    patient_sets.turns_of(alone, 2, 0)


def test_no_picture_stands_in_two_parts_and_kinds_stay():
  random = np.random.default_rng(0)
  feature, kinds = random.normal(size=(30, 4)), (np.arange(30) % 3 == 0).astype(int)
  found = patients.with_pictures(HELD, feature, kinds, 3, 0)
  rows = {own.astype(np.float32).tobytes(): i for i, own in enumerate(feature)}
  place = np.array([rows[own.tobytes()] for own in found.feature])
  np.testing.assert_array_equal(kinds[place], HELD.label)
  for turn in patient_sets.turns_of(found, 5, 0):
    shown = {part: set(place[np.isin(found.patients, own)]) for part, own in turn.people.items()}
    assert not shown["test"] & (shown["train"] | shown["validation"])
    assert not shown["train"] & shown["validation"]
  for name in set(found.patients):  # one fold a patient, five nevi that look alike
    own = (np.array(found.patients) == name) & (HELD.label == 0)
    assert len(set(found.folds[own])) <= 1 and len(set(place[own])) <= 5
  with pytest.raises(InputError, match="20 pictures of each kind, got 10 of kind 1"):
    patients.with_pictures(HELD, feature, kinds, 20, 0)


def test_random_directions_keep_distances():
  feature = np.random.default_rng(0).normal(size=(20, 300))
  found = patients.projected(feature, 400, 0)
  far, near = (
    np.linalg.norm(own[:, None] - own[None], axis=-1)[np.triu_indices(20, 1)]
    for own in (feature, found)
  )
  np.testing.assert_allclose(near / far, 1, atol=0.2)  # a chi's relative deviation is 1 / sqrt(800)


def test_sets_hold_every_lesion_once_and_strangers_keep_the_sizes():
  turn = patient_sets.turns_of(HELD, 2, 0)[0]
  plain, mixed = (
    patient_sets.stores_of(HELD, 5, turn, 0, strangers=strangers) for strangers in (False, True)
  )
  for part in ("train", "validation", "test"):
    own, other = getattr(plain, part), getattr(mixed, part)
    rows = np.sort(own["row"][own["is_item"]])
    assert rows.tolist() == np.flatnonzero(np.isin(HELD.patients, turn.people[part])).tolist()
    assert rows.tolist() == np.sort(other["row"][other["is_item"]]).tolist()
    assert own["is_item"].sum(1).max() <= 5
    np.testing.assert_array_equal(own["is_item"], other["is_item"])
    owners = [{HELD.patients[i] for i in row if i >= 0} for row in own["row"]]
    assert all(len(names) == 1 for names in owners)
    owners = [{HELD.patients[i] for i in row if i >= 0} for row in other["row"]]
    assert sum(len(names) > 1 for names in owners) > len(owners) / 2
  # both classes weigh alike, and the mean weight of a set is 1
  weight, label = plain.train["loss_weight"], plain.train["label"]
  is_item = plain.train["is_item"]
  np.testing.assert_allclose(
    weight[label == 1].sum(), weight[(label == 0) & is_item].sum(), rtol=1e-5
  )  # noqa: E501
  np.testing.assert_allclose(weight.sum(1).mean(), 1, rtol=1e-5)


def test_rates_are_means_over_patients_with_the_cut_of_the_validation_patients():
  turn = patient_sets.turns_of(HELD, 2, 0)[0]
  fold = patient_sets.stores_of(HELD, 5, turn, 0, strangers=False)
  random = np.random.default_rng(0)
  scores = HELD.label + random.normal(0, 0.7, len(HELD.label))

  class Known:
    def scores(self, params, store, num_lesions):
      found = np.full(num_lesions, np.nan)
      rows = store["row"][store["is_item"]]
      found[rows] = scores[rows]
      return found

  rows = meldd.judged(Known(), None, fold, HELD, {"arm": "known"})
  parts = {p: np.isin(HELD.patients, turn.people[p]) for p in ("validation", "test")}
  known, label = scores[parts["validation"]], HELD.label[parts["validation"]]
  cuts = np.concatenate([[known.min() - 1], (np.sort(known)[1:] + np.sort(known)[:-1]) / 2])
  gain = [(known[label == 1] > c).mean() + (known[label == 0] <= c).mean() for c in cuts]
  cut = cuts[np.flatnonzero(np.isclose(gain, max(gain)))[-1]]
  new, label = scores[parts["test"]], HELD.label[parts["test"]]
  want = {
    "sensitivity": (new[label == 1] > cut).mean(),
    "specificity": (new[label == 0] <= cut).mean(),
  }  # noqa: E501
  want["balanced"] = sum(want.values()) / 2
  for name, value in want.items():
    np.testing.assert_allclose(np.mean([row[f"{name}/all"] for row in rows]), value)


@pytest.mark.slow  # the calibration of its noise
def test_the_private_arm_protects_patients_and_says_so():
  turn = patient_sets.turns_of(HELD, 2, 0)[0]
  fold = patient_sets.stores_of(HELD, 3, turn, 0, strangers=False)  # some patients have two sets
  config = dataclasses.replace(meldd.PRESETS["demo"], batch_size=4, num_steps=1)
  plan = meldd.plan_of(config, fold.train, 0)
  assert plan.num_examples == len(turn.people["train"]) < len(fold.train["subject"])
  assert plan.statement().startswith("Protected: one patient")
  plan.stream(fold.train, chunk=4)  # which counts the patients in the data
