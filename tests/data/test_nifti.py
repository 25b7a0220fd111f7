"""NIfTI files keep values and world coordinates, and damaged ones are refused by name."""

import itertools

import nibabel
import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.formats.nifti import (
  GeometryWarning,
  from_ras,
  read_nifti,
  to_ras,
  write_like,
  write_nifti,
)
from medjax.data.formats.volume import Volume

OBLIQUE = np.eye(4)  # a rotation near a permutation of the axes, times the voxel sizes
OBLIQUE[:3, :3] = np.linalg.qr([[-0.1, 0.95, 0.07], [0.98, 0.1, 0.03], [0.05, -0.1, -0.97]])[0]
OBLIQUE[:3] *= (1.0, 2.0, 3.0, 1.0)
OBLIQUE[:3, 3] = (5.0, -7.0, 11.0)
LPS = np.diag([-1.0, -2.0, 3.0, 1.0])


def signed_axes():
  """All 48 ways to lay three file axes along the world axes."""
  for order in itertools.permutations(range(3)):
    for signs in itertools.product((1, -1), repeat=3):
      affine = np.zeros((4, 4))
      affine[3, 3] = 1
      for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * (axis + 1.0)
      affine[:3, 3] = (3.0, -4.0, 5.0)
      yield affine


@pytest.mark.parametrize("affine", [OBLIQUE, LPS, *signed_axes()], ids=str)
def test_reorientation_keeps_the_world_coordinates_of_a_marked_voxel(tmp_path, affine):
  array = np.zeros((4, 5, 6), np.float32)
  array[1, 3, 2] = 7.0
  write_nifti(tmp_path / "a.nii", array, affine)
  volume = to_ras(read_nifti(tmp_path / "a.nii"))
  (voxel,) = np.argwhere(volume.array == 7.0)
  assert volume.affine is not None
  world = affine @ (1, 3, 2, 1)
  np.testing.assert_allclose(volume.affine @ (*voxel, 1), world, atol=1e-4)  # float32 header
  assert (np.argmax(np.abs(volume.affine[:3, :3]), axis=0) == (0, 1, 2)).all()
  assert (np.diag(volume.affine)[:3] > 0).all()
  lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
  np.testing.assert_allclose(volume.spacing, lengths, rtol=1e-4)


def test_channels_stay_last_under_reorientation(tmp_path):
  array = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
  write_nifti(tmp_path / "a.nii.gz", array, LPS)
  volume = to_ras(read_nifti(tmp_path / "a.nii.gz"))
  np.testing.assert_array_equal(volume.array, array[::-1, ::-1])
  assert volume.spacing == (1.0, 2.0, 3.0)
  assert volume.space == (3, 4, 5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, bool])
def test_round_trip_of_types(tmp_path, dtype):
  array = (np.arange(24).reshape(2, 3, 4) % 5).astype(dtype)
  write_nifti(tmp_path / "a.nii.gz", array, OBLIQUE)
  volume = read_nifti(tmp_path / "a.nii.gz")
  np.testing.assert_array_equal(volume.array, array)
  np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-6)
  assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]  # no partial file is left


def test_two_axes_become_three(tmp_path):
  nibabel.save(nibabel.Nifti1Image(np.ones((4, 5), np.float32), np.eye(4)), tmp_path / "a.nii")
  assert read_nifti(tmp_path / "a.nii").array.shape == (4, 5, 1)


def test_scaled_values_and_second_version(tmp_path):
  image = nibabel.Nifti2Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4))
  image.header.set_slope_inter(0.5, 1.0)
  nibabel.save(image, tmp_path / "a.nii")
  raw = np.arange(8).reshape(2, 2, 2)
  np.testing.assert_allclose(read_nifti(tmp_path / "a.nii").array, raw * 0.5 + 1)


def damage(path, edit):
  """Rewrites the bytes of an uncompressed file."""
  path.write_bytes(edit(path.read_bytes()))


