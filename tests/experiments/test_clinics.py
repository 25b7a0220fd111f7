"""Cases of several clinics: codings, splits, and which model reads whom."""

import pathlib

import numpy as np
import pytest

from experiments import clinic_sets, clinic_tasks, clinics, prostate_sites
from medjax import data
from medjax.check import InputError
from tests.data.folders import real_set

COLUMNS = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,target"
UCI = (
  "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0",
  "67,1,4,160,286,0,2,108,1,1.5,2,3,3,2",
  "56,0,2,140,?,0,0,170,0,0,?,?,?,0",  # incomplete: left out
  "41,0,3,130,204,0,1,172,0,1.4,1,0,3,3",
  "41,0,3,130,204,0,1,172,0,1.4,1,0,3,3",  # the same person again
)
KAGGLE = (
  "63,1,3,145,233,1,0,150,0,2.3,0,0,1,1",
  "67,1,0,160,286,0,0,108,1,1.5,1,3,2,0",
  "41,0,2,130,204,0,2,172,0,1.4,2,0,2,0",
  "41,0,2,130,204,0,2,172,0,1.4,2,0,2,0",
)


def hospitals(root, rows_of):
  for name in clinic_sets.HEART:
    rows = "\n".join((COLUMNS, *rows_of(name)))
    (root / f"processed.{name}.data.csv").write_text(rows + "\n")
  return clinic_sets.heart(root, 0).source


def test_both_codings_of_heart_disease_are_the_same_people(tmp_path):
  source = hospitals(tmp_path, lambda name: KAGGLE if name == "va" else UCI)
  assert len(source) == 16 and len(set(source.subjects)) == 12
  assert [int(source[i].label) for i in range(4)] == [0, 1, 1, 1]
  for i in range(4):
    np.testing.assert_array_equal(source[i].image, source[12 + i].image)
    assert source[i].label == source[12 + i].label
  kinds = dict(zip(source.channel_names, source[1].image[0, 0], strict=True))
  assert (kinds["cp 4"], kinds["cp 2"], kinds["restecg 2"], kinds["age"]) == (1, 0, 1, 67)


def test_in_every_hospital_the_ill_have_pain_under_effort_more_often():
  """The sign that a file with turned labels would get wrong."""
  source = clinic_sets.heart(real_set("tabular_clinics") / "heart", 0).source
  assert len(source) == 740  # as FLamby has
  place = source.channel_names.index("exang")
  for name in clinic_sets.HEART:
    own = [source[i] for i, domain in enumerate(source.domains) if domain == name]
    pain = {k: [x.image[0, 0, place] for x in own if x.label == k] for k in (0, 1)}
    assert np.mean(pain[1]) > np.mean(pain[0])


def test_the_split_of_breast_cancer_is_flambys():
  found = clinic_sets.tcga(real_set("tabular_clinics") / "tcga_brca")
  sizes = {"Northeast": (248, 63), "South": (156, 40), "West": (164, 42)}
  sizes |= {"Midwest": (129, 33), "Europe": (129, 33), "Canada": (40, 11)}
  for name, expected in sizes.items():
    own = [sum(found.source.domains[i] == name for i in found.parts[p]) for p in ("train", "test")]
    assert tuple(own) == expected
  assert len(found.source.channel_names) == 39 and len(set(found.source.subjects)) == 1088


def test_each_person_is_read_by_the_model_of_their_own_clinic():
  task = clinic_tasks.task_of("simulated", (), 6, 0)
  models = [type("One", (), {"params": float(k)}) for k in range(4)]
  outputs = clinics.outputs_of(task, lambda k, images: np.full((len(images), 1), k), models)
  np.testing.assert_array_equal(outputs[:, 0], task.test.domain)
  rows = task.score(outputs, {"role": "simulated"}, False)
  assert {row["role"] for row in rows} == {"simulated"}
  # risks that are equal within a clinic decide none of its pairs
  assert np.mean([row["concordance/all"] for row in rows]) == pytest.approx(0.5)
  every = {row["role"] for row in task.score(outputs, {"role": "simulated"}, True)}
  assert every == {"simulated", "simulated, all pairs"}


