"""Readers of public lesion sets, on fake downloads of their layout."""

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.ms_sets import ljubljana, mslesseg
from medjax.data.nifti import write_nifti

SHAPE = (5, 4, 3)


def write(path, array, affine=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  write_nifti(path, array, np.eye(4) if affine is None else affine)


def lesion(seed):
  return (np.random.default_rng(seed).uniform(size=SHAPE) < 0.3).astype(np.uint8)


def fake_mslesseg(root):
  for n, (folder, name) in enumerate(
    [("train/P1/T1", "P1_T1"), ("train/P1/T2", "P1_T2"), ("train/P10/T1", "P10_T1"),
     ("train/P2/T1", "P2_T1"), ("test/P54", "P54")]
  ):  # fmt: skip
    for k, modality in enumerate(("FLAIR", "T1", "T2")):
      write(root / folder / f"{name}_{modality}.nii.gz", np.full(SHAPE, 10 * n + k, np.float32))
    write(root / folder / f"{name}_MASK.nii.gz", lesion(n))
  return root


def fake_ljubljana(root):
  for n in (1, 2, 11):
    for space in ("raw", "coregistered"):
      folder = root / "cross_sectional" / space / f"patient{n:02d}"
      for modality in ("FLAIR", "T1W", "T1WKS", "T2W"):
        write(folder / f"{modality}.nii.gz", np.full(SHAPE, n, np.float32))
      write(folder / "consensus_gt.nii.gz", lesion(n))
      write(folder / "brainmask.nii.gz", np.ones(SHAPE, np.uint8))
  return root


def test_mslesseg_knows_people_times_and_parts(tmp_path):
  source = mslesseg(fake_mslesseg(tmp_path), modalities=("T1", "FLAIR"), normalise="none")
  # The time T1 is no modality: P1_T2's channel T1 is that of its own time.
  assert source.names == ("P1_T1", "P1_T2", "P2_T1", "P10_T1", "P54")
  assert source.subjects == ("P1", "P1", "P2", "P10", "P54")
  assert source.parts == ("train", "train", "train", "train", "test")
  example = source[1]
  assert example.image.shape == (*SHAPE, 2) and example.domain == "MSLesSeg"
  np.testing.assert_array_equal(example.image[0, 0, 0], [11, 10])
  np.testing.assert_array_equal(example.label, lesion(1))
  assert len(source.manifest()["files"]) == 15


def test_ljubljana_takes_the_consensus_on_the_common_grid(tmp_path):
  source = ljubljana(fake_ljubljana(tmp_path), modalities=("FLAIR", "T2W"), normalise="none")
  assert source.names == source.subjects == ("patient01", "patient02", "patient11")
  assert source[2].image.shape == (*SHAPE, 2) and source[2].image[0, 0, 0, 0] == 11
  np.testing.assert_array_equal(source[1].label, lesion(2))
  assert len(ljubljana(tmp_path, space="raw")) == 3


def test_axes_are_brought_to_right_anterior_superior(tmp_path):
  folder = tmp_path / "cross_sectional" / "coregistered" / "patient01"
  flipped = np.diag([-1.0, 1, 1, 1])
  ramp = np.arange(60, dtype=np.float32).reshape(SHAPE)
  write(folder / "FLAIR.nii.gz", ramp, flipped)
  write(folder / "consensus_gt.nii.gz", lesion(0), flipped)
  example = ljubljana(tmp_path, normalise="none")[0]
  np.testing.assert_array_equal(example.image[..., 0], ramp[::-1])
  np.testing.assert_array_equal(example.label, lesion(0)[::-1])


def test_incomplete_downloads_are_refused(tmp_path):
  with pytest.raises(InputError, match="cases of MSLesSeg in .* got none"):
    mslesseg(tmp_path)
  root = fake_mslesseg(tmp_path / "a")
  (root / "train/P2/T1/P2_T1_T2.nii.gz").unlink()
  assert len(mslesseg(root)) == 5
  with pytest.raises(InputError, match="no .*P2_T1_T2.nii.gz"):
    mslesseg(root, modalities=("T2",))
  with pytest.raises(InputError, match="modality"):
    mslesseg(root, modalities=("PD",))
  write(root / "test/P54/P54_MASK.nii.gz", 2 * lesion(0))
  with pytest.raises(InputError, match="0 and 1 in"):
    mslesseg(root)[4]
