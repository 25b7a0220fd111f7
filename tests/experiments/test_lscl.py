"""The style-curriculum study as a person runs it, and who may see whose images in it."""

import csv
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from experiments import lscl
from experiments.lscl import hospitals, report, scores, training
from medjax import cli, study, synth
from medjax.check import InputError
from medjax.data.formats.nifti import write_nifti
from medjax.types import IGNORE
from tests.data.folders import write_json
from tests.data.test_mnms import write_info

TINY = [
  *("--num_people", "10", "--shape", "16", "16", "--widths", "2", "2", "--batch_size", "2"),
  *("--num_updates", "2", "--pretrain_updates", "2", "--finetune_updates", "4"),
  *("--log_every", "2", "--eval_every", "4", "--levels", "1"),
]
ARMS = ("u-net", "lscl-chain")
SETTING = hospitals.Setting("", ("A", "B"), ("0", "1", "2"), False, {}, ())


def run(*args):
  cli.run(lscl.PRESETS, lscl.build, lscl.__doc__, args=args)


def site(root, seed, names=("a_1", "a_2", "b_1", "c_1", "d_1", "e_1"), *, channels=("MRI",)):
  """An nnU-Net folder of its own random images, labels 0, 3 and 7."""
  random = np.random.default_rng(seed)
  for folder in ("imagesTr", "labelsTr"):
    (root / folder).mkdir(parents=True)
  write_json(root, channels=channels)
  for name in names:
    for c in range(len(channels)):
      image = random.normal(size=(12, 10, 2)).astype(np.float32)
      write_nifti(root / "imagesTr" / f"{name}_{c:04d}.nii.gz", image, np.diag([2.0, 2, 5, 1]))
    label = random.choice([0, 3, 7], size=(12, 10, 2))
    label.flat[:3] = (0, 3, 7)
    write_nifti(root / "labelsTr" / f"{name}.nii.gz", label, np.diag([2.0, 2, 5, 1]))
  return root


