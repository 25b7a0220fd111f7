"""The experiment as a person runs it: a folder in, a page out, and what bad input gets."""

import dataclasses
import html.parser
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import learn2synth
from experiments.learn2synth import noise_recovery, real_images, released, synthetic_training
from medjax import check, cli, loading, predict, synth, synthesisers
from medjax.data.formats import nifti
from medjax.metrics import case_table
from medjax.synth import __main__ as synth_main
from medjax.types import Batch, Model
from tests.data.folders import nnunet

CASES = tuple(f"case{i}_scan{j}" for i in range(5) for j in range(2))
SMALL = [
  *("--shape", "8", "8", "--num_steps", "2", "--batch_size", "2", "--widths", "2", "4"),
  *("--log_every", "1", "--eval_every", "2", "--subject_pattern", r"(case\d+)_"),
  *("--background", "clusters", "--num_clusters", "2", "--contrast", "random"),
]


ONES = synth.Mixture(mean=(1.0, 1.0), std=(0.0, 0.0), zero_background=0.0, dark_background=0.0)


def batch_of(size, step):
  rows = np.arange(size, dtype=np.int32)
  return Batch(
    image=None,
    label=np.ones((size, 8, 6), np.int32),
    domain=None,
    subject=rows,
    index=rows + step,
    weight=np.ones(size, np.float32),
  )


def batch_of_one(image, label):
  one = np.ones(1, np.int32)
  image, label = np.array(image, np.float32)[None, :, None], np.array(label, np.int32)[None]
  return Batch(image, label, one, one, one, np.ones(1, np.float32))


def run(*args):
  cli.run(learn2synth.PRESETS, learn2synth.build, learn2synth.__doc__, args=args)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  root = tmp_path_factory.mktemp("learn2synth")
  folder = nnunet(root / "data", CASES, shape=(8, 9, 3))
  run("demo", *SMALL, "--data", str(folder), "--workdir", str(root / "run"))
  return folder, root / "run"


def test_the_run_directory_is_complete(finished):
  _, workdir = finished
  results = json.loads((workdir / "results.json").read_text())
  assert set(results["dice"]) == {"label vote", "naive", "learn2synth"}
  assert set(results["dice"]["naive"]) == {"mean", "organ", "lesion", "scored", "missed"}
  assert set(results["learned"][0]) == {"sigma", "exponent_2", "exponent_4", "exponent_8"}
  for name in ("config.json", "splits.json", "metrics.jsonl", "timing.json"):
    assert (workdir / name).stat().st_size > 0
  assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"naive-0", "learn2synth-0"}


def test_cases_are_behind_the_means(finished):
  rows = case_table.read_cases(finished[1] / "cases.csv")
  results = json.loads((finished[1] / "results.json").read_text())
  for arm, own in results["dice"].items():
    for name in ("organ", "lesion"):
      values = [row[f"dice/{name}"] for row in rows if row["arm"] == arm]
      assert len(values) == results["test_cases"]
      np.testing.assert_allclose(np.nanmean(values), own[name], atol=1e-6)
  assert len({row["subject"] for row in rows}) == results["test_subjects"]


def test_no_person_is_in_two_parts(finished):
  parts = json.loads((finished[1] / "splits.json").read_text())["parts"]
  people = [person for members in parts.values() for person in members]
  assert sorted(people) == [f"case{i}" for i in range(5)]


def test_the_report_is_one_page_that_needs_nothing_else(finished):
  text = (finished[1] / "report.html").read_text()
  html.parser.HTMLParser().feed(text)
  assert "http://" not in text.replace("http://www.w3.org", "")
  assert text.count("<img") >= 10


def test_a_finished_run_is_left_alone(finished, capsys):
  folder, workdir = finished
  before = (workdir / "results.json").stat().st_mtime_ns
  run("demo", *SMALL, "--data", str(folder), "--workdir", str(workdir))
  assert "finished" in capsys.readouterr().out
  assert (workdir / "results.json").stat().st_mtime_ns == before


def test_a_changed_configuration_is_refused(finished, capsys):
  folder, workdir = finished
  with pytest.raises(SystemExit) as stop:
    run("demo", *SMALL, "--data", str(folder), "--workdir", str(workdir), "--num_seeds", "2")
  assert stop.value.code == 2
  assert "num_seeds" in capsys.readouterr().err


