"""Trap sets: who shows the artefact, and where points lie."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import trap_sets, trap_tuning
from medjax import check
from medjax.data.formats import png
from tests.data.folders import real_set, write_json

HELD = trap_sets.discs(60, 20, 0, 0.1)
ROWS = tuple(range(60))
LABELS = np.array([scene.label for scene in HELD.scenes]) == 1


def test_an_artefact_agrees_with_the_class_in_training_and_misleads_in_the_test():
  agrees, misleads = (HELD.who_shows(ROWS, 1.0, 0, misleads=m) for m in (False, True))
  np.testing.assert_array_equal(agrees, LABELS)
  np.testing.assert_array_equal(misleads, ~LABELS)
  none, none_too = (HELD.who_shows(ROWS, 0.0, 0, misleads=m) for m in (False, True))
  np.testing.assert_array_equal(none, none_too)
  share = np.mean(HELD.who_shows(ROWS, 0.5, 0, misleads=False) == LABELS)
  assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 60)


def test_a_picture_differs_by_its_artefact_alone_and_points_lie_where_they_should():
  store = [HELD.store(ROWS, np.full(60, shows)) for shows in (False, True)]
  for i, scene in enumerate(HELD.scenes):
    changed = np.any(store[0]["image"][i] != store[1]["image"][i], axis=-1)
    assert not changed[~scene.artefact].any() and not (scene.artefact & scene.lesion).any()
  scene = HELD.scenes[0]
  points = trap_sets.points_of(scene, True, 9, np.random.default_rng(0))
  assert scene.lesion[tuple(points.lesion.T)].all()
  assert scene.artefact[tuple(points.artefact.T)].all()
  assert not (scene.lesion | scene.artefact)[tuple(points.background.T)].any()
  hidden = trap_sets.points_of(scene, False, 9, np.random.default_rng(0))
  np.testing.assert_array_equal(hidden.artefact, hidden.background)


def test_a_lesion_that_fills_its_picture_has_no_background_to_point_at():
  scene = HELD.scenes[0]._replace(lesion=np.ones((20, 20), bool), artefact=np.zeros((20, 20), bool))
  with pytest.raises(check.InputError, match="a pixel in each region"):
    trap_sets.points_of(scene, False, 3, np.random.default_rng(0))


def test_real_rulers_lie_beside_real_lesions():
  held = trap_sets.skin(real_set("skin_ph2"), real_set("skin_artefacts"), 48, "ruler")
  assert len(held.scenes) == 160 and len(set(held.subjects)) == 160
  for scene in held.scenes:
    assert scene.image.shape == (48, 48, 3) and 0 <= scene.image.min() <= scene.image.max() <= 1
    assert scene.artefact.any() and scene.lesion.any()
    assert not (scene.artefact & scene.lesion).any()


def test_a_learnt_choice_turns_away_from_the_channel_of_the_artefact():
  """Channel 0 tells the class on the lesion. Channel 1 lies on the artefact and, more strongly, on
  the lesion: alpha .3 keeps it, as .3 * 6 - .7 * 1.5 is above .3 * 1.5.
  In fair pictures channel 1 says nothing, in training it says what channel 0 says."""
  random = np.random.default_rng(0)

  def examples(is_fair):
    label = np.arange(32) % 2
    told = random.permutation(label) if is_fair else label
    features = np.zeros((32, 1, 2, 3), np.float32)  # the lesion on the left, the artefact right
    features[..., 2] = 0.01  # nobody's
    features[:, 0, 0, 0] = 1 + 0.5 * (2 * label - 1)
    features[:, 0, 0, 1] = 8 + 2 * (2 * told - 1)
    features[:, 0, 1, 1] = 1.5
    left, right = np.zeros((32, 1, 2), int), np.tile([[0, 1]], (32, 1, 1))
    return {"features": features, "image": np.zeros((32, 1, 2, 1), np.float32), "label": label,
            "index": np.arange(32), "lesion": left, "background": right,
            "artefact": right}  # fmt: skip

  head = lambda w, x, image: jnp.stack([jnp.float32(0), x[:, 0].sum(0) @ w["w"]])  # noqa: E731
  weights = {"w": jnp.array([0.3, 0.3, 0.3], jnp.float32)}
  train, fair = examples(False), examples(True)
  choice, moved = trap_tuning.tuned(
    head, weights, train, fair, jax.random.key(0), share=0.3, num_steps=30, rate=0.01
  )
  one = jax.tree.map(lambda x: jnp.asarray(x[1]), fair)
  before, after = (
    trap_tuning.softly_chosen(own, one, 0.3)[0, 0] / one["features"][0, 0]
    for own in (trap_tuning.start(), choice)
  )
  assert before[1] > 0.5 > before[0] and after[1] - after[0] < before[1] - before[0]
  assert not np.array_equal(moved["w"], weights["w"])


def test_bad_folders_are_refused(tmp_path):
  write_json(tmp_path, channels=("red", "green", "blue"), labels={"background": 0, "lesion": 1},
             ending=".png")  # fmt: skip
  for kind in ("imagesTr", "labelsTr", "templates/one"):
    (tmp_path / kind).mkdir(parents=True)
  png.write_png(tmp_path / "labelsTr" / "a.png", np.zeros((8, 8), np.uint8))
  (tmp_path / "meta.json").write_text(json.dumps({"artefacts": [{"class": "hair", "name": "one"}]}))
  with pytest.raises(check.InputError):
    trap_sets.skin(tmp_path, tmp_path, 8, "ruler")
