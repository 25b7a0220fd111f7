"""python -m medjax.synth: another scanner's image on the grid of the file."""

import nibabel
import numpy as np
import pytest

from medjax import cli
from medjax.synth import __main__ as command

AFFINE = np.array([[-1.0, 0, 0, 8], [0, 0, 2.0, -9], [0, -1.5, 0, 7], [0, 0, 0, 1]])


def call(*args):
  cli.command(command.Config, command.run, command.__doc__, args=[str(a) for a in args])


def write(path, array, affine=AFFINE):
  nibabel.save(nibabel.Nifti1Image(array, affine), path)
  return path


@pytest.fixture
def scan(tmp_path):
  values = np.random.default_rng(0).uniform(10, 100, (10, 12, 8)).astype(np.float32)
  return write(tmp_path / "in.nii.gz", values)


def test_the_grid_stays_and_a_seed_fixes_the_rest(scan, tmp_path, capsys):
  outs = [tmp_path / f"{n}.nii.gz" for n in range(3)]
  for out, seed in zip(outs, (1, 1, 2), strict=True):
    call("--site", "ghosting-t1", scan, out, "--seed", seed)
  first, again, other = (nibabel.load(out) for out in outs)
  np.testing.assert_array_equal(first.affine, AFFINE)
  assert first.shape == (10, 12, 8)
  np.testing.assert_array_equal(first.get_fdata(), again.get_fdata())
  assert np.abs(first.get_fdata() - other.get_fdata()).max() > 0
  said = capsys.readouterr().out.splitlines()
  assert "contrast of the input kept" in said[0]
  assert "ghosting" in said[0]


def test_labels_make_the_contrast_new(scan, tmp_path, capsys):
  label = np.zeros((10, 12, 8), np.int16)
  label[2:8, 2:10, 1:7] = 1
  label[4:6, 4:8, 2:6] = 2
  labels = write(tmp_path / "labels.nii.gz", label)
  out = tmp_path / "out.nii.gz"
  words = ["--labels", labels, "--tissues", "1=csf", "2=white_matter"]
  call("--site", "research-t1", scan, out, *words)
  got = nibabel.load(out).get_fdata()
  assert got[label == 2].mean() > 2 * got[label == 1].mean() > 2 * got[label == 0].mean()
  assert "contrast by MP-RAGE" in capsys.readouterr().out


def test_the_list_names_every_site(capsys):
  call("--list")
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 1 + len(command.sites.SITES)


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--site", "nowhere", "IN", "OUT"], "site to be one of"),
    (["IN", "OUT"], "--site NAME"),
    (["--site", "research-t1"], "IN.nii.gz OUT.nii.gz"),
    (["--site", "research-t1", "IN", "IN"], "output of its own"),
    (["--site", "research-t1", "NEGATIVE", "OUT"], "values of 0 or more"),
    (["--site", "research-t1", "IN", "OUT", "--labels", "SMALL"], "one grid"),
    (["--site", "research-t1", "IN", "OUT", "--labels", "FLIPPED"], "on one grid"),
    (["--site", "research-t1", "IN", "OUT", "--labels", "HALVES"], "whole numbers"),
    (["--site", "research-t1", "IN", "NOWHERE"], "a folder"),
    (["--site", "research-t1", "IN", "OUT", "--labels", "IN", "--tissues", "csf"], "VALUE=TISSUE"),
  ],
)
def test_bad_input_gets_one_line(scan, tmp_path, words, message, capsys):
  files = {
    "IN": scan,
    "OUT": tmp_path / "out.nii.gz",
    "NEGATIVE": write(tmp_path / "n.nii.gz", -np.ones((4, 4, 4), np.float32)),
    "FLIPPED": write(
      tmp_path / "f.nii.gz", np.zeros((10, 12, 8), np.int16), AFFINE @ np.diag([-1, 1, 1, 1])
    ),
    "HALVES": write(tmp_path / "h.nii.gz", np.full((10, 12, 8), 1.5, np.float32)),
    "NOWHERE": tmp_path / "nowhere" / "out.nii.gz",
    "SMALL": write(tmp_path / "s.nii.gz", np.zeros((4, 4, 4), np.int16)),
  }
  with pytest.raises(SystemExit) as stop:
    call(*(files.get(word, word) for word in words))
  assert stop.value.code == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert not files["OUT"].exists()
