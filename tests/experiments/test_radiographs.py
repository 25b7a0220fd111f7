"""Films: where the box and the gaze are, which text names the diagnosis, words by their company."""

import numpy as np
import pytest

from experiments import radiographs
from medjax.check import InputError
from medjax.data.formats import png


@pytest.fixture(scope="module")
def films():
  return radiographs.drawn(60, 16, seed=0)


def test_gaze_rests_on_the_focus_of_pneumonia_and_only_there_is_a_box(films):
  is_ill = films.label == radiographs.PNEUMONIA
  assert 0 < is_ill.sum() < 60 and (films.box.any((1, 2)) == is_ill).all()
  np.testing.assert_allclose(films.gaze.sum((1, 2)), 1, rtol=1e-5)
  # six tenths of the gaze are a Gaussian of which (.954)^2 lie within two deviations, less than a
  # pixel's width of the border and what falls off the film
  assert np.median((films.gaze * films.box).sum((1, 2))[is_ill]) > 0.6 * 0.954**2 * 0.85
  np.testing.assert_allclose(films.image.std((1, 2, 3)), 1, rtol=1e-3)


def test_only_the_report_names_the_diagnosis(films):
  """Texts are nested, and what the report adds to the findings follows from the class alone."""
  added = {}
  for i, kind in enumerate(films.label):
    asked, findings, report = (films.texts[n][i] for n in ("indication", "findings", "report"))
    asked, findings, report = (list(x[x >= 0]) for x in (asked, findings, report))
    assert findings[: len(asked)] == asked and report[: len(findings)] == findings
    added.setdefault(int(kind), set()).add(tuple(report[len(findings) :]))
  assert all(len(own) == 1 for own in added.values()) and len(set.union(*added.values())) == 3
  named = {word for own in added.values() for text in own for word in text}
  assert not named & set(films.texts["findings"].ravel().tolist())


def test_words_in_the_same_company_have_the_same_vector():
  """0 and 1 stand between the same words; 2 does not. The last vector is the mean of all."""
  texts = [[3, 0, 4], [3, 1, 4], [5, 2, 6], [6, 5, 2]] * 3
  found = radiographs.word_vectors(texts, 7, width=4)
  np.testing.assert_allclose(found[0], found[1], atol=1e-5)
  assert np.abs(found[0] - found[2]).max() > 0.5
  np.testing.assert_allclose(found[7], found[:7].mean(0), atol=1e-6)


def test_lungs_of_a_folder_are_used(tmp_path):
  label = np.zeros((20, 20), int)
  label[4:16, 2:8], label[4:16, 12:18] = 1, 2
  (tmp_path / "labels").mkdir()
  for name in ("a", "b"):
    png.write_png(tmp_path / "labels" / f"{name}.png", label)
  films = radiographs.on_shapes(tmp_path, 10, seed=0)
  assert films.subjects == ("a", "b") and films.image.shape == (2, 10, 10, 1)
  assert films.gaze[0, 5, 2] > films.gaze[0, 0, 0]  # in a lung, outside
  with pytest.raises(InputError, match="label maps labels/"):
    radiographs.on_shapes(tmp_path / "labels", 10, seed=0)