FOLDERS = hospitals.DataConfig(
  source="folders", turns="each", shape=(12, 12), subject_pattern=r"(.)_\d"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("lscl") / "run"
  arguments = ["demo", *TINY, "--arms", *ARMS, "--test_time", "u-net", "--workdir", str(workdir)]
  run(*arguments)
  return workdir, arguments


def cases(workdir):
  with open(workdir / "cases.csv") as file:
    return list(csv.DictReader(file))


def test_test_people_are_at_every_vendor_and_nowhere_else(finished):
  (turn,) = json.loads((finished[0] / "splits.json").read_text())["turns"]
  assert turn["unseen"] == ["C", "D"]
  sites, people = {}, {}
  for part, names in turn["parts"].items():
    sites[part] = {name.partition("/")[0] for name in names}
    people[part] = {name.partition("/")[2] for name in names}
  assert sites["train"] == {"A", "B"} and sites["validation"] <= {"A", "B"}
  assert sites["test"] == {"A", "B", "C", "D"}
  assert len(turn["parts"]["test"]) == 4 * len(people["test"])
  assert sum(map(len, people.values())) == len(set.union(*people.values())) == 10


def test_unseen_vendors_count_twice(finished):
  """The challenge's score from the case table: (A + B + 2 C + 2 D) / 6."""
  workdir, _ = finished
  results = json.loads((workdir / "results.json").read_text())
  assert set(results["arms"]) == {*ARMS, "u-net-tta"}
  for arm, values in results["arms"].items():
    mean = {}
    for vendor in "ABCD":
      rows = [r for r in cases(workdir) if (r["arm"], r["domain"]) == (arm, vendor)]
      assert {r["role"] for r in rows} == {"unseen" if vendor in "CD" else "in-domain"}
      figures = [[float(r[f"dice/{k}"]) for k in ("LV", "MYO", "RV")] for r in rows]
      mean[vendor] = np.mean([np.nanmean(row) for row in figures])
    weighted = (mean["A"] + mean["B"] + 2 * mean["C"] + 2 * mean["D"]) / 6
    np.testing.assert_allclose(values["weighted_dice"], weighted)
    assert set(values["phases"]) == {"ED", "ES"}
    assert 0 <= values["min_max"] <= 1
    np.testing.assert_allclose(values["unseen"]["dice"]["mean"], (mean["C"] + mean["D"]) / 2)


def test_the_curriculum_starts_clean_and_arms_are_compared(finished):
  results = json.loads((finished[0] / "results.json").read_text())
  coverage = results["curriculum"]["lscl-chain"]["coverage"]
  assert coverage[0] == 0 < coverage[1] <= 0.25
  columns = {row["column"] for row in results["comparison"]["u-net"]}
  assert columns >= {"unseen, equal updates", "in-domain, equal updates"}
  assert {row["arm"] for row in results["comparison"]["u-net"]} == {"u-net-tta", "lscl-chain"}


def test_the_questions_are_asked_against_their_controls():
  """A gain of .05 in every cell is better than the control; the same scores are equivalent."""
  control = np.random.default_rng(0).uniform(0.5, 0.9, (3, 8))
  arms = {"lscl-random": control, "lscl-paper": control, "lscl-chain": control + 0.05}
  rows = scores._questions(training.Config(), arms)
  found = {(row["arm"], row["reference"]): row for row in rows}
  assert list(found) == [
    ("lscl-paper", "lscl-random"),
    ("lscl-chain", "lscl-random"),
    ("lscl-chain", "lscl-paper"),
  ]
  assert found["lscl-chain", "lscl-random"]["verdict"] == "better"
  assert found["lscl-paper", "lscl-random"]["equivalent"]
  said = report.answers({"questions": rows})
  assert "lscl-chain beats lscl-random by more than 0.01" in said
  assert "lscl-paper is equivalent to lscl-random within 0.01" in said
  assert "its spread" not in said
  alone = {arm: scores[:1] for arm, scores in arms.items()}
  rows = scores._questions(training.Config(), alone)
  said = report.answers({"questions": rows})
  assert said.count("one seed: its spread is unknown") == len(rows)


def test_equal_compute_leaves_out_what_costs_more():
  table = {arm: np.full((2, 4), 0.5) for arm in ("u-net", "lscl-chain", "augmented")}
  flops = {"u-net": 1.0, "lscl-chain": 1.04, "augmented": 1.2}
  tables = {"unseen": table, "in-domain": table}
  found = scores._comparisons(training.Config(), tables, flops)
  near = [row["arm"] for row in found["u-net"] if row["column"] == "unseen, equal compute"]
  assert near == ["lscl-chain"]
  assert not [row for row in found["augmented"] if row["column"] == "unseen, equal compute"]


def test_the_page_shows_everything(finished):
  text = (finished[0] / "report.html").read_text()
  for words in ("lscl-chain", "In-domain beside unseen", "End of diastole", "curriculum get harder",
                "Arms by sites", "What it costs", "Verdicts"):  # fmt: skip
    assert words in text


def test_the_same_command_again_changes_nothing(finished, capsys):
  workdir, arguments = finished
  before = (workdir / "results.json").read_bytes()
  (workdir / "results.json").unlink()  # as if killed before the last write
  run(*arguments)
  assert (workdir / "results.json").read_bytes() == before
  run(*arguments)
  assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize(
  "arm",
  [
    a
    if a in ("mixup", "mixstyle", "scl", "lscl-chain")
    else pytest.param(a, marks=pytest.mark.slow)
    for a in training.ARMS
  ],
)
def test_every_arm_is_a_step_over_plain_batches(arm):
  """Traced, not compiled: the state keeps its shapes, and the loss is a scalar."""
  config = training.Config(
    leave_out=("B",), shape=(16, 16), widths=(2, 2), num_updates=2, levels=1, finetune_updates=4
  )
  random = np.random.default_rng(0)
  batch = hospitals.Batch(
    image=random.random((2, 16, 16, 1)).astype(np.float32),
    label=random.integers(0, 3, (2, 16, 16)).astype(np.int32),
    domain=np.zeros(2, np.int32),
    subject=np.arange(2, dtype=np.int32),
    index=np.arange(2, dtype=np.int32),
    weight=np.ones(2, np.float32),
  )
  task = training.Task(config, SETTING)
  bank = synth.style_bank(batch.image, how=synth.wavelet_style(1))
  step = training.ARMS[arm].make(task, bank)
  params, _ = jax.eval_shape(task.model.init, jax.random.key(0), batch.image[0])
  state = jax.eval_shape(step.init, params, jax.random.key(0))
  new, metrics = jax.eval_shape(step.update, state, batch, jax.random.key(0))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
    lambda x: (x.shape, x.dtype), state
  )
  assert metrics["loss"].shape == ()


