"""Vessels: one tree under every appearance, views that leave it where it is, real folders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from experiments import map as study_of_map
from experiments import vessel_episodes, vessel_looks, vessel_sets
from medjax import nets
from medjax.check import InputError
from tests.data.folders import real_set


def test_the_appearance_changes_and_the_site_is_told():
  known, inverted = (vessel_sets.tree(2, 24, 3, a) for a in ("known", "inverted"))
  for source in (known, inverted):
    case = source[1]
    assert case.image.shape == (24, 24, 1) and 0 <= case.image.min() <= case.image.max() <= 1
    assert 0.02 < case.label.mean() < 0.6
  brightness = [s[0].image[s[0].label == 1].mean() - s[0].image[s[0].label == 0].mean()
                for s in (known, inverted)]  # fmt: skip
  assert brightness[0] > 0.1 and brightness[1] < -0.1


def test_views_move_with_the_picture_and_keep_its_vessels():
  """A view of the mirrored picture is the mirrored view: no view looks at where a pixel lies."""
  case = vessel_sets.tree(1, 24, 0, "known")[0]
  found = vessel_sets.views(case.image)
  assert found.shape == (3, 24, 24, 1) and found.min() >= 0 and found.max() <= 1
  mirrored = vessel_sets.views(case.image[:, ::-1])
  np.testing.assert_allclose(mirrored, found[:, :, ::-1], atol=1e-6)
  contrast = [v[..., 0][case.label == 1].mean() - v[..., 0][case.label == 0].mean() for v in found]
  assert contrast[0] > 0.1 and contrast[1] < -0.1


def test_mixtures_are_of_the_picture_and_of_all_views_but_the_first():
  """The first view is what training looks at: a mixture holds nothing of it."""
  task = vessel_episodes.Task(vessel_episodes.Settings(size=16, widths=(2, 2), num_mixtures=5))
  image, views = np.zeros((3, 2, 2, 1), np.float32), np.zeros((3, 3, 2, 2, 1), np.float32)
  views[:, 0], views[:, 1], views[:, 2] = 1000, 1, 10
  found = np.asarray(task.mixtures({"image": image, "views": views}, jax.random.key(0)))
  assert found.shape == (3, 5, 2, 2, 1) and 0 < found.min() and found.max() < 10
  assert np.ptp(found, axis=(2, 3)).max() < 1e-5  # one share for all pixels
  assert len(np.unique(found[:, :, 0, 0].round(5))) == 15  # each picture and mixture has its own


def test_the_rate_is_halved_as_often_as_told_in_the_updates_of_an_optimiser():
  config = vessel_episodes.Settings(halvings=2, learning_rate=0.8)
  tx, moved = vessel_episodes.Task(config).tx(9), []
  state = tx.init(jnp.zeros(()))
  for _ in range(9):
    update, state = tx.update(jnp.ones(()), state)  # Adam's update of a constant gradient: its rate
    moved.append(-float(update))
  np.testing.assert_allclose(moved, [0.8] * 3 + [0.4] * 3 + [0.2] * 3, rtol=1e-3)


def test_a_batch_that_cuts_a_group_is_refused():
  with pytest.raises(InputError, match="whole groups"):
    study_of_map.Config(batch_size=6, group=4)


def test_vessels_are_drawn_from_the_made_up_appearance_alone():
  """Another picture under the same appearance has the same vessels: nothing goes round it."""
  module = vessel_looks.Drawer((2, 2))
  image = jnp.asarray(np.random.default_rng(0).random((4, 4, 1)), jnp.float32)

  @jax.jit
  def run(key):
    params = module.init(key, image)
    look = module.apply(params, image, method="look")
    decoder = {"params": params["params"]["decoder"]}
    drawn = nets.UNet(2, (2, 2), num_convs=1).apply(decoder, look)
    return look, drawn, module.apply(params, image)

  look, drawn, whole = run(jax.random.key(0))
  assert look.shape == image.shape and 0 < look.min() < look.max() < 1
  np.testing.assert_allclose(whole, drawn, atol=1e-6)


@pytest.mark.slow
def test_the_long_alternation_costs_what_the_exact_look_ahead_costs():
  task = vessel_episodes.Task(vessel_episodes.Settings(size=16, widths=(4, 4), num_steps=100))
  spent = {
    arm: study_of_map.flops_of(task, arm) * study_of_map.updates_of(task, arm)
    for arm in ("map", "map-exact", "map-long")
  }
  assert abs(spent["map-long"] / spent["map-exact"] - 1) < 0.02
  assert spent["map-exact"] > 2 * spent["map"]


def test_real_eye_grounds_become_bright_vessels_and_both_eyes_one_person():
  paths = real_set("retina"), real_set("retina_drive")
  chase, drive = vessel_sets.folders(paths, 96).values()
  assert len(chase) == 28 and len(set(chase.subjects)) == 14 and len(set(drive.subjects)) == 40
  case = chase[0]
  assert case.image.shape == (96, 96, 1) and 0.03 < case.label.mean() < 0.2
  picture, vessel = case.image[..., 0], case.label == 1
  above = picture - ndimage.gaussian_filter(picture, 4)  # light falls unevenly on an eye ground
  assert above[vessel].mean() > 0.01 > above[~vessel].mean()
