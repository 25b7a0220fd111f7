import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check
from medjax.synth import background, freesurfer, grouping

# The 54 values of SynthSeg's training maps and those that aseg volumes add.
MAPS = (
  *(0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 24, 25, 26, 28, 30, 41, 42, 43, 44),
  *(46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 62, 72, 85, 136, 137, 163, 164),
  *(502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530),
)
ASEG = (31, 63, 77, 80, 251, 252, 253, 254, 255)


def test_every_known_value_has_a_class_and_others_are_refused():
  assert len(MAPS) == 54
  for table in (freesurfer.by_tissue(), freesurfer.by_structure()):
    table.check_label(np.array(MAPS + ASEG))
    for wrong in (6, 531, -1, 9999):
      with pytest.raises(check.InputError, match=str(wrong)):
        table.check_label(np.array([0, 2, wrong]))


def test_tissues():
  expected = {0: 0, 511: 0, 24: 1, 4: 1, 3: 2, 42: 2, 47: 2, 2: 3, 16: 3, 253: 3, 10: 4, 58: 4}
  values = jnp.array(list(expected))
  assert freesurfer.by_tissue().to_target(values).tolist() == list(expected.values())
  assert freesurfer.by_tissue(is_csf_target=False).to_target(values)[2] == 0
  assert freesurfer.by_tissue().target_names[2] == "cortical_gray_matter"


@pytest.mark.parametrize("table", [freesurfer.by_tissue(), freesurfer.by_structure()])
def test_sides_share_intensity_and_target_and_mirror_each_other(table):
  for left, right in freesurfer.SIDES.items():
    assert table.generation[left] == table.generation[right]
    assert table.target[left] == table.target[right]
    assert table.mirror[left] == right and table.mirror[right] == left
  np.testing.assert_array_equal(table.mirror[table.mirror], np.arange(len(table.mirror)))
  assert table.generation[0] == 0
  assert set(table.generation[table.is_listed]) == set(range(table.num_generation))


def test_sides_can_stay_apart():
  table = freesurfer.by_structure(merge_sides=False)
  names = [table.target_names[t] for t in table.target[[2, 41, 53, 63, 16, 515, 14]]]
  assert names == [
    *("left_cerebral_white_matter", "right_cerebral_white_matter", "right_hippocampus"),
    *("right_lateral_ventricle", "brain_stem", "background", "third_ventricle"),
  ]
  merged = freesurfer.by_structure()
  assert set(merged.target) == set(range(merged.num_targets))  # no name without a value


def test_unlabelled_voxels_are_ignored_as_target_and_background_as_intensity():
  table = grouping.identity(3)
  assert table.to_target(jnp.array([-1, 0, 2])).tolist() == [-1, 0, 2]
  assert table.to_generation(jnp.array([-1, 0, 2])).tolist() == [0, 0, 2]


@pytest.mark.parametrize(
  "generation, target",
  [({1: "a"}, {}), ({0: "a", -2: "b"}, {}), ({0: "a"}, {5: "x"}), ({0: "a", 1: "b"}, {1: "y"})],
)
def test_inconsistent_mappings_are_refused(generation, target):
  with pytest.raises(check.InputError):
    grouping.build(generation, target, target_names=("background", "x"))


def head_image():
  """Air 0 to 3, skin near 100, skull near 40, and labelled brain."""
  rng = np.random.default_rng(0)
  tissue = np.repeat([0, 1, 2, 3], 100).reshape(20, 20)
  image = np.choose(tissue, [1.5, 40, 100, 70]) + rng.uniform(-1.5, 1.5, (20, 20))
  return tissue, image.astype(np.float32), np.where(tissue == 3, 1, 0).astype(np.int32)


@pytest.mark.parametrize("threshold", [None, 5.0])
def test_split_background_separates_skin_from_skull_and_leaves_air_and_labels(threshold):
  tissue, image, label = head_image()
  result = background.split_background(
    image[..., None], label, 2, first_value=2, threshold=threshold
  )
  np.testing.assert_array_equal(result, np.choose(tissue, [0, 2, 3, 1]))
  assert label.max() == 1  # the input is untouched
  table = background.with_clusters(grouping.identity(2), 2)
  table.check_label(result)
  np.testing.assert_array_equal(table.to_target(jnp.asarray(result)), label)
  assert np.unique(table.to_generation(jnp.asarray(result))).tolist() == [0, 1, 2, 3]


def test_split_background_without_any_background_changes_nothing():
  _, image, label = head_image()
  ones = np.ones_like(label)
  np.testing.assert_array_equal(background.split_background(image, ones, first_value=2), ones)
  with pytest.raises(check.InputError, match="first_value"):
    background.split_background(image, label, first_value=1)


def test_strip_background_zeroes_unlabelled_voxels_only():
  _, image, label = head_image()
  stripped = background.strip_background(image[..., None], label)
  np.testing.assert_array_equal(stripped[..., 0], image * label)
  kept = background.strip_background(image, label, margin=np.ones_like(label, bool))
  np.testing.assert_array_equal(kept, image)