@pytest.mark.slow
def test_all_rows_run_once(tmp_path):
  run("demo", *TINY, "--arms", *training.ARMS, "--workdir", str(tmp_path / "run"))
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  assert set(results["arms"]) == {*training.ARMS, "u-net-tta", "lscl-paper-tta"}


def test_sites_are_left_out_in_turn(tmp_path):
  roots = [site(tmp_path / f"site{i}", i) for i in range(3)]
  setting = hospitals.load(FOLDERS, roots, 0)
  assert [turn.unseen for turn in setting.turns] == [("site0",), ("site1",), ("site2",)]
  for turn in setting.turns:
    sources = {name.partition("/")[0] for name in turn.people["train"]}
    assert sources == {"site0", "site1", "site2"} - set(turn.unseen)
    everybody = {stack.subject for stack in turn.test if stack.site in turn.unseen}
    assert everybody == {"a", "b", "c", "d", "e"}
    assert len(turn.styles) == len(turn.train.weight)
    assert all(stack.site not in turn.unseen for stack in turn.validation)
    known = turn.train.label[:, :12, 1:11]
    assert (known != IGNORE).all() and (turn.train.label[:, :, 0] == IGNORE).all()


def test_styles_are_of_sources_and_of_nobody_who_is_tested(tmp_path):
  roots = [site(tmp_path / f"site{i}", i) for i in range(2)]
  before = hospitals.load(FOLDERS, roots, 0).turns
  for i, root in enumerate(roots):
    (root / "imagesUn").mkdir()
    for name in ("a_3", "b_3", "c_3", "d_3", "e_3", "new_1"):
      image = np.random.default_rng(i).normal(size=(12, 10, 2)).astype(np.float32)
      write_nifti(root / "imagesUn" / f"{name}_0000.nii.gz", image, np.diag([2.0, 2, 5, 1]))
  after = hospitals.load(FOLDERS, roots, 0).turns
  for old, new in zip(before, after, strict=True):
    trained = new.people["train"]
    people = len(trained) + 1  # who is trained on, and "w" who is new
    assert len(new.styles) - len(old.styles) == 2 * people  # two slices each


def test_simulated_scanners_share_people(tmp_path):
  root = site(tmp_path / "scans", 0, names=[f"{c}_1" for c in "abcdefgh"])
  config = dataclasses.replace(
    FOLDERS, simulate=("research-t1", "curve-t1"), leave_out=("curve-t1",), turns="together"
  )
  setting = hospitals.load(config, [root], 0)
  (turn,) = setting.turns
  assert setting.is_simulated and turn.unseen == ("curve-t1",)
  tested = [{s.subject for s in turn.test if s.site == site} for site in setting.sites]
  assert tested[0] == tested[1]
  assert not tested[0] & {name.partition("/")[2] for name in turn.people["train"]}


def test_identical_images_on_both_sides_stop_the_run(tmp_path):
  roots = [site(tmp_path / f"site{i}", 0) for i in range(2)]
  with pytest.raises(InputError, match="different images to train on and to test"):
    hospitals.load(FOLDERS, roots, 0)


