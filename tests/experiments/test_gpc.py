"""What counts as an answer of a task, and what a text outside it costs."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments import gpc, word_sets
from medjax.check import InputError
from medjax.metrics import quadratic_kappa


def test_answers_in_all_forms_say_the_same_and_a_text_of_another_task_is_wrong():
  cases = word_sets.Cases(word_sets.simulated(12, 8, seed=0))
  store = cases.store
  for number, task in enumerate(cases.tasks):
    mine = store["task"] == number
    said = [cases.words.text(row) for row in store["text"][mine]]
    assert said == [task.texts[k] for k in task.label]
    assert [cases.union[k] for k in store["union"][mine]] == said
  assert len(cases.union) == 4 + 3 + 6  # "benign" is a label of two organs
  places = np.arange(len(cases.subjects))
  rows = gpc.scored(cases, places, store["label"].copy(), {"arm": "right", "seed": 0})
  assert {row["accuracy/all"] for row in rows} == {1.0}
  kappas = [row["kappa/all"] for row in rows if row["role"] == "graded"]
  np.testing.assert_allclose(kappas, 1)
  none = gpc.scored(cases, places, np.full(len(places), -1), {"arm": "none", "seed": 0})
  assert {row["accuracy/all"] for row in none} == {0.0}
  colon = cases.tasks[0].label
  worst = np.where(colon < 2, 3, 0)
  own = [row["kappa/all"] for row in none if row["domain"] == "colon"]
  np.testing.assert_allclose(np.mean(own), quadratic_kappa(worst, colon))


def test_tables_name_classes_and_people_and_grey_pictures_join_coloured_ones(tmp_path):
  random = np.random.default_rng(0)
  for name, channels in (("scan", ()), ("slide", (3,))):
    lines = ["image,kind,owner"]
    for index in range(4):
      pixels = random.integers(0, 255, (8, 8, *channels)).astype(np.uint8)
      Image.fromarray(pixels).save(tmp_path / f"{name}{index}.png")
      lines.append(f"{name}{index}.png,{('benign_lump', 'cancer')[index % 2]},{index // 2}")
    (tmp_path / f"{name}.csv").write_text("\n".join(lines))
  paths = [tmp_path / "scan.csv", tmp_path / "slide.csv"]
  config = dataclasses.replace(gpc.PRESETS["folders"], size=8, label="kind", subject="owner")
  scan, slide = word_sets.folders(paths, config)
  assert scan.texts == slide.texts == ("benign lump", "cancer")
  assert scan.label.tolist() == [0, 1, 0, 1] and scan.subjects[:3] == ("scan/0", "scan/0", "scan/1")
  assert scan.image.shape == slide.image.shape == (4, 8, 8, 3)
  assert (scan.image == scan.image[..., :1]).all() and not (slide.image[..., 0] == 0).all()
  assert not set(scan.subjects) & set(slide.subjects)  # person 0 of two sets is two people


def test_folders_are_refused_that_do_not_fit(tmp_path):
  with pytest.raises(InputError, match="two tasks or more, got 0"):
    word_sets.folders([], gpc.PRESETS["folders"])
