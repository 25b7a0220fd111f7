"""What is decoded, which weights predict, and who chooses them."""

import dataclasses

import numpy as np
import pytest

from experiments import fundus_sets, left_out_sites, vae_dg
from medjax.check import InputError
from medjax.types import TrainState


def test_what_is_decoded_is_the_mean_of_blocks_of_the_picture():
  config = dataclasses.replace(vae_dg.PRESETS["demo"], size=32)
  source = fundus_sets.fundus(3, 32, 0, "wide")
  found = vae_dg.held(config, source, (2, 0))
  assert found["picture"].shape == (2, 16, 16, 3)
  image = np.asarray(source[2].image)
  np.testing.assert_allclose(found["picture"][0, 5, 7], image[10:12, 14:16].mean((0, 1)), rtol=1e-5)
  np.testing.assert_array_equal(found["label"], [source[2].label, source[0].label])


def test_averaged_arms_predict_with_their_average_and_swad_chooses_its_stretch():
  class Extra:
    params = "average"

  state = TrainState.start("last", (), extra=Extra())
  found = {arm: vae_dg.predicting(arm, state) for arm in vae_dg.ARMS}
  assert {arm for arm, own in found.items() if own == "average"} == {
    "ema", "vae-ema", "swad", "vae-swad",
  }  # fmt: skip
  choose = {arm for arm in vae_dg.ARMS if vae_dg.watching(arm) is left_out_sites.StretchWatch}
  assert choose == {"swad", "vae-swad"}


def test_a_size_that_has_no_whole_blocks_is_refused():
  with pytest.raises(InputError, match="size a multiple of 16"):
    vae_dg.Config(size=40)
