"""Crops, pads, slices and combinations keep voxels at their place and people apart."""

import json

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.grid.shapes import fit_to_shape, to_shape
from medjax.data.grid.slices import slices
from medjax.data.sets.combine import concat, subset
from medjax.data.sets.nnunet import NnUNetFolder
from medjax.data.simulated.procedural import ProceduralAnatomy
from medjax.types import Example
from tests.data.folders import nnunet

AFFINE = np.array([[1.5, 0.2, 0, 4.0], [-0.1, 2.0, 0.3, 1.0], [0, 0, 3.0, -2.0], [0, 0, 0, 1.0]])


def marked(shape, voxel):
  label = np.zeros(shape, np.int32)
  label[voxel] = 1
  spacing = (1.0,) * len(shape)
  return Example("case", "who", 0, label[..., None].astype(np.float32), label, spacing, AFFINE)


def test_centre_crop_and_pad():
  array = np.arange(5)
  np.testing.assert_array_equal(fit_to_shape(array, (3,)), [1, 2, 3])
  np.testing.assert_array_equal(fit_to_shape(array, (7,), -1), [-1, 0, 1, 2, 3, 4, -1])
  np.testing.assert_array_equal(fit_to_shape(array, (2,)), [1, 2])
  np.testing.assert_array_equal(fit_to_shape(array, (6,), 9), [0, 1, 2, 3, 4, 9])
  assert fit_to_shape(np.zeros((4, 6, 3)), (5, 5)).shape == (5, 5, 3)


@pytest.mark.parametrize("centre", ["grid", "foreground"])
@pytest.mark.parametrize("shape", [(5, 9, 4), (12, 3, 6), (8, 8, 8)])
def test_a_marked_voxel_keeps_its_world_coordinates(shape, centre):
  example = to_shape(marked((8, 7, 6), (4, 3, 2)), shape, centre=centre)
  assert example.label.shape == shape and example.image.shape == (*shape, 1)
  (voxel,) = np.argwhere(example.label == 1)
  np.testing.assert_allclose(example.affine @ (*voxel, 1), AFFINE @ (4, 3, 2, 1))
  np.testing.assert_array_equal(example.image[..., 0], example.label)


def test_the_foreground_window_contains_a_structure_at_the_border():
  example = marked((30, 30), (28, 2))
  assert to_shape(example, (8, 8)).label.sum() == 0
  assert to_shape(example, (8, 8), centre="foreground").label.sum() == 1
  with pytest.raises(InputError, match="a label map in case case"):
    to_shape(example.replace(label=None), (8, 8), centre="foreground")
  with pytest.raises(InputError, match="a shape of 2 positive sizes"):
    to_shape(example, (8, 8, 8))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_stacked_again_are_the_volume(tmp_path, axis):
  affine = np.diag([1.0, 2.0, 3.0, 1.0])
  affine[:3, 3] = (5, 6, 7)
  whole = NnUNetFolder(nnunet(tmp_path, names=("p1_s1", "p2_s1"), affine=affine),
                       subject_pattern=r"(p\d)")  # fmt: skip
  flat = slices(whole, axis)
  size = whole[0].label.shape[axis]
  assert len(flat) == 2 * size and flat.subjects == ("p1",) * size + ("p2",) * size
  parts = [flat[i] for i in range(size)]
  np.testing.assert_array_equal(np.stack([e.label for e in parts], axis), whole[0].label)
  np.testing.assert_array_equal(np.stack([e.image for e in parts], axis), whole[0].image)
  np.testing.assert_array_equal(flat[size].label, whole[1].label.take(0, axis))
  np.testing.assert_array_equal(flat[0].label, whole[0].label.take(0, axis))  # and back again
  assert [e.index for e in parts] == list(range(size))
  last = parts[-1]
  assert last.name == f"p1_s1_{'xyz'[axis]}{size - 1:03d}" and len(last.spacing) == 2
  voxel = [1, 2]
  voxel.insert(axis, size - 1)
  np.testing.assert_allclose(last.affine @ (1, 2, 0, 1), affine @ (*voxel, 1))
  json.dumps(flat.manifest())


def test_slices_are_kept_by_choice(tmp_path):
  whole = ProceduralAnatomy(2, (16, 16, 16), 3, 0)
  flat = slices(whole, keep=lambda e: bool((e.label > 0).mean() > 0.2))
  assert 0 < len(flat) < 32
  assert all((flat[i].label > 0).mean() > 0.2 for i in range(len(flat)))
  with pytest.raises(InputError, match="at least one slice"):
    slices(whole, keep=lambda e: False)
  with pytest.raises(InputError, match="three spatial axes in case procedural"):
    slices(ProceduralAnatomy(1, (16, 16), 3, 0))


def test_sites_keep_equal_names_apart():
  a, b = (ProceduralAnatomy(2, (16, 16), 3, 0) for _ in range(2))
  both = concat({"A": a, "B": b})
  assert len(set(both.subjects)) == 4 and both.domains == ("A", "A", "B", "B")
  assert both[3].domain == "B" and both[3].index == 3 and both[3].subject == both.subjects[3]
  np.testing.assert_array_equal(both[3].label, b[1].label)
  some = subset(both, [3, 0])
  assert some.domains == ("B", "A") and some[0].index == 3
  json.dumps([both.manifest(), some.manifest()])
  with pytest.raises(InputError, match="class_names of A and C to be equal"):
    concat({"A": a, "C": ProceduralAnatomy(2, (16, 16), 4, 0)})