@pytest.mark.parametrize(
  ("second", "message"),
  [
    ({"channels": ("MRI", "CT")}, "channel_names of"),
    ({"labels": {"background": 0, "organ": 3, "tumour": 7}}, "class_names of"),
  ],
)
def test_sites_that_do_not_match(tmp_path, second, message):
  first = site(tmp_path / "first", 0)
  other = site(tmp_path / "other", 1, channels=second.get("channels", ("MRI",)))
  if "labels" in second:
    write_json(other, labels=second["labels"])
  with pytest.raises(InputError, match=message):
    hospitals.load(FOLDERS, [first, other], 0)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["sites"], "two paths or more after --data, a folder a site"),
    (["sites", "--data", "nowhere", "--data", "elsewhere"], "nowhere"),
    (["mnms"], "one path after --data with --source mnms"),
    (["demo", "--leave_out", "E"], "leave_out to be one of"),
    (["demo", "--leave_out", "A", "B", "C", "D"], "a site to train on"),
    (["demo", "--finetune_updates", "42"], "finetune_updates as a multiple of num_updates=4"),
    (["demo", "--simulate", "research-t1"], "--source folders with --simulate"),
    (["demo", "--test_time", "mixup", "--arms", "u-net"], "test_time to be one of"),
    (["demo", "--shape", "2", "2"], "sizes of shape"),
    (["demo", "--pool", "64"], "a cell must fit the image"),
    (["demo", "--levels", "6"], "2^levels in [2, 48]"),
  ],
)
def test_bad_input_gets_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(hospitals, "_stacks", lambda config, name, site: ())  # refused before
  with pytest.raises(SystemExit) as stop:
    run(*arguments, "--workdir", str(tmp_path / "run"))
  assert stop.value.code == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spacing", [(1.0, 0.0, 1.0), (1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_voxel_size_that_is_0_or_missing_is_refused(spacing):
  case = hospitals.Example(
    name="x",
    subject="x",
    index=0,
    image=np.zeros((8, 8, 2, 1), np.float32),
    label=np.zeros((8, 8, 2), np.int32),
    spacing=spacing,
  )
  with pytest.raises(InputError, match="a positive voxel size on every axis of x"):
    hospitals.DataConfig().network_grid.stack(case, "A")


@pytest.mark.parametrize("grid", ["crop", "resize"])
@pytest.mark.parametrize("space", [(20, 13), (9, 20)])
def test_labels_come_back_to_their_grid(grid, space):
  """Crops lose what lies outside, resizing what is smaller than a pixel: a block in the middle."""
  there_and_back = hospitals.DataConfig(shape=(16, 16), grid=grid).network_grid
  label = np.zeros(space, np.int32)
  label[3:6, 5:9] = 2
  there = there_and_back.placed(label, is_label=True)
  assert there.shape == (16, 16)
  back = there_and_back.restore(np.maximum(there, 0), space)
  assert back.shape == space
  if grid == "crop":
    np.testing.assert_array_equal(back, label)
  else:
    assert (back != label).mean() < 0.05


def test_the_challenge_in_its_own_layout(tmp_path):
  """Vendors A and B train; C and D are tested alone; frames without a label are styles."""
  random = np.random.default_rng(0)
  rows, places = [], {"Training/Labeled": "AB" * 5, "Testing": "ABCD"}
  for part, vendors in places.items():
    for number, vendor in enumerate(vendors):
      code = f"{vendor}{part[1]}{number}"
      rows.append([code, "maker", vendor, "1", 0, 2])
      folder = tmp_path / part / code
      folder.mkdir(parents=True)
      image = random.random((10, 12, 2, 3)).astype(np.float32)
      write_nifti(folder / f"{code}_sa.nii.gz", image, np.diag([1.5, 1.5, 9, 1]))
      label = random.integers(0, 4, image.shape)
      write_nifti(folder / f"{code}_sa_gt.nii.gz", label, np.diag([1.5, 1.5, 9, 1]))
  write_info(tmp_path, rows=rows)
  config = hospitals.DataConfig(
    source="mnms", leave_out=("C", "D"), shape=(16, 16), grid="resize", normalise="minmax"
  )
  (turn,) = hospitals.load(config, [tmp_path], 0).turns
  assert {stack.site for stack in turn.test} == set("ABCD")
  assert {(s.name, s.phase) for s in turn.test if s.site == "D"} == {
    ("De3_ED", "ED"), ("De3_ES", "ES")
  }  # fmt: skip
  assert len(turn.people["train"]) == 8 and len(turn.people["validation"]) == 2
  assert turn.train.image.shape == (8 * 2 * 2, 16, 16, 1)  # people, phases, slices
  assert len(turn.styles) == 8 * 3 * 2  # with the frame in between
  assert turn.test[0].truth.shape == (10, 12, 2) and turn.test[0].spacing == (1.5, 1.5, 9.0)


