"""The M&Ms layout, on files written here: the challenge's own need a registration."""

import csv

import numpy as np
import pytest

from medjax.check import InputError
from medjax.data.formats.nifti import write_nifti
from medjax.data.sets.mnms import COLUMNS, MnMs, read_info
from medjax.types import Source

AFFINE = np.diag([1.25, 1.25, 10.0, 1.0])
PATIENTS = {  # code: vendor, ED, ES
  "A0S9V9": ("A", 0, 2),
  "B1T2X3": ("B", 1, 3),
  "C4D5E6": ("C", 3, 0),
}


def write_info(root, *, columns=COLUMNS, rows=None):
  rows = rows or [[c, f"maker {v}", v, "1", ed, es] for c, (v, ed, es) in PATIENTS.items()]
  with open(root / "info.csv", "w", newline="", encoding="utf-8-sig") as file:
    table = csv.writer(file)
    table.writerow(["", *columns, "Age"])
    table.writerows([i, *row, 60] for i, row in enumerate(rows))


@pytest.fixture
def root(tmp_path):
  """Voxel value 100 patient + frame; the label of frame t holds class t, of two frames only."""
  write_info(tmp_path)
  for number, (code, (vendor, *annotated)) in enumerate(PATIENTS.items()):
    part = "Training/Unlabeled" if vendor == "C" else "Training/Labeled"
    folder = tmp_path / part / code
    folder.mkdir(parents=True)
    image = np.broadcast_to(100.0 * number + np.arange(4), (5, 6, 3, 4)).astype(np.float32)
    label = np.zeros(image.shape, np.int16)
    for time in annotated:
      label[1:4, 1:4, 1, time] = time
    write_nifti(folder / f"{code}_sa.nii.gz", image, AFFINE)
    if vendor != "C":
      write_nifti(folder / f"{code}_sa_gt.nii.gz", label, AFFINE)
  return tmp_path


def test_a_case_is_a_patient_at_an_annotated_time(root):
  source = MnMs(root, part="Training/Labeled")
  assert isinstance(source, Source)
  assert source.names == ("A0S9V9_ED", "A0S9V9_ES", "B1T2X3_ED", "B1T2X3_ES")
  assert source.domains == ("A", "A", "B", "B")
  assert source.subjects == ("A0S9V9", "A0S9V9", "B1T2X3", "B1T2X3")
  for index, (patient, time) in enumerate([(0, 0), (0, 2), (1, 1), (1, 3)]):
    case = source[index]
    np.testing.assert_array_equal(case.image, np.full((5, 6, 3, 1), 100 * patient + time))
    assert case.label is not None and case.label.shape == (5, 6, 3)
    assert case.label[2, 2].tolist() == [0, time, 0]
    assert case.spacing == (1.25, 1.25, 10.0)


def test_vendors_and_all_frames_for_a_style_pool(root):
  pool = MnMs(root, vendors=("A", "C"), frames="all")
  assert pool.class_names == ()
  assert len(pool) == 8
  assert [frame.phase for frame in pool.frames] == ["ED", "", "ES", "", "ES", "", "", "ED"]
  assert pool.names[1] == "A0S9V9_t01"
  last = pool[7]
  assert last.image is not None and last.image[0, 0, 0, 0] == 203 and last.label is None


def test_the_manifest_names_files_and_people(root):
  manifest = MnMs(root, part="Training/Labeled").manifest()
  assert len(manifest["files"]) == 5  # two images, two label maps, the information file
  assert manifest["subjects"] == ["A0S9V9", "A0S9V9", "B1T2X3", "B1T2X3"]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({}, "label file for each patient, got 1 missing"),
    ({"part": "Testing"}, "Testing, got nothing there"),
    ({"part": "Training/Labeled", "vendors": ("D",)}, "of vendors D.*vendors in info.csv are A, B"),
    ({"info": "absent.csv"}, "absent.csv"),
  ],
)
def test_what_is_refused(root, arguments, message):
  with pytest.raises(InputError, match=message):
    MnMs(root, **arguments)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"columns": ("External code", "VendorName", "Vendor", "Centre", "ed", "ES")}, "none named ED"),
    ({"rows": [["A0S9V9", "m", "A", "1", "0", "end"]]}, "'ES' in line 2 of .*info.csv"),
    ({"rows": [["A0S9V9", "m", "A", "1", "0", ""]]}, "'ES' in line 2"),
    ({"rows": [["A0S9V9", "m", "A", "1", "inf", "9"]]}, "'ED' in line 2 of .*info.csv, got 'inf'"),
    ({"rows": [["A0S9V9", "m", "A", "1", "0", "9.7"]]}, "a whole number from 0 as 'ES' in line 2"),
    ({"rows": [["A0S9V9", "m", "A", "1", "-1", "9"]]}, "a whole number from 0 as 'ED' in line 2"),
    ({"rows": [["A0S9V9", "m", "", "1", "0", "1"]]}, "a value of 'Vendor' in line 2"),
    ({"rows": [["A0S9V9", "m", "A", "1", "0", "1"]] * 2}, "one place for patient 'A0S9V9'"),
  ],
)
def test_an_information_file_that_cannot_be_used(tmp_path, changes, message):
  write_info(tmp_path, **changes)
  with pytest.raises(InputError, match=message):
    read_info(tmp_path / "info.csv")


def test_a_patient_without_a_line_and_a_frame_too_late(root):
  write_info(root, rows=[["A0S9V9", "m", "A", "1", "0", "9"]])
  with pytest.raises(InputError, match="a line for B1T2X3"):
    MnMs(root, part="Training/Labeled")
  for path in (root / "Training/Labeled/B1T2X3").iterdir():
    path.unlink()
  source = MnMs(root, part="Training/Labeled")
  with pytest.raises(InputError, match="a frame 9 in .* got 4 frames"):
    source[1]


def test_a_label_outside_the_classes(root):
  path = root / "Training/Labeled/A0S9V9/A0S9V9_sa_gt.nii.gz"
  write_nifti(path, np.full((5, 6, 3, 4), 4), AFFINE)
  with pytest.raises(InputError, match="label values among .*A0S9V9_sa_gt.nii.gz, got 4"):
    MnMs(root, part="Training/Labeled")[0]