def set_pixdim(value):
  raw = np.array([value], np.float32).tobytes()
  return lambda data: data[:84] + raw + data[88:]  # pixdim[2] starts at byte 76 + 2 * 4


@pytest.mark.parametrize("size", [0.0, -1.0, np.nan])
def test_spacing_that_is_not_positive_is_refused(tmp_path, size):
  path = tmp_path / "bad.nii"
  write_nifti(path, np.ones((2, 2, 2), np.float32), np.eye(4))
  damage(path, set_pixdim(size))
  with pytest.raises(InputError, match=r"positive voxel spacing in .*bad.nii, got pixdim \(1.0, "):
    read_nifti(path)


def test_spacing_that_disagrees_with_the_affine_is_refused(tmp_path):
  path = tmp_path / "bad.nii"
  write_nifti(path, np.ones((2, 2, 2), np.float32), np.eye(4))
  damage(path, set_pixdim(2.0))
  with pytest.raises(InputError, match=r"agree in .*bad.nii, got \(1.0, 2.0, 1.0\) and \(1.0, 1.0"):
    read_nifti(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(tmp_path, value):
  array = np.ones((2, 2, 2), np.float32)
  array[0, 1, 0] = value
  write_nifti(tmp_path / "bad.nii.gz", array, np.eye(4))
  with pytest.raises(InputError, match="finite voxels in .*bad.nii.gz, got 1 NaN or infinite of 8"):
    read_nifti(tmp_path / "bad.nii.gz")


def test_every_truncation_is_refused(tmp_path):
  array = np.random.default_rng(0).normal(size=(5, 5, 5)).astype(np.float32)
  for name in ("a.nii.gz", "a.nii"):
    write_nifti(tmp_path / name, array, np.eye(4))
    data = (tmp_path / name).read_bytes()
    for length in (0, 3, 100, 347, 360, len(data) // 2, len(data) - 1):
      (tmp_path / name).write_bytes(data[:length])
      with pytest.raises(InputError, match=f"readable NIfTI file .*{name}, got a damaged one"):
        read_nifti(tmp_path / name)


def test_a_flipped_bit_in_a_compressed_file_is_refused(tmp_path):
  path = tmp_path / "a.nii.gz"
  write_nifti(path, np.zeros((5, 5, 5), np.float32), np.eye(4))
  data = bytearray(path.read_bytes())
  data[-6] ^= 1  # in the checksum
  path.write_bytes(bytes(data))
  with pytest.raises(InputError, match="damaged"):
    read_nifti(path)


def test_other_files_are_refused(tmp_path):
  with pytest.raises(InputError, match=r"ending in .nii.gz or .nii, got .*a.mha"):
    read_nifti(tmp_path / "a.mha")
  with pytest.raises(InputError, match=r"a file .*a.nii, got nothing there"):
    read_nifti(tmp_path / "a.nii")
  (tmp_path / "text.nii").write_text("not an image" * 100)
  with pytest.raises(InputError, match="damaged"):
    read_nifti(tmp_path / "text.nii")
  colour = np.zeros((2, 2, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
  nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
  with pytest.raises(InputError, match="real voxel values in .*colour.nii"):
    read_nifti(tmp_path / "colour.nii")


@pytest.mark.parametrize("unit", ["micron", "meter"])
def test_lengths_that_are_not_millimetres_are_refused(tmp_path, unit):
  image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), np.eye(4))
  image.header.set_xyzt_units(unit)
  nibabel.save(image, tmp_path / "a.nii.gz")
  with pytest.raises(InputError, match=unit):
    read_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("affine", [OBLIQUE, *signed_axes()], ids=str)
def test_from_ras_undoes_to_ras(affine):
  array = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
  upright = to_ras(Volume(array, affine, (1.0, 2.0, 3.0)))
  np.testing.assert_array_equal(from_ras(upright.array, affine), array)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("codes", [(2, 1), (1, 0), (0, 3), (0, 0)])
def test_a_file_like_another_has_its_geometry_to_the_bit(tmp_path, kind, codes):
  """Also where sform and qform place the grid differently."""
  image = kind(np.zeros((3, 4, 5), np.float32), OBLIQUE)
  image.set_qform(LPS * np.array([1.955, 0.94, 0.97, 1]), codes[1])
  image.set_sform(OBLIQUE, codes[0])
  image.header.set_xyzt_units("mm", "msec")
  source, target = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
  nibabel.save(image, source)
  write_like(target, np.ones((3, 4, 5, 2)), source)
  want, got = nibabel.load(source), nibabel.load(target)
  assert type(got) is kind
  np.testing.assert_array_equal(got.affine, want.affine)
  names = ["srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"]
  names += ["qoffset_x", "qoffset_y", "qoffset_z", "sform_code", "qform_code", "xyzt_units"]
  for name in names:
    np.testing.assert_array_equal(got.header[name], want.header[name], err_msg=name)
  np.testing.assert_array_equal(got.header["pixdim"][:4], want.header["pixdim"][:4])


def test_a_file_like_another_says_nothing_of_the_person(tmp_path):
  image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.float32), LPS)
  image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Jane Doe"))
  for name in ("descrip", "aux_file", "db_name"):
    image.header[name] = b"Jane Doe"
  image.header.set_intent("estimate", name="Jane Doe")
  source, target = tmp_path / "a.nii", tmp_path / "b.nii"
  nibabel.save(image, source)
  labels = np.arange(60).reshape(3, 4, 5)
  write_like(target, labels, source)
  assert b"Jane" in source.read_bytes()
  assert b"Jane" not in target.read_bytes()
  assert nibabel.load(target).header.get_intent()[0] == "none"
  np.testing.assert_array_equal(np.asarray(nibabel.load(target).dataobj), labels)


