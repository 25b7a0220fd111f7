"""The gradient-alignment study as a person runs it, and the parts that its figures rest on."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import private_alignment
from experiments.private_alignment import pictures, scores
from experiments.private_alignment.training import ARMS, Config, Run, plan_of
from medjax import cli, metrics, study

SMALL = [
  *"--num_simulated 60 --size 8 --widths 2 --num_epochs 1 --expected_batch_size 8".split(),
  *"--chunk 8 --published cosine --private dp-sgd public --num_seeds 1".split(),
  *"--learning_rates 0.1 --log_every 2 --checkpoint_every 2".split(),
  *"--target_epsilon 50 --accountant rdp".split(),
]
SOURCE = pictures.DataConfig(
  size=8, num_simulated=60, validation_fraction=0.25, near_duplicates=0.0
)


def load(*paths, multiple=1, **options):
  return pictures.load(dataclasses.replace(SOURCE, **options), paths, 0, multiple=multiple)


def run(*args):
  doc = private_alignment.__doc__
  cli.run(private_alignment.PRESETS, private_alignment.build, doc, args=args)


@pytest.fixture(scope="module", params=[pytest.param(None, id="whole", marks=pytest.mark.slow)])
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("alignment") / "run"
  arguments = ["demo", *SMALL, "--workdir", str(workdir)]
  run(*arguments)
  return workdir, arguments


def test_results_have_their_keys_and_every_arm_its_epsilon(finished):
  results = json.loads((finished[0] / "results.json").read_text())
  assert results["data"]["pictures"] == {"train": 36, "validation": 12, "test": 12}
  tables = results["tables"]
  for values in (v for table in tables.values() for v in table["arms"].values()):
    for metric in ("accuracy", "auroc"):
      assert values[metric]["low"] <= values[metric]["mean"] <= values[metric]["high"]
      np.testing.assert_allclose(
        np.mean(values[f"{metric}_by_seed"]), values[metric]["mean"], rtol=1e-5
      )
    assert values["learning_rate"] == 0.1 and values["trials"] == {}
  assert tables["published"]["arms"]["cosine"]["epsilon"] == "inf"
  assert -1 <= tables["published"]["arms"]["cosine"]["cosine"] <= 1
  assert tables["published"]["comparison"] == []  # nothing to compare with
  for values in tables["private"]["arms"].values():
    assert 0 < values["epsilon"] <= 50.0 * (1 + 1e-3) and values["cosine"] is None
  rows = {(row["arm"], row["column"]) for row in tables["private"]["comparison"]}
  columns = {column for _, column in rows}
  assert {"accuracy, equal updates", "auroc, equal updates"} <= columns
  assert {arm for arm, _ in rows} == {"public"}
  costs = {arm: own["flops_an_update"] for arm, own in tables["private"]["arms"].items()}
  is_near = max(costs.values()) <= 1.05 * min(costs.values())
  assert is_near == ("accuracy, equal compute" in columns)


def test_no_one_is_named_outside_of_private(finished):
  workdir, _ = finished
  splits = json.loads((workdir / "private" / "splits.json").read_text())["parts"]
  assert [len(splits[part]) for part in ("train", "validation", "test")] == [36, 12, 12]
  for file in (p for p in workdir.iterdir() if p.is_file()):
    assert "simulated_0_" not in file.read_text(), file
  assert (workdir / "private").stat().st_mode & 0o777 == 0o700
  inside = [p for p in (workdir / "private").rglob("*") if p.is_file()]
  assert {p.stat().st_mode & 0o777 for p in inside} == {0o600}
  rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  private = [set(row) for row in rows if row["run"].startswith("private-")]
  assert private and all(keys == {"run", "step", "release_norm"} for keys in private)


def test_the_page_states_what_is_protected_and_what_is_shown(finished):
  text = (finished[0] / "report.html").read_text()
  for words in ("What is protected", "epsilon is infinite", "What is released, and what is not"):
    assert words in text
  assert "Table 1 of the paper" in text


def test_a_resumed_run_ends_with_the_same_results(finished, capsys):
  workdir, arguments = finished
  before = (workdir / "results.json").read_bytes()
  (workdir / "results.json").unlink()  # as if killed before the last write
  run(*arguments)
  assert (workdir / "results.json").read_bytes() == before
  run(*arguments)
  assert "finished" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["pneumonia"], "one path after --data with --source npz"),
    (["pneumonia", "--data", "nowhere.npz"], "nowhere.npz"),
    (["demo", "--data", "x"], "no path after --data"),
    (["demo", "--num_simulated", "5"], "all 2 classes in validation"),
    (["demo", "--private", "cosine"], "private arms in --private, got cosine"),
    (["demo", "--network", "resnet9"], "4 widths for resnet9"),
  ],
)
def test_bad_input_gets_one_line_and_status_2(arguments, message, tmp_path, capsys):
  with pytest.raises(SystemExit) as stop:
    run(*arguments, "--workdir", str(tmp_path / "run"))
  assert stop.value.code == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "run").exists()


def test_the_rate_is_chosen_on_validation_pictures():
  label = load().parts["validation"].label
  right = np.stack([-label, label], 1).astype(np.float32)
  fake = functools.partial(Run, None, plan=None, sweeps=1, flops=1.0)
  trials = [
    fake(rate=0.1, logits={"validation": -right, "test": right}),
    fake(rate=0.3, logits={"validation": right}),
    fake(rate=0.2, logits={"validation": right}),
  ]
  assert scores.best(trials, label) == 0.2  # the smaller of two equals


def test_every_private_arm_costs_the_same_and_every_published_one_everything():
  config = Config(num_epochs=2, expected_batch_size=8, accountant="rdp")
  store = load().parts["train"]
  plans = {arm: plan_of(config, store, "private", arm) for arm in ("dp-sgd", "fresh")}
  spent = {arm: sum(s**-2 for s in plan.multipliers) for arm, plan in plans.items()}
  np.testing.assert_allclose(spent["fresh"], spent["dp-sgd"], rtol=1e-6)
  assert len(plans["fresh"].multipliers) == 2 == ARMS["fresh"].make(config).releases
  for plan in plans.values():
    assert 0.98 * config.target_epsilon < plan.epsilon() <= config.target_epsilon * (1 + 1e-3)
  published = plan_of(config, store, "published", "dp-sgd")
  assert published.epsilon() == np.inf
  assert published.multipliers == (config.noise_multiplier,)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_parts_of_an_auroc_have_it_as_their_mean_and_its_spread(num_classes):
  random = np.random.default_rng(0)
  labels = random.integers(0, num_classes, 120)
  logits = (random.normal(size=(120, num_classes)) + np.eye(num_classes)[labels]).astype(np.float32)
  rows = study.classes(logits, labels, about={"arm": "x", "seed": 0}, wanted=("auroc",))
  parts = study.table(rows, "auroc")[0]
  area = scores.area(logits, labels)
  np.testing.assert_allclose(parts.mean(), area, rtol=1e-6)
  chance = logits[:, 1] - logits[:, 0] if num_classes == 2 else np.asarray(jax.nn.softmax(logits))
  np.testing.assert_allclose(area, metrics.auroc(chance, labels), rtol=1e-6)
  # Jackknife: without one picture the AUROC moves by what that picture added, up to 1 / n^2.
  without = [scores.area(np.delete(logits, i, 0), np.delete(labels, i)) for i in range(5)]
  moved = 119 * (area - np.array(without))
  np.testing.assert_allclose(moved, (parts - area)[:5], atol=0.02)


def test_copies_stay_with_the_part_they_are_judged_by(tmp_path):
  images = np.random.default_rng(0).integers(0, 255, (12, 8, 8)).astype(np.uint8)
  images[7], images[2], images[11], images[3] = images[0], images[1], images[5], images[4]
  parts = {"train": slice(0, 6), "val": slice(6, 9), "test": slice(9, 12)}
  arrays = {f"{part}_images": images[rows] for part, rows in parts.items()}
  labels = {f"{part}_labels": np.arange(12)[rows] // 2 % 2 for part, rows in parts.items()}
  np.savez(tmp_path / "x.npz", **arrays, **labels)
  pictures = load(tmp_path / "x.npz", source="npz")
  kept = {part: len(batch.weight) for part, batch in pictures.parts.items()}
  # of train 0 (in val), 1 (again at 2), 4 (again at 3) and 5 (in test) are copies
  assert kept == {"train": 2, "validation": 3, "test": 3}
  assert pictures.removed == {"identical to another picture": 4}
  seen = np.concatenate([batch.image.reshape(-1, 64) for batch in pictures.parts.values()])
  assert len(np.unique(seen, axis=0)) == 8


def test_sides_are_filled_up_to_a_multiple():
  plain, filled = (load(multiple=n).parts["test"].image for n in (1, 6))
  assert filled.shape[1:3] == (12, 12)
  np.testing.assert_array_equal(filled[:, 2:-2, 2:-2], plain)
  np.testing.assert_array_equal(filled[:, 0], filled[:, 2])


def test_the_unit_of_folders_with_several_pictures_of_a_child_is_the_child(tmp_path):
  random = np.random.default_rng(0)
  names = {f"IM-{i:04d}-0001": "NORMAL" for i in range(12)}
  names |= {f"person{i}_bacteria_{2 * i + j}": "PNEUMONIA" for i in range(12) for j in range(2)}
  for part in ("train", "test"):
    for number, (name, folder) in enumerate(names.items()):
      in_test = number // 2 % 4 == 0
      if (part == "test") == in_test or name == "person1_bacteria_2":
        path = tmp_path / part / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (20, 20)).astype(np.uint8)).save(path)
  pictures = load(tmp_path, source="kermany", validation_fraction=0.5)
  people = {part: set(subjects) for part, subjects in pictures.splits["parts"].items()}
  assert not people["train"] & people["test"] and not people["train"] & people["validation"]
  assert pictures.removed["of a person of a later part"] > 0
  store = pictures.parts["train"]
  config = Config(num_epochs=2, expected_batch_size=4, accountant="rdp")
  plan = plan_of(config, store, "private", "dp-sgd")
  assert plan.unit == "group" and plan.num_examples == len(people["train"])
