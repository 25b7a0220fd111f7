"""The right registrations of sections have no error; tables of landmarks are read or refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import serial_sections as study_of
from experiments import tissue_blocks
from medjax.check import InputError
from medjax.data.sets.landmarks import section_landmarks
from medjax.ops import rigid
from tests.data.folders import real_set

CONFIG = dataclasses.replace(study_of.PRESETS["demo"], num_blocks=1, num_layers=4, num_points=30)


@pytest.mark.parametrize("is_paired", [False, True])
def test_the_right_registration_has_no_error_between_neighbours_and_through_the_stack(is_paired):
  ((name, tissue),) = tissue_blocks.simulated(CONFIG, seed=0)
  if is_paired:  # one set of places, seen in every layer
    tissue = np.repeat(tissue[:1], 4, axis=0)
  block = tissue_blocks.cut(CONFIG, name, tissue, is_paired, seed=1)
  layers, below = (jnp.asarray(x, jnp.float32) for x in (block.layers[1:], block.below))
  right = jax.vmap(rigid.procrustes)(layers, below)
  rows = study_of.score(block, right, {"arm": "right", "seed": 0})
  assert [row["role"] for row in rows] == ["pair"] * 3 + ["stack"]
  for row in rows:
    assert row["rmse/all"] < 1e-3 and row["angle/all"] < 0.1, row
  turned = right._replace(rotation=right.rotation @ jnp.float32(turn(np.deg2rad(5))))
  angles = [row["angle/all"] for row in study_of.score(block, turned, {}) if row["role"] == "pair"]
  np.testing.assert_allclose(angles, 5, atol=0.1)


def turn(angle):
  return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_all_blocks_of_real_sections_are_read():
  blocks = section_landmarks(real_set("serial_sections") / "annotations")
  shapes = {name: points.shape[:2] for name, points in blocks}
  assert len(blocks) == 9 and shapes["lung-lesion_3"] == (5, 80)
  assert shapes["mammary-gland_2"] == (9, 76)


def test_sections_that_do_not_match_are_refused(tmp_path):
  for block in ("a", "b"):
    for name, number in (("s1", 4), ("s2", 4 if block == "a" else 3)):
      (tmp_path / block / "me").mkdir(parents=True, exist_ok=True)
      lines = ["X,Y", *(f"{i},{i * i}" for i in range(number))]
      (tmp_path / block / "me" / f"{name}.csv").write_text("\n".join(lines))
  with pytest.raises(InputError, match="4 landmarks.* in every section of .*b, got 3 in s2.csv"):
    section_landmarks(tmp_path)
  (tmp_path / "b" / "me" / "s2.csv").unlink()
  with pytest.raises(InputError, match="two sections or more"):
    section_landmarks(tmp_path)