def slanted(degrees):
  """A gantry that is tilted: slices are shifted along y by the angle."""
  affine = np.diag([1.0, 1.0, 3.0, 1.0])
  affine[1, 2] = 3.0 * np.tan(np.radians(degrees))
  return affine


def test_a_tilted_gantry_is_read_as_it_is_with_a_warning_that_names_the_angle(tmp_path):
  path = tmp_path / "a.nii"
  image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), slanted(20))
  image.header.set_zooms(np.linalg.norm(slanted(20)[:3, :3], axis=0))
  nibabel.save(image, path)
  with pytest.warns(GeometryWarning, match="a.nii stand 70.0 degrees to each other"):
    volume = read_nifti(path)
  np.testing.assert_allclose(volume.affine, slanted(20), atol=1e-6)
  write_nifti(path, np.ones((3, 4, 5)), slanted(0.2))  # rounding
  read_nifti(path)


def test_the_sform_counts_where_the_qform_disagrees_and_a_warning_says_by_how_much(tmp_path):
  path = tmp_path / "a.nii"
  image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4))
  moved = np.eye(4)
  moved[0, 3] = 40.0
  for shift, words in ((0.01, None), (40.0, "sform and qform of .*a.nii are 40 mm apart")):
    moved[0, 3] = shift
    image.set_sform(np.eye(4), 1)
    image.set_qform(moved, 1)
    nibabel.save(image, path)
    if words is None:
      read_nifti(path)
    else:
      with pytest.warns(GeometryWarning, match=words):
        volume = read_nifti(path)
      np.testing.assert_array_equal(volume.affine, np.eye(4))


def test_a_file_without_orientation_keeps_the_order_of_its_voxels_with_a_warning(tmp_path):
  path = tmp_path / "a.nii"
  array = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
  image = nibabel.Nifti1Image(array, None)
  image.header.set_zooms((1.0, 2.0, 3.0))
  nibabel.save(image, path)
  with pytest.warns(GeometryWarning, match="a.nii has neither sform nor qform"):
    volume = read_nifti(path)
  np.testing.assert_array_equal(volume.affine, np.diag([1.0, 2.0, 3.0, 1.0]))
  np.testing.assert_array_equal(to_ras(volume).array, array)  # nibabel mirrors the first axis
