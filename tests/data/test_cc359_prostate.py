"""CC359 and the prostate sites in the layouts that people download."""

import numpy as np
import pytest

from medjax import types
from medjax.check import InputError
from medjax.data.formats.nifti import write_nifti
from medjax.data.sets.cc359 import CC359, SITES
from medjax.data.sets.prostate import SITES as PROSTATE_SITES
from medjax.data.sets.prostate import ProstateSites
from tests.data import fake_downloads


@pytest.mark.parametrize("zipped", [False, True])
def test_cc359_is_what_its_file_names_say(tmp_path, zipped):
  source = CC359(fake_downloads.cc359(tmp_path, zipped=zipped), normalise="none")
  assert isinstance(source, types.Source)
  assert source.subjects == ("CC0001", "CC0060", "CC0120", "CC0181", "CC0240", "CC0301")
  assert sorted(source.domains) == sorted(SITES)
  assert source.people["CC0301"] == ("CC0301", "ge-3T", 48, "M")
  image, mask = fake_downloads.voxels(0)
  # The file runs from right to left: upright is its mirror image.
  np.testing.assert_array_equal(source[0].image[..., 0], image[::-1])
  np.testing.assert_array_equal(source[0].label, mask[::-1])
  assert source[0].spacing == (2.0, 1.0, 1.0)
  files = source.manifest()["files"]
  assert len(files) == (2 if zipped else 12)
  assert all(len(digest) == 16 for digest in files.values())


def test_cc359_on_another_grid_with_a_scale_of_its_own(tmp_path):
  root = fake_downloads.cc359(tmp_path, zipped=False)
  source = CC359(root, sites=("ge-3T",), spacing=(1.0, 1.0, 1.0))
  assert len(source) == 1
  example = source[0]
  assert example.image.shape == (8, 6, 5, 1) and example.label.shape == (8, 6, 5)
  assert example.image.min() >= 0 and example.image.max() <= 1
  assert set(np.unique(example.label)) == {0, 1}


def test_an_archive_that_is_unpacked_too_is_read_once(tmp_path):
  fake_downloads.cc359(tmp_path, zipped=True)
  source = CC359(fake_downloads.cc359(tmp_path, zipped=False))
  assert len(source) == 6
  assert not any(place.endswith(".zip") for place in source.manifest()["files"])


def test_cc359_refuses_what_it_cannot_use(tmp_path):
  with pytest.raises(InputError, match="Original.zip"):
    CC359(tmp_path)
  root = fake_downloads.cc359(tmp_path, zipped=False)
  with pytest.raises(InputError, match="sites among siemens-1.5T"):
    CC359(root, sites=("hitachi-3T",))
  (root / "Silver-standard" / "CC0301_GE_3_48_M_ss.nii.gz").unlink()
  with pytest.raises(InputError, match="none for CC0301; download Silver-standard"):
    CC359(root)
  (root / "Original.zip").write_bytes(b"half a download")
  with pytest.raises(InputError, match="Original.zip, got a damaged one"):
    CC359(root)


def test_a_damaged_member_of_an_archive_is_named(tmp_path):
  import zipfile

  root = fake_downloads.cc359(tmp_path, zipped=False)
  with zipfile.ZipFile(root / "Original.zip", "w") as file:
    file.writestr("Original/CC0001_philips_15_55_M.nii.gz", b"not a volume")
  (root / "Original" / "CC0001_philips_15_55_M.nii.gz").unlink()
  source = CC359(root)
  with pytest.raises(InputError, match="Original.zip:Original/CC0001_.*download the archive again"):
    source[0]


def test_prostate_sites_whatever_their_capitals(tmp_path):
  source = ProstateSites(fake_downloads.prostate(tmp_path), normalise="none")
  assert isinstance(source, types.Source)
  assert source.domains == tuple(site for site in PROSTATE_SITES for _ in range(2))
  assert source.subjects[:3] == ("RUNMC/Case00", "RUNMC/Case01", "BMC/Case00")
  image, mask = fake_downloads.voxels(0)
  np.testing.assert_array_equal(source[0].image[..., 0], image)
  np.testing.assert_array_equal(source[0].label, mask)  # both zones are prostate
  assert len(source.manifest()["files"]) == 24


def test_prostate_sites_go_by_other_names_too(tmp_path):
  root = fake_downloads.prostate(tmp_path)
  (root / "BMC").rename(root / "ISBI_1.5")
  (root / "RUNMC").rename(root / "SiteA")
  assert ProstateSites(root, sites=("BMC", "RUNMC")).domains == ("RUNMC", "RUNMC", "BMC", "BMC")


def test_prostate_scores_have_mean_zero_and_deviation_one(tmp_path):
  example = ProstateSites(fake_downloads.prostate(tmp_path))[5]
  assert abs(example.image.mean()) < 1e-5 and abs(example.image.std() - 1) < 1e-5


def test_prostate_refuses_what_it_cannot_use(tmp_path):
  with pytest.raises(InputError, match="name the folders RUNMC"):
    ProstateSites(tmp_path)
  root = fake_downloads.prostate(tmp_path)
  mask = np.full(fake_downloads.SHAPE, 3, np.uint8)
  write_nifti(root / "HK" / "Case00_SEGMENTATION.nii.gz", mask, fake_downloads.AFFINE)
  with pytest.raises(InputError, match="among {0, 1, 2}"):
    ProstateSites(root, sites=("HK",))[0]
  (root / "HK" / "Case01_SEGMENTATION.nii.gz").unlink()
  with pytest.raises(InputError, match="none for .*Case01.nii.gz"):
    ProstateSites(root)
