"""The replay study as a person runs it, and the parts that its figures rest on."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments import ms_replay
from experiments.ms_replay import courses, hospitals, report
from experiments.ms_replay.bench import scores_of
from experiments.ms_replay.config import Config, orders_of, runs_of
from experiments.ms_replay.private import cost, of_random_patch, population
from medjax import cli
from medjax.check import InputError
from medjax.data.nifti import write_nifti
from medjax.metrics import transfer_summary
from tests.data.folders import nnunet, write_json

SMALL = [
  *"--num_train 3 3 2 --num_test 2 --shape 24 24 --patch 16 16 --widths 2 4 --batch_size 2".split(),
  *"--num_steps 2 --log_every 1 --memory 2 --min_test 2".split(),
]
ARMS = "fine-tuning replay replay-weighted replay-redrawn replay-reservoir replay-herding".split()
ARMS += "replay-diverse replay-synthetic replay-private ewc lwf a-gem der++".split()
FEW = ["fine-tuning", "replay", "a-gem"]


def run(*args):
  cli.run(ms_replay.PRESETS, ms_replay.build, ms_replay.__doc__, args=args)


@pytest.fixture(scope="module", params=[FEW, pytest.param(ARMS, marks=pytest.mark.slow)], ids=len)
def finished(request, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("replay") / "run"
  run("demo", *SMALL, "--arms", *request.param, "--workdir", str(workdir))
  return workdir, json.loads((workdir / "results.json").read_text()), request.param


def test_every_arm_has_its_matrix_and_what_follows_from_it(finished):
  _, results, arms = finished
  assert results["data"]["centres"] == ["research", "trial", "clinic"]
  assert results["data"]["num_train"] == {"research": 3, "trial": 3, "clinic": 2}
  assert list(results["arms"]) == sorted(arms)
  for own in results["arms"].values():
    r = np.array(own["r"], float)
    assert r.shape == (1, 1, 3, 3, 2) and np.all((0 <= r) & (r <= 1))
    dice = r[0, 0, :, :, 0]
    found, untrained = own["fixed_order"], np.array(results["references"]["untrained"])[0]
    summary = transfer_summary(dice, baseline=untrained)
    for name, want in (("acc", summary.acc), ("bwt", summary.bwt), ("fwt_untrained", summary.fwt)):
      np.testing.assert_allclose(found[name]["mean"], want, atol=1e-6)
    np.testing.assert_allclose(own["mean_all_centres"], dice.mean(1), atol=1e-6)
    np.testing.assert_allclose(own["zero_shot"], [dice[0, 1:].mean(), dice[1, 2]], atol=1e-6)
    assert own["steps"] == 6


def test_arms_share_the_first_centre_with_the_training_on_it_alone(finished):
  results = finished[1]
  alone = np.array(results["references"]["single-domain"])[0]
  for arm, own in results["arms"].items():
    first = np.array(own["r"], float)[0, 0, 0, :, 0]
    if arm != "replay-private":
      np.testing.assert_array_equal(first, alone[0])


def test_claims_are_tested_for_every_arm_and_shown(finished):
  workdir, results, arms = finished
  found = results["claims"]["fixed_order"]
  assert {row["arm"] for row in found["against fine-tuning"]} == {*arms, "multi-domain"} - {
    "fine-tuning"
  }
  for arm, bwt in found["bwt"].items():
    r = np.array(results["arms"][arm]["r"], float)[0, 0, :, :, 0]
    np.testing.assert_allclose(bwt["mean"], (r[2] - np.diag(r))[:2].mean(), atol=1e-6)
  text = (workdir / "report.html").read_text()
  for words in ("Every centre after every centre", "protects nobody", "Soft outputs"):
    assert words in text
  timing = json.loads((workdir / "timing.json").read_text())
  assert set(timing["arms"]) == set(arms)


def test_a_run_stopped_at_a_centre_ends_as_one_that_was_not(tmp_path, monkeypatch):
  arguments = ["demo", *SMALL, "--arms", "replay", "--workdir"]
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  run(*arguments, str(whole))
  original = courses.train_jobs

  def stopping(bench, jobs):
    if jobs and "-2-clinic" in jobs[0].name:
      raise InterruptedError
    return original(bench, jobs)

  monkeypatch.setattr(courses, "train_jobs", stopping)
  with pytest.raises(InterruptedError):
    run(*arguments, str(stopped))
  monkeypatch.setattr(courses, "train_jobs", original)
  assert not (stopped / "results.json").exists()
  run(*arguments, str(stopped))
  assert (whole / "results.json").read_text() == (stopped / "results.json").read_text()


def test_people_are_split_anew_by_every_seed_and_never_shared():
  study = hospitals.simulated((4, 3), 2, (16, 16), 0)
  parts = [hospitals.split(study, seed) for seed in range(3)]
  for part in parts:
    rows = [set(rows) for own in part.values() for rows in own.values()]
    assert sum(map(len, rows)) == len(set.union(*rows)) == 11
    assert {c: len(own["train"]) for c, own in part.items()} == study.num_train
  assert len({str(part) for part in parts}) == 3


def test_no_anatomy_and_no_lesion_stands_twice():
  study = hospitals.simulated((3, 2), 2, (24, 24), 0, num_synthetic=2)
  assert len({label.tobytes() for label in study.label}) == len(study.label) == 11
  assert study.synthetic == (9, 10) and set(study.rows) == {"research", "trial"}
  assert 0 < study.label.max() <= 1 and ((0 < study.label) & (study.label < 1)).any()  # soft


def test_lesions_fill_the_share_of_a_voxel_that_they_say():
  anatomy = np.full((30, 30), 2)
  anatomy[14:16, 14:16] = 3
  share = hospitals.lesions(anatomy, np.random.default_rng(0))
  assert set(np.round(9 * np.unique(share)).astype(int)) <= set(range(10))  # of 3 x 3 parts
  assert share[anatomy == 3].max() == 0


def test_a_real_mask_keeps_its_share_of_the_head_and_goes_to_one_case(tmp_path):
  root = folder(tmp_path / "real", 0, ("a",))
  label, affine = np.zeros((40, 40, 40), np.uint8), np.eye(4)
  label[10:20, 10:30, 20:30] = 1
  write_nifti(root / "imagesTr" / "a_0000.nii.gz", np.ones(label.shape, np.float32), affine)
  write_nifti(root / "labelsTr" / "a.nii.gz", label, affine)
  (mask,) = hospitals.real_lesions(root, (24, 24, 24))
  side = round(0.84 * 24)
  np.testing.assert_allclose(mask.sum() / side**3, label.mean(), rtol=0.1)
  middle = np.array(np.nonzero(mask > 0.5)).mean(1)
  want = (24 - side) // 2 + np.array([15, 20, 25]) / 40 * side - 0.5
  np.testing.assert_allclose(middle, want, atol=0.6)


def test_orders_differ_and_designs_are_a_cross_or_two_lines():
  orders = orders_of(Config(num_orders=6), 3, 0)
  assert orders[0] == (0, 1, 2) and len(set(orders)) == 6
  with pytest.raises(InputError, match="at most 6 orders"):
    orders_of(Config(num_orders=7), 3, 0)
  config = Config(num_seeds=2, num_orders=3)
  assert runs_of(config) == [(0, 0), (1, 0), (0, 1), (0, 2)]
  crossed = Config(num_seeds=2, num_orders=3, crossed=True)
  assert len(set(runs_of(crossed))) == 6


def test_scores_of_volumes():
  label = np.array([1.0, 1.0, 0.4, 0.0])
  found = scores_of(np.array([0.9, 0.2, 0.6, 0.0]), label)
  assert found["dice"] == 2 * 1 / (2 + 2)
  np.testing.assert_allclose(found["soft_dice"], 2 * (0.9 + 0.2 + 0.24) / (1.7 + 2.4))
  assert scores_of(np.zeros(3), np.zeros(3)) == {"dice": 1.0, "soft_dice": 1.0}


def test_boundary_reliability_is_the_diagonal_for_the_truth():
  anatomy = np.full((30, 30), 2)
  anatomy[14:16, 14:16] = 3
  label = hospitals.lesions(anatomy, np.random.default_rng(1))
  value, truth = report.boundary_reliability([label], [label])
  np.testing.assert_allclose(value, truth, atol=1e-6)
  assert len(value) > 3


def test_private_replay_sees_centre_and_memory_as_one_population():
  study = hospitals.simulated((3, 2), 2, (16, 16), 0)
  store = population(study, [0, 1, 5])
  assert store["subject"].tolist() == [0, 1, 2] and store["index"].tolist() == [0, 1, 5]
  seen = []

  def loss(params, example, key):
    del key
    seen.append(example["image"].shape)
    return (params * example["image"]).sum() + example["label"].sum()

  # A patch as large as the volume, flipped: the sums stay.
  whole = of_random_patch(loss, (16, 16))
  volume = {k: v[0] for k, v in store.items()}
  value = jax.jit(whole)(2.0, volume, jax.random.key(0))
  want = 2 * volume["image"].sum() + volume["label"].sum()
  np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-2)
  assert seen == [(16, 16, 1)]


def test_who_is_remembered_pays_at_every_later_centre():
  found = cost(8.0, 1e-3, 3)
  assert found["epsilon_by_centre"] == [24.0, 16.0, 8.0]
  np.testing.assert_allclose(found["delta_by_centre"], [3e-3, 2e-3, 1e-3])


def folder(root, seed, names=("a", "b", "c"), *, spacing=1.0, lesion=True):
  labels = {"background": 0, "lesion": 1}
  for part in ("imagesTr", "labelsTr"):
    (root / part).mkdir(parents=True)
  write_json(root, labels=labels)
  random, affine = np.random.default_rng(seed), np.diag([spacing, 1.0, 1.0, 1.0])
  for name in names:
    image = random.normal(size=(9, 8, 8)).astype(np.float32)
    label = (random.uniform(size=image.shape) < 0.1 * lesion).astype(np.uint8)
    write_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", image, affine)
    write_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
  return root


def read(*paths, near_duplicates=0.0):
  return hospitals.folders(
    paths,
    0.2,
    shape=None,
    spacing=None,
    subject_pattern=None,
    near_duplicates=near_duplicates,
    seed=0,
  )


def test_folders_become_centres_on_a_grid_that_halves(tmp_path):
  study = read(folder(tmp_path / "x", 0), folder(tmp_path / "y", 1, ("a", "b", "c", "d")))
  assert study.centres == ("x", "y") and study.num_train == {"x": 2, "y": 3}
  assert study.image.shape == (7, 16, 8, 8, 1)
  assert study.subjects[0] == "x/a" and study.subjects[3] == "y/a"


def test_bad_centres_are_refused_in_one_line(tmp_path):
  good = folder(tmp_path / "good", 0)
  with pytest.raises(InputError, match="two folders or more"):
    read(good)
  with pytest.raises(InputError, match="at least 3 people at few"):
    read(good, folder(tmp_path / "few", 1, ("a", "b")))
  with pytest.raises(InputError, match="a lesion in some case of healthy"):
    read(good, folder(tmp_path / "healthy", 2, lesion=False))
  with pytest.raises(InputError, match="one voxel size in all centres"):
    read(good, folder(tmp_path / "coarse", 3, spacing=2.0))
  copy = shutil.copytree(good, tmp_path / "copy")
  with pytest.raises(InputError, match="identical ones in cases good/a and copy/a"):
    read(good, copy)
  nnunet(tmp_path / "other")  # its own labels and grid
  with pytest.raises(InputError, match="class_names of good and other"):
    read(good, tmp_path / "other")


def test_bad_settings_are_refused():
  with pytest.raises(InputError, match="one of num_steps and num_epochs"):
    Config(num_epochs=1.0)
  with pytest.raises(InputError, match="num_validation > 0"):
    Config(carry="best")
  with pytest.raises(InputError, match="per-example gradients for couple_batch"):
    Config(couple_batch=True, arms=("ewc",))


@pytest.mark.parametrize("name", ms_replay.PRESETS)
def test_presets_fit_together(name):
  config = ms_replay.PRESETS[name]
  assert len(config.patch) == 3 or name == "demo"
  assert all(p % 2 ** (len(config.widths) - 1) == 0 for p in config.patch)
