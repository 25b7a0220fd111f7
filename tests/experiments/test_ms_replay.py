"""The replay study as a person runs it, and the parts that its figures rest on."""

import json
import re
import shutil
import types

import jax
import numpy as np
import pytest
from scipy import ndimage

from experiments import ms_replay
from experiments.ms_replay import courses, hospitals, report, scores, simulation
from experiments.ms_replay import jobs as jobs_module
from experiments.ms_replay.bench import Bench, scores_of
from experiments.ms_replay.config import Config, check_space, orders_of, runs_of
from experiments.ms_replay.jobs import part_of, people_of
from experiments.ms_replay.private import cost, of_random_patch, population
from medjax import cli
from medjax.check import InputError
from medjax.data.formats import nifti
from medjax.data.formats.nifti import write_nifti
from medjax.metrics import case_table, transfer_summary
from tests.data import fake_downloads
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


def test_more_steps_for_some_centres_of_a_course_are_refused(tmp_path):
  """A later centre would go on from the weights that the shorter first training gave it."""
  options = cli.RunOptions(tmp_path / "run", 0, (), "demo", "ms_replay", more_steps=True)
  with pytest.raises(InputError, match="--continue; a centre starts from the weights of the one"):
    ms_replay.build(ms_replay.PRESETS["demo"], options)
  assert not list(tmp_path.iterdir())


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
  others = {*arms, "multi-domain"} - {"fine-tuning"}
  columns = {"equal updates": set(), "equal compute": set()}
  for row in found["against fine-tuning"]:
    columns[row["column"]].add(row["arm"])
  assert columns["equal updates"] == others
  costs = {arm: results["costs"][arm]["flops"] for arm in (*others, "fine-tuning")}
  assert columns["equal compute"] == {
    arm for arm in others if abs(np.log(costs[arm] / costs["fine-tuning"])) <= np.log(1.05)
  }
  assert {results["costs"][arm]["updates"] for arm in costs} == {6}
  # A-GEM's update has two gradients; the first centre is trained plainly, by 2 of 6 updates.
  plain = results["costs"]["multi-domain"]["flops_an_update"]
  agem = results["costs"]["a-gem"]
  assert 1.9 < agem["flops_an_update"] / plain < 2.2
  np.testing.assert_allclose(agem["flops"], 2 * plain + 4 * agem["flops_an_update"])
  for arm, bwt in found["bwt"].items():
    r = np.array(results["arms"][arm]["r"], float)[0, 0, :, :, 0]
    np.testing.assert_allclose(bwt["mean"], (r[2] - np.diag(r))[:2].mean(), atol=1e-6)
  text = (workdir / "report.html").read_text()
  for words in ("Every centre after every centre", "BWT of", "Cost", "protect", "Soft outputs"):
    assert words in text
  timing = json.loads((workdir / "timing.json").read_text())
  assert set(timing["arms"]) == set(arms)


def test_cases_are_people_behind_the_matrix(finished):
  """The mean of the rows of a cell is its number in R; a private run names nobody."""
  workdir, results, arms = finished
  if "replay-private" in arms:
    assert not (workdir / "cases.csv").exists()
    return
  rows = case_table.read_cases(workdir / "cases.csv")
  centres = results["data"]["centres"]
  r = np.array(results["arms"]["replay"]["r"], float)[0, 0]
  for k, through in enumerate(centres):
    for j, centre in enumerate(centres):
      cell = {"arm": "replay", "seed": 0, "order": "0.1.2", "through": through, "domain": centre}
      own = [row for row in rows if cell.items() <= row.items()]
      assert len(own) == 2 and {row["role"] for row in own} == {"seen" if j <= k else "unseen"}
      np.testing.assert_allclose(
        np.mean([row["dice/lesion"] for row in own]), r[k, j, 0], atol=1e-6
      )
  assert {row["arm"] for row in rows} == {*arms, "single-domain", "multi-domain"}


@pytest.mark.slow
def test_a_run_stopped_at_a_centre_ends_as_one_that_was_not(tmp_path, monkeypatch):
  arguments = ["demo", *SMALL, "--arms", "replay", "--workdir"]
  whole, stopped = tmp_path / "whole", tmp_path / "stopped"
  run(*arguments, str(whole))
  original = courses.train_tasks

  def stopping(bench, tasks):
    if tasks and "-2-clinic" in tasks[0].job.name:
      raise RuntimeError("killed")
    return original(bench, tasks)

  monkeypatch.setattr(courses, "train_tasks", stopping)
  with pytest.raises(RuntimeError, match="killed"):
    run(*arguments, str(stopped))
  monkeypatch.setattr(courses, "train_tasks", original)
  assert not (stopped / "results.json").exists()
  run(*arguments, str(stopped))
  assert (whole / "results.json").read_text() == (stopped / "results.json").read_text()


