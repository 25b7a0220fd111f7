"""What counts as an answer of a task, and what a text outside it costs."""

import numpy as np
import pytest

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


def test_folders_are_refused_that_do_not_fit(tmp_path):
  with pytest.raises(InputError, match="two tasks or more, got 0"):
    word_sets.folders([], gpc.PRESETS["folders"])
