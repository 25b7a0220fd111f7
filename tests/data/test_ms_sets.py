"""Readers of public lesion sets, on fake downloads of their layout."""

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.formats.nifti import write_nifti
from medjax.data.sets.ms_sets import ljubljana, mslesseg
from tests.data import fake_downloads
from tests.data.fake_downloads import AFFINE, SHAPE, lesions, voxels


@pytest.mark.parametrize("zipped", [False, True])
def test_mslesseg_knows_people_times_and_parts(tmp_path, zipped):
  root = fake_downloads.mslesseg(tmp_path, zipped=zipped)
  source = mslesseg(root, modalities=("T1", "FLAIR", "T2"), normalise="none")
  # The time T1 is no modality: P1_T2's channel T1 is that of its own time.
  assert source.names == ("P1_T1", "P1_T2", "P2_T1", "P10_T1", "P54")
  assert source.subjects == ("P1", "P1", "P2", "P10", "P54")
  assert source.parts == ("train", "train", "train", "train", "test")
  assert source.indices("test") == (4,)
  example = source[1]
  assert example.domain == "MSLesSeg" and example.spacing == (2.0, 1.0, 1.0)
  want = np.stack([voxels(100 + channel)[0] for channel in (1, 0, 2)], -1)
  np.testing.assert_array_equal(example.image, want[::-1])  # upright: right comes last
  np.testing.assert_array_equal(example.label, lesions(1)[::-1])
  assert len(source.manifest()["files"]) == (2 if zipped else 20)


@pytest.mark.parametrize("zipped", [False, True])
def test_ljubljana_takes_the_consensus_on_the_common_grid(tmp_path, zipped):
  root = fake_downloads.ljubljana(tmp_path, zipped=zipped)
  source = ljubljana(root, modalities=("FLAIR", "T2W"), normalise="none")
  assert source.names == source.subjects == ("patient01", "patient02", "patient11")
  want = np.stack([voxels(11_100 + channel)[0] for channel in (0, 3)], -1)
  np.testing.assert_array_equal(source[2].image, want[::-1])
  np.testing.assert_array_equal(source[1].label, lesions(1002)[::-1])
  assert len(ljubljana(root, space="raw")) == 3


def test_change_between_times_is_never_taken_for_lesions(tmp_path):
  root = fake_downloads.ljubljana(tmp_path)
  for path in ljubljana(root).manifest()["files"]:
    assert "longitiudinal" not in path
  with pytest.raises(InputError, match="cases of Ljubljana"):
    ljubljana(root / "longitiudinal")


def test_scans_and_masks_are_resampled_alike(tmp_path):
  source = ljubljana(fake_downloads.ljubljana(tmp_path), spacing=(1.0, 2.0, None))
  example = source[0]
  assert example.spacing == (1.0, 2.0, 1.0) and example.image.shape == (8, 3, 5, 1)
  assert example.label.shape == (8, 3, 5) and set(np.unique(example.label)) <= {0, 1}


def test_names_are_read_in_any_case(tmp_path):
  root = fake_downloads.mslesseg(tmp_path)
  (root / "train").rename(root / "Train")
  one = root / "Train/P2/T1"
  (one / "P2_T1_FLAIR.nii.gz").rename(one / "p2_t1_flair.NII.GZ")
  assert mslesseg(root).subjects == ("P1", "P1", "P2", "P10", "P54")


def test_incomplete_downloads_are_refused(tmp_path):
  with pytest.raises(InputError, match="cases of MSLesSeg in .* got none"):
    mslesseg(tmp_path)
  root = fake_downloads.mslesseg(tmp_path / "a")
  (root / "train/P2/T1/P2_T1_t2.nii.gz").unlink()
  assert len(mslesseg(root)) == 5
  with pytest.raises(InputError, match="FLAIR, T2, MASK of P2_T1 .* got no T2"):
    mslesseg(root, modalities=("FLAIR", "T2"))
  with pytest.raises(InputError, match="modality"):
    mslesseg(root, modalities=("PD",))
  write_nifti(root / "test/P54/P54_MASK.nii.gz", 2 * lesions(0), AFFINE)
  with pytest.raises(InputError, match="0 and 1 in"):
    mslesseg(root)[4]
  write_nifti(root / "test/P54/P54_MASK.nii.gz", lesions(0)[1:], AFFINE)
  with pytest.raises(InputError, match=f"{SHAPE[0]}, "):
    mslesseg(root)[4]
  write_nifti(root / "P3_T1_MASK.nii.gz", lesions(0), AFFINE)
  with pytest.raises(InputError, match="below train or test"):
    mslesseg(root)