@pytest.mark.slow
def test_the_next_centre_starts_from_what_transfer_and_carry_say(monkeypatch):
  """Trainings replaced by sums: 1 on the last weights, 2 on those of the best validation loss."""
  setting = hospitals.simulated((2, 2, 2), 1, (16, 16), 0)
  asked = []

  def counting(bench, tasks):
    asked.extend(task.job for task in tasks)
    if not tasks:
      return []
    job = tasks[0].job
    plus = [jax.tree.map(lambda x, n=n: np.asarray(x) + n, job.params) for n in (1, 2)]
    carried = plus[1] if bench.config.carry == "best" else plus[0]
    scores = {c: {"dice": np.ones(1)} for c in setting.centres}
    return [jobs_module.Stage(job.name, plus[0], carried, scores, None, 1)]

  monkeypatch.setattr(courses, "train_tasks", counting)
  size = {"shape": (16, 16), "patch": (16, 16), "widths": (2, 4)}
  for carry, plus in (("last", 1), ("best", 2)):
    for transfer in ("whole", "encoder"):
      config = Config(**size, num_validation=1, carry=carry, transfer=transfer)
      bench = Bench(config, setting, types.SimpleNamespace(private=None))
      bench.flops = {"fine-tuning": 1.0, "single-domain": 1.0}
      asked.clear()
      courses.train_courses(bench, "fine-tuning", [(0, (0, 1, 2))], {})
      first, second, _ = (job.params for job in asked)
      want = jax.tree.map(lambda x, n=plus: np.asarray(x) + n, first)
      assert not jax.tree.leaves(asked[0].inherited)  # drawn, not inherited
      jax.tree.map(np.testing.assert_array_equal, asked[1].inherited[1], want)
      if transfer == "encoder":
        want = {**bench.first_params(0, 1), "encoder": want["encoder"]}
        assert any(
          (a != b).any() for a, b in zip(*map(jax.tree.leaves, (want, first)), strict=True)
        )
      jax.tree.map(np.testing.assert_array_equal, second, want)


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
  share = simulation.lesions(anatomy, np.random.default_rng(0))
  assert set(np.round(9 * np.unique(share)).astype(int)) <= set(range(10))  # of 3 x 3 parts
  assert share[anatomy == 3].max() == 0