@pytest.mark.parametrize("harm", ["missing folder", "truncated file", "label outside"])
def test_bad_input_gets_one_line_and_writes_nothing(tmp_path, harm, capsys):
  folder = tmp_path / "data"
  if harm != "missing folder":
    nnunet(folder, CASES, shape=(8, 9, 3))
  if harm == "truncated file":
    file = folder / "imagesTr" / f"{CASES[3]}_0000.nii.gz"
    file.write_bytes(file.read_bytes()[:100])
  if harm == "label outside":
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"].pop("lesion")
    (folder / "dataset.json").write_text(json.dumps(content))
  with pytest.raises(SystemExit) as stop:
    run("demo", *SMALL, "--data", str(folder), "--workdir", str(tmp_path / "run"))
  assert stop.value.code == 2
  errors = capsys.readouterr().err
  assert errors.startswith("error: expected") and errors.count("\n") == 1
  assert not (tmp_path / "run").exists()


def test_what_was_trained_predicts_and_synthesises_new_files(finished, tmp_path):
  folder, workdir = finished
  image, label = (
    folder / kind for kind in (f"imagesTr/{CASES[0]}_0000.nii.gz", f"labelsTr/{CASES[0]}.nii.gz")
  )
  members = loading.load_members(workdir)
  assert {member.name for member in members} == {"naive-0", "learn2synth-0"}
  (written,) = predict.predict(members[:1], image, tmp_path / "predicted")
  assert nifti.read_nifti(written).array.shape == nifti.read_nifti(image).array.shape
  command = ["--run", str(workdir), str(label), str(tmp_path / "image.nii.gz"), "--moved",
             str(tmp_path / "moved.nii.gz")]  # fmt: skip
  cli.command(synth_main.Config, synth_main.run, synth_main.__doc__, args=command)
  made, moved = (nifti.read_nifti(tmp_path / f"{name}.nii.gz") for name in ("image", "moved"))
  assert made.array.shape == moved.array.shape and made.array.std() > 0
  assert set(np.unique(moved.array)) <= {0, 3, 7}  # the values of the files
  results = json.loads((workdir / "results.json").read_text())
  loaded = synthesisers.load(workdir)
  learnt = {name: float(v) for name, v in loaded.augmentation.describe(loaded.theta).items()}
  assert learnt == pytest.approx(results["learned"][0])


def test_label_maps_for_synthesis_come_from_training_people_only(finished):
  folder, _ = finished
  config = real_images.Config(
    shape=(8, 8), subject_pattern=r"(case\d+)_", background="clusters", num_clusters=2
  )
  setting = real_images.load(config, (folder,), 0)
  codes = {name: i for i, name in enumerate(sorted(set(setting.source.subjects)))}
  training = {codes[person] for person in setting.splits["parts"]["train"]}
  assert set(setting.cases.maps.subject.tolist()) == training
  assert training.isdisjoint(setting.cases.test.subject.tolist())
  # Clusters exist for generation alone: targets are the true labels.
  target = np.asarray(setting.grouping.to_target(jnp.asarray(setting.cases.maps.label)))
  np.testing.assert_array_equal(target, setting.cases.training.label)


def test_label_maps_alone_come_from_people_who_are_not_tested(finished, tmp_path):
  folder, _ = finished
  config = real_images.Config(shape=(8, 8), subject_pattern=r"([a-z]+\d+)_", labels=str(tmp_path))
  random = np.random.default_rng(1)
  for name in ("other1_a", "other2_a"):
    values = random.choice([0, 3, 7], size=(8, 9, 3)).astype(np.int32)
    nifti.write_nifti(tmp_path / f"{name}.nii.gz", values, np.eye(4))
  setting = real_images.load(config, (folder,), 0)
  assert setting.cases.maps.image is None and len(setting.cases.maps.label) == 6
  assert setting.label_maps is not None
  # Training moves on as with maps that have images: means of the matched contrast are the images'.
  assert real_images.make_task(dataclasses.replace(config, contrast="matched"), setting)
  tested = setting.splits["parts"]["test"][0]
  twin = folder / "labelsTr" / f"{tested}_scan0.nii.gz"
  (tmp_path / "other3_a.nii.gz").write_bytes(twin.read_bytes())
  with pytest.raises(check.InputError, match="people who are not tested"):
    real_images.load(config, (folder,), 0)
  (tmp_path / "other3_a.nii.gz").rename(tmp_path / f"{tested}_b.nii.gz")
  with pytest.raises(check.InputError, match=f"subject in both --labels and test, got {tested}"):
    real_images.load(config, (folder,), 0)
  with pytest.raises(check.InputError, match="pass --data"):
    real_images.load(config, (), 0)
  with pytest.raises(check.InputError, match="zero or strip"):
    dataclasses.replace(config, background="clusters")