def test_the_true_hazard_orders_simulated_people_and_its_negative_turns_them_round():
  task = clinic_tasks.task_of("simulated", (), 60, 0)
  outputs = np.zeros((len(task.test.label), 1))
  outputs[:, 0] = -task.test.label[:, 1]
  assert set(task.by_clinic(outputs)) == {f"clinic {k}" for k in range(4)}
  assert min(task.by_clinic(outputs).values()) == 1
  assert max(task.by_clinic(-outputs).values()) == 0


def test_columns_are_scaled_by_the_people_who_train():
  task = clinic_tasks.task_of("simulated", (), 30, 0)
  np.testing.assert_allclose(task.train.image.mean((0, 1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(task.train.image.std((0, 1, 2)), 1, rtol=1e-5)
  assert abs(task.test.image.mean((0, 1, 2))).max() > 1e-3  # not by those who test


def test_local_trains_a_model_a_clinic_and_pooled_makes_the_updates_of_all():
  config = clinics.Config(num_people=6, local_steps=3)
  task = clinic_tasks.task_of("simulated", (), 6, 0)
  held = [np.flatnonzero(task.train.domain == k) for k in range(4)]
  made = {arm: clinics.ARMS[arm].make(config, task, held) for arm in config.arms}
  assert {arm: len(own) for arm, own in made.items()} == {
    arm: 4 if arm == "local" else 1 for arm in made
  }
  assert made["pooled"][0].local_steps == 12 and len(made["pooled"][0].held) == 1
  assert all(own[0].step.manifest["num_clients"] in (1, 4) for own in made.values())


@pytest.mark.parametrize(
  ("call", "message"),
  (
    (lambda: clinics.Config(task="liver"), "liver"),
    (lambda: clinics.Config(arms=("alone",)), "alone"),
    (lambda: clinic_sets.heart(pathlib.Path("/nowhere"), 0), "processed.cleveland"),
  ),
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message):
    call()


def test_prostates_are_cut_around_their_widest_slice_and_seen_by_their_centre(tmp_path):
  """Real layout, made-up maps: a zone on voxels of .5 mm, and one that the grid does not reach."""
  (tmp_path / "zones").mkdir()
  lines = ["case,center"]
  for number, centre in enumerate(prostate_sites.CENTRES):
    for person in range(3):
      label = np.zeros((96, 96, 3), np.uint8)
      label[36:60, 36:60, 1], label[42:54, 42:54, 1] = 1, 2
      label[0:2, 0:2, 2] = 2
      name = f"{number}{person}_9"
      data.write_nifti(tmp_path / "zones" / f"{name}.nii.gz", label, np.diag([0.5, 0.5, 3, 1]))
      lines.append(f"{name},{centre}")
  (tmp_path / "cases.csv").write_text("\n".join(lines))
  found = prostate_sites.prostates(tmp_path, 0)
  case = found.source[0]
  # 24 voxels of .5 mm are 8 pixels of 1.5 mm, of which the inner 4 belong to the other zone.
  assert np.bincount(case.label.ravel()).tolist() == [64 * 64 - 64, 48, 16]
  assert np.flatnonzero(case.label.any(1)).tolist() == list(range(28, 36))
  assert case.image.min() == 0 and case.image.max() == 1
  assert sorted(set(found.source.domains)) == sorted(prostate_sites.CENTRES)
  assert found.source.subjects[0] == "00" and not set(found.parts["train"]) & set(
    found.parts["test"]
  )
  # Whose peripheral zone is brighter than the other: where the two ranges do not meet.
  for i, centre in enumerate(found.source.domains):
    image, label = found.source[i].image[..., 0], found.source[i].label
    if centre == "RUMC":
      assert image[label == 1].mean() > image[label == 2].mean()
  (tmp_path / "cases.csv").write_text("\n".join([*lines[:-1], "22_9,Mars"]))
  with pytest.raises(InputError, match="centre of 22_9 in cases.csv"):
    prostate_sites.prostates(tmp_path, 0)