def test_averaging_over_rotations_commutes_with_them():
  """The mean over a group of logits is equivariant, whatever the network."""
  kernel = np.arange(9.0).reshape(3, 3)

  def apply(params, image):
    near = jax.scipy.signal.convolve2d(image[..., 0], params, mode="same")
    return jax.numpy.stack([near, -near, jax.numpy.roll(near, 1, 0)], -1), {}

  task = training.Task(training.Config(shape=(8, 8)), SETTING)
  task.model = task.model._replace(apply=apply)
  labels = functools.partial(task.labels, kernel, is_rotated=True)
  images = np.random.default_rng(0).random((2, 8, 8, 1)).astype(np.float32)
  turned = np.rot90(images, 1, (1, 2)).copy()
  np.testing.assert_array_equal(labels(turned), np.rot90(labels(images), 1, (1, 2)))


@pytest.mark.parametrize("value", [0, IGNORE])
def test_a_batch_without_structures_has_a_finite_loss(value):
  loss = training.Task(training.Config(), SETTING).loss
  logits = np.random.default_rng(0).normal(size=(4, 4, 3)).astype(np.float32)
  found, gradient = jax.value_and_grad(loss)(logits, jax.numpy.full((4, 4), value))
  assert np.isfinite(found) and np.isfinite(gradient).all()


def test_what_a_crop_leaves_out_is_not_scored():
  case = hospitals.Example(
    name="x",
    subject="x",
    index=0,
    image=np.random.default_rng(0).random((12, 8, 2, 1)).astype(np.float32),
    label=np.ones((12, 8, 2), np.int32),
    spacing=(1.0, 1.0, 5.0),
  )
  stack = hospitals.DataConfig(shape=(8, 16)).network_grid.stack(case, "A")
  assert (stack.truth[2:10] == 1).all() and (stack.truth[[0, 1, 10, 11]] == IGNORE).all()
  assert (stack.label[:, :, 4:12] == 1).all() and (stack.label[:, :, :4] == IGNORE).all()


def test_slices_and_labels_turn_together():
  label = np.arange(16, dtype=np.int32).reshape(1, 4, 4).repeat(6, 0)
  image = label[..., None].astype(np.float32)
  batch = hospitals.Batch(image, label, *4 * (np.zeros(6, np.float32),))
  turned = training.oriented(lambda step: batch, jax.random.key(0), (4, 4))(3)
  np.testing.assert_array_equal(turned.image[..., 0], turned.label)
  assert len({x.tobytes() for x in turned.label}) > 2
  wide = hospitals.Batch(image[:, :2], label[:, :2], *4 * (np.zeros(6, np.float32),))
  halves = training.oriented(lambda step: wide, jax.random.key(0), (2, 4))(3)
  assert halves.label.shape == (6, 2, 4)


def test_a_constant_image_is_standardised_to_0():
  image = np.full((4, 4, 2), 7.0, np.float32)
  image[..., 1] = np.arange(16).reshape(4, 4)
  found = jax.jit(training.standardise)(image)
  np.testing.assert_array_equal(found[..., 0], 0)
  want = (image[..., 1] - 7.5) / image[..., 1].std()
  np.testing.assert_allclose(found[..., 1], want, rtol=1e-5)


def test_an_absent_structure_counts_as_right_where_nothing_was_found():
  row = {"dice/LV": 0.5, "dice/MYO": float("nan"), "hausdorff/LV": float("nan")}
  assert study.mean(row, "dice") == 0.5
  assert study.mean(row, "hausdorff") == 0.0
  assert study.mean({"dice/LV": float("nan")}, "dice") == 1.0
