"""Distances between surfaces: shifts, symmetry, SciPy, empty masks, voxels to be ignored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from medjax.check import InputError
from medjax.metrics import surfaces
from medjax.metrics.overlap import dice, jaccard
from medjax.metrics.surface_distance import assd, hausdorff, hd95
from medjax.metrics.surface_overlap import surface_dice
from medjax.types import IGNORE
from tests.oracles import masks

DISTANCES = [
  hausdorff,
  assd,
  *(functools.partial(hd95, variant=v) for v in ("pooled", "max_directed", "surfel")),
]
DICES = [functools.partial(surface_dice, tolerance_mm=1.0, variant=v) for v in ("voxel", "surfel")]


def square(start, stop, shape=(14, 12)):
  found = np.zeros(shape, np.int32)
  found[start[0] : stop[0], start[1] : stop[1]] = 1
  return found


def test_a_thin_shape_moved_aside_is_as_far_as_it_moved():
  """One voxel or line: every point has its partner at the shift."""
  first, second = np.zeros((2, 9, 8, 7), np.int32)
  first[2, 3, 1:6] = 1
  second[5, 3, 1:6] = 1
  for measure in DISTANCES[:4]:
    got = measure(first, second, num_classes=2, spacing=(0.5, 1.0, 2.0))
    np.testing.assert_allclose(got, [1.5])


@pytest.mark.parametrize("measure", [*DISTANCES, *DICES])
def test_symmetries(measure):
  """Maps exchanged, axes exchanged, mirrored: the same; lengths doubled: distances doubled."""
  pair = masks.blobs((24, 24, 24), (1.25, 1.25, 4.0), seed=11)
  maps = [mask.astype(np.int32) for mask in pair[:2]]
  got = measure(*maps, num_classes=2, spacing=pair.spacing)
  assert 0 < got[0] < np.inf
  settings = {"num_classes": 2, "spacing": pair.spacing}
  np.testing.assert_allclose(measure(*maps[::-1], **settings), got, rtol=1e-6)
  mirrored = [np.flip(m, 2) for m in maps]
  np.testing.assert_allclose(measure(*mirrored, **settings), got, rtol=1e-6)
  turned = [m.transpose(2, 0, 1) for m in maps]
  np.testing.assert_allclose(
    measure(*turned, num_classes=2, spacing=(4.0, 1.25, 1.25)), got, rtol=1e-6
  )
  if measure in DISTANCES:
    doubled = measure(*maps, num_classes=2, spacing=(2.5, 2.5, 8.0))
    np.testing.assert_allclose(doubled, 2 * got, rtol=1e-6)


@pytest.mark.parametrize("shape", [(9, 11), (7, 9, 8)])
def test_random_classes_against_scipy(shape):
  rng = np.random.default_rng(0)
  prediction, target = (
    np.where(rng.uniform(size=shape) < 0.5, rng.integers(0, 4, shape), 0) for _ in range(2)
  )
  spacing = (0.7, 1.9, 1.3)[: len(shape)]
  settings = {"num_classes": 4, "spacing": spacing}
  farthest, mean, near = [], [], []
  for k in (1, 2, 3):
    edges = [m & ~ndimage.binary_erosion(m) for m in (prediction == k, target == k)]
    maps = [ndimage.distance_transform_edt(~e, sampling=spacing) for e in edges]
    together = np.concatenate([maps[1][edges[0]], maps[0][edges[1]]])
    farthest.append(together.max())
    mean.append(together.mean())
    near.append((together <= 1.0).mean())
  np.testing.assert_allclose(hausdorff(prediction, target, **settings), farthest, rtol=1e-6)
  np.testing.assert_allclose(assd(prediction, target, **settings), mean, rtol=1e-5)
  got = surface_dice(prediction, target, tolerance_mm=1.0, **settings)
  np.testing.assert_allclose(got, near, rtol=1e-6)


def test_the_tolerance_itself_counts_whatever_float32_makes_of_it():
  first, second = np.zeros((2, 8, 4), np.int32)
  first[1, 1] = second[4, 1] = 1
  for step in (0.1, 0.4, 0.7, 0.8, 1.1):
    got = surface_dice(first, second, num_classes=2, spacing=(step, 1.0), tolerance_mm=3 * step)
    assert got[0] == 1
    less = 3 * step * (1 - 1e-5)
    got = surface_dice(first, second, num_classes=2, spacing=(step, 1.0), tolerance_mm=less)
    assert got[0] == 0


@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("measure", DISTANCES)
def test_a_map_without_the_structure(measure, is_traced):
  """Diagonal of 14 x 12 voxels of 3 x 2.5 mm: hypot(42, 30)."""
  one, none = square((2, 3), (5, 6)), np.zeros((14, 12), np.int32)
  expected = {"nan": np.nan, "inf": np.inf, "diagonal": np.hypot(42, 30)}
  for empty, value in expected.items() if not is_traced else [("diagonal", expected["diagonal"])]:
    call = functools.partial(measure, num_classes=2, spacing=(3.0, 2.5), empty=empty)
    call = jax.jit(call) if is_traced else call
    for pair in ((one, none), (none, one)):
      np.testing.assert_allclose(call(*pair), [value], rtol=1e-6)
    assert np.isnan(call(none, none))
    np.testing.assert_allclose(call(one, one), [0])


@pytest.mark.parametrize("measure", [dice, jaccard, *DICES])
def test_overlap_without_the_structure(measure):
  one, none = square((2, 3), (5, 6)), np.zeros((14, 12), np.int32)
  settings = {"num_classes": 2, "spacing": (1.0, 1.0), "empty": "diagonal"}
  for pair in ((one, none), (none, one)):
    assert measure(*pair, **settings) == 0
  assert np.isnan(measure(none, none, **settings))
  assert measure(one, one, **settings) == 1


@pytest.mark.parametrize("measure", [*DISTANCES, *DICES])
def test_voxels_to_be_ignored_are_in_neither_map(measure):
  prediction, target = square((2, 3), (7, 9)), square((3, 2), (8, 9))
  target[5:7, 5:7] = IGNORE
  kept = np.where(target == IGNORE, 0, prediction), np.where(target == IGNORE, 0, target)
  settings = {"num_classes": 2, "spacing": (1.0, 1.5)}
  expected = measure(*kept, **settings)
  np.testing.assert_array_equal(measure(prediction, target, **settings), expected)
  traced = jax.jit(functools.partial(measure, **settings))(prediction, target)
  np.testing.assert_allclose(traced, expected, rtol=1e-6)


def test_cases_under_vmap_and_the_background():
  predictions = np.stack([square((2, 3), (7, 9)), square((4, 1), (8, 8))])
  targets = np.stack([square((3, 2), (8, 9)), square((4, 3), (9, 9))])
  call = functools.partial(hd95, num_classes=2, spacing=(1.0, 1.5), include_background=True)
  got = jax.jit(jax.vmap(call))(jnp.asarray(predictions), jnp.asarray(targets))
  expected = [call(p, t) for p, t in zip(predictions, targets, strict=True)]
  assert got.shape == (2, 2)
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  inverted = hd95(1 - predictions[0], 1 - targets[0], num_classes=2, spacing=(1.0, 1.5))
  np.testing.assert_allclose(inverted, expected[0][:1])


def test_boxes_are_rounded_up_to_few_sizes():
  sizes = [surfaces._bucket(n) for n in range(1, 513)]
  assert all(size >= n for n, size in enumerate(sizes, 1))
  assert all(size - n < max(16, n / 2) for n, size in enumerate(sizes, 1))
  assert len(set(sizes)) == 11 and sizes == sorted(sizes)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"spacing": (1.0,)}, "spacing in mm of 2 axes"),
    ({"spacing": (1.0, 0.0)}, "positive spacing"),
    ({"spacing": (1.0, np.nan)}, "positive spacing"),
    ({"empty": "zero"}, "empty to be one of"),
    ({"target": np.zeros((4, 5), np.int32)}, "of the shape of the target"),
  ],
)
def test_bad_input_is_refused(change, message):
  given = {"prediction": square((2, 3), (5, 6)), "target": square((2, 3), (5, 6))}
  given |= {"num_classes": 2, "spacing": (1.0, 1.0)} | change
  with pytest.raises(InputError, match=message):
    hausdorff(**given)
  with pytest.raises(InputError, match="variant to be one of"):
    hd95(**given, variant="monai")
  with pytest.raises(InputError, match="tolerance_mm >= 0"):
    surface_dice(**(given | {"empty": "nan"}), tolerance_mm=-1.0)
