"""From pictures of one's own to predictions of new ones, by two commands."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import classification
from medjax import cli, predict
from medjax.metrics import case_table

QUICK = "--size 8 --widths 4 --num_steps 20 --eval_every 10 --log_every 10 --arms plain".split()
QUICK += ["--learning_rate", "0.03", "--near_duplicates", "0"]


def write(path, is_bright, seed):
  random = np.random.default_rng(seed)
  path.parent.mkdir(parents=True, exist_ok=True)
  grey = random.integers(150, 250, (9, 9)) if is_bright else random.integers(0, 100, (9, 9))
  Image.fromarray(grey.astype(np.uint8)).save(path)


def train(source, workdir, *more):
  words = ["folder", "--data", str(source), "--workdir", str(workdir), *QUICK, *more]
  cli.run(classification.PRESETS, classification.build, classification.__doc__, args=words)
  return json.loads((workdir / "results.json").read_text())


def predicted(run, source, output):
  words = ["--run", str(run), "--input", str(source), "--output", str(output)]
  cli.command(predict.Config, predict.run, None, args=words)
  return case_table.read_cases(output / "predictions.csv")


def test_class_folders_are_trained_and_new_pictures_named(tmp_path):
  for part, count in (("train", 10), ("test", 4)):
    for k in range(count):
      for name in ("bright", "dark"):
        seed = 100 * (part == "test") + 2 * k + (name == "dark")
        write(tmp_path / "set" / part / name / f"p{part}{k}_{name}.png", name == "bright", seed)
  found = train(tmp_path / "set", tmp_path / "run", "--subject_pattern", "(p[a-z]+[0-9]+_[a-z]+)")
  assert found["test_cases"] == {"test": 8} and found["knows_people"]
  assert found["arms"]["plain"]["test"]["accuracy"]["mean"] == 1
  splits = json.loads((tmp_path / "run" / "splits.json").read_text())["turns"][""]
  assert len(splits["test"]) == 8 and len(splits["train"]) + len(splits["validation"]) == 20
  for k in range(3):
    write(tmp_path / "new" / f"{k}.png", k == 1, 900 + k)
  rows = predicted(tmp_path / "run", tmp_path / "new", tmp_path / "out")
  assert [row["class"] for row in rows] == ["dark", "bright", "dark"]


def test_a_table_of_findings_is_trained(tmp_path):
  lines = ["image,patient,bright,late"]
  for k in range(20):
    write(tmp_path / "scans" / f"{k}.png", k % 2 == 0, k)
    lines.append(f"scans/{k}.png,p{k},{int(k % 2 == 0)},{int(k >= 10)}")
  (tmp_path / "films.csv").write_text("\n".join(lines))
  flags = ("--findings", "bright", "late", "--subject", "patient")
  found = train(tmp_path / "films.csv", tmp_path / "run", *flags)
  assert found["arms"]["plain"]["test"]["auroc"]["mean"] > 0
  rows = predicted(tmp_path / "run", tmp_path / "scans" / "0.png", tmp_path / "out")
  assert rows[0]["probability/bright"] > 0.5 and rows[0]["of_the_training"] == "no"


def test_label_maps_are_sent_to_their_own_study(tmp_path, capsys):
  from tests.data.folders import nnunet

  with pytest.raises(SystemExit):
    train(nnunet(tmp_path / "set"), tmp_path / "run")
  assert "experiments.segmentation takes label maps" in capsys.readouterr().err
