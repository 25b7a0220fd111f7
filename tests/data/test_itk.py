"""NRRD, MetaImage and DICOM: the voxels and the place that ITK writes into a NIfTI file."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from medjax import predict
from medjax.check import InputError
from medjax.data import find_cases
from medjax.data.formats import itk
from medjax.data.formats.nifti import read_nifti
from medjax.data.sets.nnunet import NnUNetFolder
from medjax.inference import Member
from medjax.types import Model

sitk = pytest.importorskip("SimpleITK", reason="extra itk absent")

ARRAY = np.random.default_rng(0).integers(0, 3, (9, 7, 5)).astype(np.int16)  # [x, y, z]
TURN = np.linalg.qr([[0.9, -0.3, 0.1], [0.3, 0.9, -0.2], [0, 0.2, 1.0]])[0]


def image(array=ARRAY, direction=TURN, origin=(-30.0, 12.5, 7.0)):
  made = sitk.GetImageFromArray(array.transpose(2, 1, 0))
  made.SetSpacing((0.7, 0.8, 3.0))
  made.SetOrigin(origin)
  made.SetDirection(direction.ravel().tolist())
  return made


@pytest.mark.parametrize("ending", itk.SUFFIXES)
def test_a_file_lies_where_itk_puts_it_in_nifti(tmp_path, ending):
  for name in (f"a{ending}", "a.nii.gz"):
    sitk.WriteImage(image(), str(tmp_path / name))
  found, want = itk.read_itk(tmp_path / f"a{ending}"), read_nifti(tmp_path / "a.nii.gz")
  np.testing.assert_array_equal(found.array, ARRAY)
  np.testing.assert_allclose(found.affine, want.affine, atol=1e-5)
  np.testing.assert_allclose(found.spacing, want.spacing, atol=1e-6)
  assert itk.read_num_channels(tmp_path / f"a{ending}") == 1


def test_what_is_written_lies_on_the_grid_of_what_was_read(tmp_path):
  sitk.WriteImage(image(), str(tmp_path / "a.mha"))
  itk.write_like(tmp_path / "b.mha", 2 * ARRAY, itk.read_itk(tmp_path / "a.mha"))
  written = sitk.ReadImage(str(tmp_path / "b.mha"))
  for field in ("GetSpacing", "GetOrigin", "GetDirection"):
    assert getattr(written, field)() == getattr(image(), field)()
  np.testing.assert_array_equal(itk.read_itk(tmp_path / "b.mha").array, 2 * ARRAY)


def write_series(folder, positions, array=ARRAY, series="1.2.3"):
  """A slice a file, the first with the last place: file names are in no order."""
  folder.mkdir(parents=True, exist_ok=True)
  writer = sitk.ImageFileWriter()
  writer.KeepOriginalImageUIDOn()
  for z, position in enumerate(positions):
    plane = image(array[:, :, z : z + 1], origin=tuple(position))
    plane = plane[:, :, 0]
    tags = {
      "0008|0060": "CT",
      "0020|000e": series,
      "0020|0032": "\\".join(f"{v:.6f}" for v in position),
      "0020|0037": "\\".join(f"{v:.6f}" for v in TURN[:, :2].T.ravel()),
      "0020|0013": str(z + 1),
      "0018|0050": "3.0",
    }
    for tag, value in tags.items():
      plane.SetMetaData(tag, value)
    writer.SetFileName(str(folder / f"{len(positions) - z}.dcm"))
    writer.Execute(plane)
  return folder


def places(step, count=5):
  return np.array([-30.0, 12.5, 7.0]) + np.arange(count)[:, None] * np.asarray(step)


def test_a_dicom_series_lies_where_its_slices_lie(tmp_path):
  folder = write_series(tmp_path / "ct", places(3.0 * TURN[:, 2]))
  found = itk.read_dicom_series(folder)
  np.testing.assert_array_equal(found.array, ARRAY)
  to_ras = np.diag([-1.0, -1.0, 1.0])
  np.testing.assert_allclose(found.affine[:3, :3], to_ras @ TURN * [0.7, 0.8, 3.0], atol=1e-4)
  np.testing.assert_allclose(found.affine[:3, 3], to_ras @ [-30.0, 12.5, 7.0], atol=1e-4)


def test_a_tilted_gantry_keeps_the_places_of_its_slices(tmp_path):
  step = 3.0 * TURN[:, 2] + 1.0 * TURN[:, 1]
  found = itk.read_dicom_series(write_series(tmp_path / "ct", places(step)))
  np.testing.assert_allclose(found.affine[:3, 2], np.diag([-1, -1, 1]) @ step, atol=1e-4)


def test_missing_slices_and_two_series_are_refused(tmp_path):
  gap = np.delete(places(3.0 * TURN[:, 2], 6), 3, axis=0)
  with pytest.raises(InputError, match="even distances, got 3 to 6 mm"):
    itk.read_dicom_series(write_series(tmp_path / "gap", gap))
  folder = write_series(tmp_path / "two", places(3.0 * TURN[:, 2]))
  write_series(folder / "b", places(3.0 * TURN[:, 2]), series="1.2.4")
  for path in (folder / "b").iterdir():
    path.rename(folder / f"b{path.name}")
  (folder / "b").rmdir()
  with pytest.raises(InputError, match="one DICOM series in .*two, got 2"):
    itk.read_dicom_series(folder)


def reader():
  """A network whose answer is the intensity itself."""

  def logits(params, pixels, **options):
    del options
    return params - 50 * (pixels[..., :1] - jnp.arange(3.0)[None, None, None]) ** 2, {}

  return Model(lambda key, pixels: (jnp.zeros(()), {}), logits)


def test_a_folder_of_meta_images_trains_and_all_formats_are_predicted(tmp_path):
  for part in ("imagesTr", "labelsTr"):
    (tmp_path / part).mkdir()
  content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2}}
  (tmp_path / "dataset.json").write_text(json.dumps({**content, "file_ending": ".mha"}))
  sitk.WriteImage(image(), str(tmp_path / "imagesTr" / "p_0000.mha"))
  sitk.WriteImage(image(), str(tmp_path / "labelsTr" / "p.mha"))
  source = NnUNetFolder(tmp_path, normalise="none")
  np.testing.assert_array_equal(source[0].image[..., 0], source[0].label)
  preprocess = source.preprocessing(patch=(8, 6, 4))
  member = Member(reader(), jnp.zeros(()), preprocess, "reader")
  series = write_series(tmp_path / "scans" / "ct7", places(3.0 * TURN[:, 2])).parent
  assert [case.name for case in find_cases(series, preprocess)] == ["ct7"]
  for path, name in ((tmp_path / "imagesTr", "p.mha"), (series, "ct7.nii.gz")):
    (out,) = predict.predict([member], path, tmp_path / "out" / name, progress=False)
    assert out.name == name
    found = itk.read_itk(out) if name.endswith("mha") else read_nifti(out)
    np.testing.assert_array_equal(found.array, ARRAY)


def test_a_damaged_file_is_named(tmp_path):
  (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\nx")
  with pytest.raises(InputError, match="a readable file .*a.nrrd, got a damaged one"):
    itk.read_itk(tmp_path / "a.nrrd")