def test_label_vote_is_the_majority_of_the_nearest_slices():
  labels = np.array([[0, 1, 2], [0, 1, 1], [2, 1, 2], [2, 2, 2]])
  vote = real_images.label_vote(labels, np.array([3, 3, 3, 9]), np.array([4, 8]), 3)
  np.testing.assert_array_equal(vote, [[0, 1, 2], [2, 2, 2]])


def test_class_means_leave_ignored_voxels_out():
  cases = batch_of_one(image=[1.0, 3.0, 5.0, 100.0], label=[0, 0, 1, -1])
  np.testing.assert_allclose(real_images.class_means(cases, 3), [2.0, 5.0, 0.0])


def test_the_page_says_the_numbers_of_the_results(finished):
  _, workdir = finished
  results = json.loads((workdir / "results.json").read_text())
  text = (workdir / "report.html").read_text()
  assert f"{results['dice']['learn2synth']['mean']:.3f} with the learned synthesiser" in text
  assert f"on {results['test_cases']} test images" in text.replace("\n", " ")
  assert "What ran" in text


@pytest.mark.parametrize(
  "flags", [("--batch_size", "-1"), ("--initial_sigma", "0"), ("--num_seeds", "0")]
)
def test_settings_are_checked_before_anything_is_written(finished, tmp_path, flags, capsys):
  with pytest.raises(SystemExit) as stop:
    run(
      "demo",
      "--shape",
      "8",
      "8",
      *flags,
      "--data",
      str(finished[0]),
      "--workdir",
      str(tmp_path / "run"),
    )
  assert stop.value.code == 2
  assert flags[0][2:] in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


def test_recovery_compares_method_with_profile_and_profile_with_preset():
  config = noise_recovery.Config(profile=(0.0, 0.1, 0.2), num_seeds=2)
  # Parabolas around 0.11 and 0.09: the mean has its minimum at 0.10.
  levels = np.array(config.profile)
  losses = np.stack([(levels - 0.11) ** 2, (levels - 0.09) ** 2])
  outcome = noise_recovery.recovery(config, 0.1, losses, [0.103, 0.105])
  np.testing.assert_allclose(outcome.minimiser, 0.10, atol=1e-9)
  np.testing.assert_allclose(outcome.minimiser_error, 0.01, atol=1e-9)
  np.testing.assert_allclose(outcome.estimate, 0.104)
  assert outcome.profile_passes and outcome.method_passes
  far = noise_recovery.recovery(config, 0.08, losses, [0.12, 0.12])
  assert not far.profile_passes and not far.method_passes


def test_estimate_is_the_mean_of_the_last_fifth():
  rows = [{"step": s, "theta/sigma": s / 100} for s in range(10, 101, 10)]
  np.testing.assert_allclose(noise_recovery.estimate(rows, 100), (0.9 + 1.0) / 2)


def test_a_batch_shares_one_field_and_the_next_batch_has_another():
  """Without noise an image of ones under the field is the field itself."""
  stream = released.with_batch_field(lambda step: batch_of(3, step), seed=0)
  config = dataclasses.replace(real_images.Config(), raw_parameters=True)
  augmentation = dataclasses.replace(released.augmentation(config), noise="none")
  task = synthetic_training.Task(
    model=Model(init=lambda key, image: ({}, {}), apply=lambda params, image: (image, {})),
    generator=synth.Generator(synth.identity(2), mixture=ONES, quantiles=None),
    augmentation=augmentation,
    loss=lambda logits, target: logits.std() / logits.mean(),
  )
  theta = augmentation.init(exponents=0.9)
  key = jax.random.key(0)
  found = [
    jax.vmap(lambda e: released.batch_field_loss(task, {}, theta, e, key))(stream(step))
    for step in (0, 1)
  ]
  for values in found:
    assert np.ptp(values) == 0 and values[0] > 0.01
  assert abs(found[0][0] - found[1][0]) > 1e-4


def test_the_released_dice_is_its_formula_and_its_image_is_doubled():
  random = np.random.default_rng(0)
  logits, label = random.normal(size=(5, 4, 3)), random.integers(0, 3, (5, 4))
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  r, e = np.eye(3)[label], 20 / 3
  want = 1 - np.mean((2 * (p * r).sum((0, 1)) + e) / ((p**2 + r**2).sum((0, 1)) + e))
  got = released.released_dice(jnp.asarray(logits, jnp.float32), jnp.asarray(label))
  np.testing.assert_allclose(got, want, atol=1e-6)
  plain, doubled = (
    released.augmentation(dataclasses.replace(real_images.Config(), doubled=value))
    for value in (False, True)
  )
  image, key, theta = jnp.ones((6, 5, 1)), jax.random.key(0), plain.init()
  np.testing.assert_allclose(
    doubled(theta, key, image), image + plain(theta, key, image), rtol=1e-6
  )
