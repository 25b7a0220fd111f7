"""The segmentation experiment as a person runs it: a folder in; scores, networks, labels out."""

import csv
import functools
import json
import shutil

import nibabel
import numpy as np
import pytest

import medjax
from experiments import segmentation
from medjax import cli
from tests.data.folders import nnunet
from tests.data.test_plans import plans

CASES = tuple(f"p{i}_scan{j}" for i in range(6) for j in range(2))
SMALL = [
  *("--num_folds", "2", "--num_steps", "2", "--batch_size", "2"),
  *("--widths", "2", "2", "--log_every", "1", "--eval_every", "1", "--checkpoint_every", "2"),
  *("--subject_pattern", r"(p\d+)_", "--validation_fraction", "0.3"),
]
AFFINE = np.array([[-2.0, 0, 0, 9], [0, -0.96, 0.84, 8], [0, 0.28, 2.88, -7], [0, 0, 0, 1]])


def run(*args):
  cli.run(segmentation.PRESETS, segmentation.build, segmentation.__doc__, args=args)


@pytest.fixture(scope="module", params=[pytest.param(None, id="whole", marks=pytest.mark.slow)])
def finished(tmp_path_factory):
  root = tmp_path_factory.mktemp("segmentation")
  folder = nnunet(root / "data", CASES, channels=("T1", "T2"), shape=(9, 8, 5), affine=AFFINE)
  for channel in ("0000", "0001"):
    first = folder / "imagesTr" / f"{CASES[0]}_{channel}.nii.gz"
    shutil.copy(first, folder / "imagesTs" / f"new_{channel}.nii.gz")
  arguments = ["folder", *SMALL, *"--patch 8 8 --arms augmented plain --keep best".split()]
  arguments += ["--data", str(folder), "--workdir", str(root / "run")]
  run(*arguments)
  return folder, root / "run", arguments


def test_every_subject_is_held_out_once_and_in_one_part_of_each_fold(finished):
  _, workdir, _ = finished
  folds = json.loads((workdir / "splits.json").read_text())["folds"]
  assert sorted(p for fold in folds for p in fold["test"]) == [f"p{i}" for i in range(6)]
  for fold in folds:
    people = [p for part in ("train", "validation", "test") for p in fold[part]]
    assert sorted(people) == [f"p{i}" for i in range(6)]
  with open(workdir / "cases.csv") as file:
    rows = list(csv.DictReader(file))
  for arm in ("augmented", "plain"):
    assert sorted(row["case"] for row in rows if row["arm"] == arm) == sorted(CASES)


def test_results_have_their_keys_and_a_verdict(finished):
  results = json.loads((finished[1] / "results.json").read_text())
  assert results["test_cases"] == 12
  assert results["test_subjects"] == 6
  for values in results["arms"].values():
    assert values["dice"]["low"] <= values["dice"]["mean"] <= values["dice"]["high"]
    assert set(values["dice_by_class"]) == {"organ", "lesion"}
    assert len(values["dice_by_fold"]) == len(values["temperatures"]) == 2
  row = results["comparison"][0]
  assert (row["arm"], row["reference"], row["column"]) == ("augmented", "plain", "equal updates")
  assert row["verdict"] in ("better", "worse", "undecided")


def test_new_images_are_labelled_on_their_grid(finished):
  folder, workdir, _ = finished
  written = nibabel.load(workdir / "predictions" / "new.nii.gz")
  given = nibabel.load(folder / "imagesTs" / "new_0000.nii.gz")
  np.testing.assert_array_equal(written.affine, given.affine)
  assert written.shape == given.shape
  assert set(np.unique(np.asarray(written.dataobj))) <= {0, 3, 7}


def test_held_out_cases_are_labelled_by_the_network_that_has_not_seen_them(finished):
  folder, workdir, _ = finished
  with open(workdir / "cases.csv") as file:
    rows = [row for row in csv.DictReader(file) if row["arm"] == "plain"]
  for row in rows:
    truth = nibabel.load(folder / "labelsTr" / f"{row['case']}.nii.gz")
    path = workdir / "held_out" / f"plain-fold{row['fold']}-0" / f"{row['case']}.nii.gz"
    written = nibabel.load(path)
    np.testing.assert_array_equal(written.affine, truth.affine)
    for name, value in (("organ", 3), ("lesion", 7)):
      a, b = np.asarray(written.dataobj) == value, np.asarray(truth.dataobj) == value
      overlap = 2 * (a & b).sum() / (a.sum() + b.sum())
      assert float(row[f"dice/{name}"]) == pytest.approx(overlap, abs=1e-6)


def test_the_command_line_stands_against_the_plans(tmp_path):
  folder = nnunet(tmp_path / "data", CASES, channels=("T1", "T2"), shape=(9, 8, 5), affine=AFFINE)
  settings = {"patch_size": [5, 8, 9], "spacing": [3.0, 1.0, 2.0], "batch_size": 4}
  settings |= {"normalization_schemes": 2 * ["ZScoreNormalization"]}
  path = plans(
    tmp_path, configurations={"3d_fullres": settings | {"use_mask_for_norm": 2 * [False]}}
  )
  config = segmentation.Config(plans=str(path), num_folds=2, patch=(8, 4), batch_size=3)
  load = functools.partial(segmentation.load, config, folder, 0, None)
  planned = load()
  assert planned.preprocess.patch == (9, 8, 5) and planned.batch_size == 4
  assert planned.preprocess.spacing == (2.0, 1.0, 3.0)
  ours = load({"patch", "spacing"})
  assert ours.preprocess.patch == (8, 4) and ours.preprocess.axis == 2
  assert ours.preprocess.spacing is None and ours.batch_size == 4


def test_the_networks_load_by_name(finished):
  names = [member.name for member in medjax.load_members(finished[1])]
  want = [f"{arm}-fold{fold}-0" for arm in ("augmented", "plain") for fold in range(2)]
  assert names == want
  _, _, preprocess = medjax.load_run(finished[1], name=names[0])
  assert preprocess.label_values == (0, 3, 7)
  assert preprocess.patch == (8, 8)
  assert preprocess.axis == 2  # slices of the volumes


def test_the_page_shows_everything(finished):
  text = (finished[1] / "report.html").read_text()
  for words in (
    "Held-out subjects",
    "New images",
    "the mean of the 2 networks",
    "Can its probabilities",
    "Where the time went",
  ):
    assert words in text
  assert text.count("data:image/png") >= 10


def test_the_same_command_again_changes_nothing(finished, capsys):
  _, workdir, arguments = finished
  before = (workdir / "results.json").read_bytes()
  (workdir / "results.json").unlink()  # as if killed before the last write
  run(*arguments)
  assert (workdir / "results.json").read_bytes() == before
  run(*arguments)
  assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["folder"], "one path after --data, an nnU-Net folder"),
    (["folder", "--data", "nowhere"], "nowhere"),
    (["demo", "--fold", "5"], "fold in"),
    (["demo", "--fold", "-1", "--normalise", "ct"], "one --fold at a time"),
    (["demo", "--keep", "best", "--validation_fraction", "0"], "validation_fraction > 0"),
  ],
)
def test_bad_input_gets_one_line_and_status_2(arguments, message, tmp_path, capsys):
  with pytest.raises(SystemExit) as stop:
    run(*arguments, "--workdir", str(tmp_path / "run"))
  assert stop.value.code == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "run").exists()