def test_lesions_of_thick_slices_are_as_large_as_those_of_thin_ones():
  """Means of 40 heads, of which five deviations are about .3; radii in voxels give a quarter."""
  share = {}
  for height in (8, 32):
    anatomy = np.full((height, 32), 2)
    anatomy[height // 2] = 3
    drawn = [simulation.lesions(anatomy, np.random.default_rng(n)) for n in range(40)]
    share[height] = np.mean([one.sum() / (anatomy == 2).sum() for one in drawn])
  assert share[8] == pytest.approx(share[32], rel=0.3)


def test_a_real_mask_keeps_its_share_of_the_head_and_goes_to_one_case(tmp_path):
  root = folder(tmp_path / "real", 0, ("a",))
  label, affine = np.zeros((40, 40, 40), np.uint8), np.eye(4)
  label[10:20, 10:30, 20:30] = 1
  write_nifti(root / "imagesTr" / "a_0000.nii.gz", np.ones(label.shape, np.float32), affine)
  write_nifti(root / "labelsTr" / "a.nii.gz", label, affine)
  (mask,) = simulation.real_lesions(root, (24, 24, 24))
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
  label = simulation.lesions(anatomy, np.random.default_rng(1))
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


def test_who_is_remembered_pays_at_every_later_centre_of_every_course():
  found = cost(8.0, 1e-3, ["abc", "cba"], num_people=100)
  assert found["epsilon_by_centre"] == {"a": 24.0 + 8.0, "b": 16.0 + 16.0, "c": 8.0 + 24.0}
  np.testing.assert_allclose(found["delta_by_centre"]["a"], 4e-3)
  assert "1 / 100" not in found["statement"]
  assert "1 / 300" in cost(8.0, 1e-3, ["abc", "cba"], num_people=300)["statement"]


def fake_bench(subjects, num_validation=0):
  return types.SimpleNamespace(
    setting=types.SimpleNamespace(subjects=subjects),
    config=types.SimpleNamespace(num_validation=num_validation),
  )


def test_a_person_of_several_scans_counts_once():
  bench = fake_bench(("p", "p", "q", "r", "r"))
  split = {"a": {"test": (0, 1, 2)}, "b": {"test": (4, 3)}}
  volumes = {"a": {"dice": np.array([0.2, 0.4, 0.9])}, "b": {"dice": np.array([0.0, 1.0])}}
  found = people_of(bench, split, volumes)
  np.testing.assert_allclose(found["a"]["dice"], [0.3, 0.9])
  np.testing.assert_allclose(found["b"]["dice"], [0.5])


@pytest.mark.parametrize("seed", range(20))
def test_validation_takes_whole_people_and_leaves_one_on_each_side(seed):
  bench = fake_bench(("p", "p", "q", "r", "s", "s", "t"), num_validation=5)
  current, remembered, validation = part_of(bench, (0, 1, 2), (3, 4, 5, 6), seed, "x")
  assert current and remembered and validation
  assert sorted([*current, *remembered, *validation]) == list(range(7))
  people = [{bench.setting.subjects[i] for i in part} for part in (current, remembered, validation)]
  assert not people[2] & (people[0] | people[1])


def test_claims_and_tables_are_of_one_mean():
  """Centres of 1 and 3 people count alike, as in the tables."""
  parts = [np.array([1.0]), np.array([0.0, 0.3, 0.6])]
  joined = scores._joined(parts)
  np.testing.assert_allclose(joined.mean(), np.mean([part.mean() for part in parts]))
  assert scores._joined([np.arange(3.0), np.arange(3.0)]).tolist() == [0, 1, 2, 0, 1, 2]


def folder(root, seed, names=("a", "b", "c"), *, spacing=1.0, lesion=True, twin=False):
  """nnU-Net folder of noise; `twin`: the last case holds the voxels of the first."""
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
  if twin:
    first, last = (root / "imagesTr" / f"{names[i]}_0000.nii.gz" for i in (0, -1))
    shutil.copy(first, last)
  return root


def read(*paths, near_duplicates=0.0, spacing=None):
  return hospitals.folders(
    paths,
    0.2,
    shape=None,
    spacing=spacing,
    subject_pattern=None,
    near_duplicates=near_duplicates,
    seed=0,
  )


def test_folders_become_centres_on_a_grid_that_halves(tmp_path):
  study = read(folder(tmp_path / "x", 0), folder(tmp_path / "y", 1, ("a", "b", "c", "d")))
  assert study.centres == ("x", "y") and study.num_train == {"x": 2, "y": 3}
  assert study.image.shape == (7, 16, 8, 8, 1)
  assert study.subjects[0] == "x/a" and study.subjects[3] == "y/a"


def test_public_sets_are_centres_as_downloaded(tmp_path):
  paths = fake_downloads.mslesseg(tmp_path / "m"), fake_downloads.ljubljana(tmp_path / "l")
  study = read(*paths, spacing=(1.0, 1.0, 1.0))
  assert study.centres == ("m", "l") and study.num_train == {"m": 3, "l": 2}
  assert study.subjects[:2] == ("m/P1", "m/P1") and study.image.shape == (8, 8, 8, 8, 1)
  for seed in range(4):  # both times of a person on one side
    parts = hospitals.split(study, seed)["m"]
    assert len({0, 1} & set(parts["train"])) in (0, 2)


def call(workdir, *words):
  """Exit status of a command that must not start a run."""
  with pytest.raises(SystemExit) as stop:
    run(*words, "--workdir", str(workdir))
  assert not workdir.exists()
  return stop.value.code


def tilted(root):
  """One label on the axes of another scanner."""
  label = np.zeros((9, 8, 8), np.uint8)
  write_nifti(root / "labelsTr" / "a.nii.gz", label, np.diag([1.0, 1.0, 1.0, 1.0])[[1, 0, 2, 3]])
  return root


BAD = {
  "one": (lambda to: [folder(to / "x", 0)], "two folders or more"),
  "wrong path": (lambda to: [folder(to / "x", 0), to / "nowhere"], "nowhere, got nothing there"),
  "other layout": (
    lambda to: [folder(to / "x", 0), fake_downloads.chest_xray14(to / "chest")],
    "nnunet, mslesseg, ljubljana in .*chest, got chest_xray14",
  ),
  "few people": (
    lambda to: [folder(to / "x", 0), folder(to / "few", 1, ("a", "b"))],
    "at least 3 people at few",
  ),
  "no lesion": (
    lambda to: [folder(to / "x", 0), folder(to / "healthy", 2, lesion=False)],
    "a lesion in some case of healthy",
  ),
  "spacing": (
    lambda to: [folder(to / "x", 0), folder(to / "coarse", 3, spacing=2.0)],
    "one voxel size in all centres",
  ),
  "orientation": (
    lambda to: [folder(to / "x", 0), tilted(folder(to / "tilted", 4))],
    "on one grid",
  ),
  "one person at two": (
    lambda to: [folder(to / "x", 0), shutil.copytree(to / "x", to / "copy")],
    "identical ones in cases x/a and copy/a",
  ),
  "one person twice": (
    lambda to: [folder(to / "x", 0), folder(to / "twice", 1, ("a", "b", "c", "d"), twin=True)],
    "identical ones in cases twice/a and twice/d",
  ),
  "unlike labels": (
    lambda to: [folder(to / "x", 0), nnunet(to / "other")],
    "class_names of x and other",
  ),
  "patch": (
    lambda to: [folder(to / "x", 0), folder(to / "y", 1)],
    r"a patch that fits into volumes of \(16, 8, 8\)",
  ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_centres_get_one_line_and_leave_nothing(tmp_path, capsys, name):
  make, message = BAD[name]
  words = [word for path in make(tmp_path) for word in ("--data", str(path))]
  assert call(tmp_path / "run", "folders", *words) == 2
  error = capsys.readouterr().err
  assert re.search(message, error) and error.count("\n") == 1


def test_too_many_orders_leave_nothing(tmp_path, capsys):
  small = ["demo", *SMALL, "--num_orders", "7"]
  assert call(tmp_path / "run", *small) == 2
  assert "at most 6 orders of 3 centres" in capsys.readouterr().err


def test_near_duplicates_are_found_on_a_common_grid_at_one_centre_and_at_two(tmp_path):
  def made(root, seeds, power=1.0):
    for part in ("imagesTr", "labelsTr"):
      (root / part).mkdir(parents=True)
    write_json(root, labels={"background": 0, "lesion": 1})
    for seed in seeds:
      random = np.random.default_rng(seed)
      detail = ndimage.gaussian_filter(random.normal(size=(24, 24, 24)), 1.0)
      image = (5 + detail / detail.std()).clip(0.1) ** power
      random = np.random.default_rng([seed, round(10 * power)])  # a copy's raters were others
      lesion = (random.uniform(size=image.shape) < 0.1).astype(np.uint8)
      write_nifti(root / "imagesTr" / f"p{seed}_0000.nii.gz", image.astype(np.float32), np.eye(4))
      write_nifti(root / "labelsTr" / f"p{seed}.nii.gz", lesion, np.eye(4))
    return root

  x = made(tmp_path / "x", range(4))
  read(x, made(tmp_path / "y", range(4, 8)), near_duplicates=0.55)
  with pytest.raises(InputError, match=r"different people in x/p3 and z/p3"):
    read(x, made(tmp_path / "z", range(3, 7), power=0.7), near_duplicates=0.55)
  again = made(tmp_path / "again", range(8, 12))
  twin = nifti.read_nifti(again / "imagesTr" / "p8_0000.nii.gz").array ** 0.7
  write_nifti(again / "imagesTr" / "p11_0000.nii.gz", twin, np.eye(4))
  with pytest.raises(InputError, match=r"different people in again/p11 and again/p8"):
    read(x, again, near_duplicates=0.55)


@pytest.mark.slow
def test_a_real_mask_is_never_two_peoples(tmp_path):
  def masks(root, *corners, size=12):
    root = folder(root, 0, [f"p{i}" for i in range(len(corners))])
    for i, corner in enumerate(corners):
      label = np.zeros((40, 40, 40), np.uint8)
      label[tuple(slice(c, c + size) for c in corner)] = 1
      scan = np.random.default_rng(i).uniform(1, 2, label.shape).astype(np.float32)
      write_nifti(root / "imagesTr" / f"p{i}_0000.nii.gz", scan, np.eye(4))
      write_nifti(root / "labelsTr" / f"p{i}.nii.gz", label, np.eye(4))
    return root

  apart = masks(tmp_path / "apart", (5, 5, 5), (20, 20, 20), (5, 20, 5))
  found = simulation.real_lesions(apart, (24, 24, 24))
  study = hospitals.simulated((2, 2), 2, (24, 24, 24), 0, masks=apart)
  held = [[i for i in range(8) if study.label[i][mask == 0].max() == 0] for mask in found]
  assert held == [[0], [4], [1]]  # of 4 heads at each of two centres
  assert len(simulation.real_lesions(apart, (24, 24, 24), r"(p)\d")) == 1
  with pytest.raises(InputError, match="identical ones in cases p0 and p1"):
    simulation.real_lesions(masks(tmp_path / "same", (5, 5, 5), (5, 5, 5)), (24, 24, 24))
  with pytest.raises(InputError, match="brain on brain, of p0 and p1"):
    simulation.real_lesions(masks(tmp_path / "near", (5, 5, 5), (6, 5, 5)), (24, 24, 24))
  with pytest.raises(InputError, match="a lesion in p0"):
    simulation.real_lesions(masks(tmp_path / "none", (5, 5, 5), size=0), (24, 24, 24))
  with pytest.raises(InputError, match="masks of 2 axes"):
    simulation.real_lesions(apart, (24, 24))


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
  assert len(config.patch) == 3 or name in ("demo", "strategies")
  assert all(p % 2 ** (len(config.widths) - 1) == 0 for p in config.patch)
  if config.shape:
    check_space(config, config.shape)


TINY = {
  "demo": "--num_train 2 2 --num_test 2 --shape 16 16 --patch 8 8 --widths 2 4 --num_steps 2",
  "evidence": "--patch 8 8 8 --widths 2 4",
  "simulated8": "--patch 8 8 8 --window 8 8 8 --widths 2 4",
  "deeper": "--patch 16 16 16 --widths 2 2 2 2 2",
  "small_patches": "--patch 8 8 8 --widths 2 4",
  "large_patches": "--patch 16 16 16 --widths 2 4",
  "folders": "--patch 8 8 8 --widths 2 4 --window 8 8 8 --num_steps 2",
  "paper": "--patch 8 8 8 --widths 2 4 --window 8 8 8 --num_epochs 1",
  "released_code": "--patch 8 8 8 --widths 2 4 --window 8 8 8 --num_epochs 1",
}
VOLUMES = "--num_train 2 2 --num_test 2 --shape 16 16 16 --num_steps 2"


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_case_of_every_preset_runs_to_its_end(tmp_path, name):
  words = f"{TINY[name]} --batch_size 2 --min_test 1 --memory 1 --log_every 1 --num_seeds 1"
  orders = min(ms_replay.PRESETS[name].num_orders, 2)
  words = [name, *words.split(), "--num_orders", str(orders), "--workdir", str(tmp_path / "run")]
  if ms_replay.PRESETS[name].source == "folders":
    ours = fake_downloads.ljubljana(tmp_path / "ljubljana", zipped=True)
    for path in (fake_downloads.mslesseg(tmp_path / "mslesseg"), ours):
      words += ["--data", str(path)]
    words += ["--spacing", "1", "1", "1", "--near_duplicates", "0"]
  elif name != "demo":
    words += VOLUMES.split()
  run(*words)
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  config = ms_replay.PRESETS[name]
  assert set(results["arms"]) == set(config.arms)
  for own in results["arms"].values():
    r = np.array(own["r"], float)
    assert r.shape == (1, orders, 2, 2, 2) and np.all((0 <= r) & (r <= 1))
    dice = r[0, 0, :, :, 0]
    parts = 1 if config.divide_by == "k-1" else 2
    np.testing.assert_allclose(
      own["fixed_order"]["bwt"]["mean"], (dice[1, 0] - dice[0, 0]) / parts, atol=1e-6
    )
  assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow  # two private programs
def test_a_private_run_names_and_shows_nobody(tmp_path):
  words = "--num_train 3 3 --arms replay replay-private".split()
  run("demo", *SMALL, *words, "--workdir", str(tmp_path / "run"))
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  said = results["privacy"]
  assert said["unprotected"] == ["replay", "single-domain", "multi-domain"]
  assert "protect nobody" in said["statement"] and said["num_courses"] == 1
  assert all("epsilon = " in text for text in said["statements"].values())
  page = (tmp_path / "run" / "report.html").read_text()
  assert "protect nobody" in page and "A test person of" not in page
  for path in (tmp_path / "run").iterdir():
    if path.is_file() and path.name != "report.html":
      assert "person0" not in path.read_text()
  rows = (tmp_path / "run" / "metrics.jsonl").read_text()
  assert "test/" not in rows and "loss" in rows
  kept = tmp_path / "run" / "private"
  assert kept.stat().st_mode & 0o077 == 0
  assert "person0" in (kept / "splits.json").read_text()
