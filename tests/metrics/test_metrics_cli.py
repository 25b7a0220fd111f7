"""python -m medjax.metrics: folders in, table, JSON and page out; what does not fit is refused."""

import json

import nibabel
import numpy as np
import pytest

from medjax import cli
from medjax.data.formats import png
from medjax.metrics import __main__ as command
from medjax.metrics import case_table

AFFINE = np.array([[-1.25, 0, 0, 8], [0, 0, 10.0, -9], [0, -0.5, 0, 7], [0, 0, 0, 1.0]])


def call(*args):
  cli.command(command.Config, command.run, command.__doc__, args=[str(a) for a in args])


def write(path, array, affine=AFFINE):
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), path)


@pytest.fixture
def folders(tmp_path):
  """An nnU-Net folder with values 0, 3, 7 and predictions; the second case misses 7."""
  root, predictions = tmp_path / "set", tmp_path / "predictions"
  label = np.zeros((9, 8, 6), int)
  label[1:6, 2:6, 1:4] = 3
  label[6:8, 2:6, 1:4] = 7
  for name in ("a", "b"):
    write(root / "labelsTr" / f"{name}.nii.gz", label)
  write(predictions / "a.nii.gz", np.roll(label, 1, 2))
  write(predictions / "b.nii.gz", np.where(label == 7, 0, label))
  content = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
  content["labels"] = {"background": 0, "organ": 3, "lesion": 7}
  (root / "dataset.json").write_text(json.dumps(content))
  return predictions, root / "labelsTr"


def test_a_folder_is_measured_in_mm(folders, capsys):
  """Case a is moved along the last array axis, whose voxels are 10 mm."""
  predictions, truth = folders
  call(predictions, truth, "--tolerance_mm", 3)
  rows = case_table.read_cases(predictions / "metrics" / "cases.csv")
  assert [row["case"] for row in rows] == ["a", "b"]
  assert [row["hausdorff/organ"] for row in rows] == [10, 0]
  assert [row["hausdorff/lesion"] for row in rows] == [10, np.inf]
  assert [row["dice/lesion"] for row in rows] == [pytest.approx(2 / 3), 0]
  content = json.loads((predictions / "metrics" / "summary.json").read_text())
  lesion = {r["metric"]: r for r in content["summary"] if r["structure"] == "lesion"}
  assert (lesion["hausdorff"]["used"], lesion["hausdorff"]["missed"]) == (1, 1)
  assert content["tolerance_mm"] == 3
  lines = capsys.readouterr().out.splitlines()
  table = [line.split() for line in lines if line.startswith(("structure", "organ", "lesion"))]
  assert [line[0] for line in table] == ["structure", "organ", "lesion"]
  assert table[2][-4:] == ["1", "1", "0", "0"]  # used, missed, invented, absent
  page = (predictions / "metrics" / "report.html").read_text()
  assert page.count("data:image/png") == 4 and "b, lesion: missed" in page


def test_partial_predictions_and_strangers_are_listed(folders, tmp_path, capsys):
  predictions, truth = folders
  write(predictions / "c.nii.gz", np.zeros((2, 2, 2)))
  (predictions / "b.nii.gz").unlink()
  output = tmp_path / "elsewhere"
  call(predictions, truth, "--partial", "--output", output, "--pictures", 0)
  out = capsys.readouterr().out
  assert "no prediction: b\n" in out and "no truth: c\n" in out
  content = json.loads((output / "summary.json").read_text())
  assert content["cases"] == 1 and content["without_truth"] == ["c"]
  assert not (predictions / "metrics").exists()


def test_pictures_and_flat_volumes_are_two_dimensional(tmp_path):
  """Without a dataset.json classes are named by value; a volume of one slice is measured in 2D."""
  label = np.zeros((12, 10), int)
  label[3:8, 2:7] = 5
  moved = np.roll(label, 2, 1)
  for folder, array in (("truth", label), ("predicted", moved)):
    (tmp_path / folder).mkdir()
    png.write_png(tmp_path / folder / "p.png", array)
    write(tmp_path / folder / "v.nii", array[:, :, None])
  call(tmp_path / "predicted", tmp_path / "truth", "--output", tmp_path / "out")
  flat, volume = case_table.read_cases(tmp_path / "out" / "cases.csv")
  assert flat["hausdorff/label_5"] == 2
  assert volume["hausdorff/label_5"] == 1  # 0.5 mm along the second array axis


def test_values_that_only_one_side_has_are_no_missed_structures(tmp_path, capsys):
  """Masks of 0 and 255 against predictions of 0 and 1: nobody missed anything."""
  label = np.zeros((12, 10), int)
  label[3:8, 2:7] = 1
  for folder, array in (("truth", 255 * label), ("predicted", label)):
    (tmp_path / folder).mkdir()
    png.write_png(tmp_path / folder / "p.png", array)
  with pytest.raises(SystemExit):
    call(tmp_path / "predicted", tmp_path / "truth")
  error = capsys.readouterr().err
  assert "label values of" in error and "(255)" in error and "got 1; give both" in error


@pytest.mark.parametrize(
  ("case", "message"),
  [
    ("shape", "a.nii.gz of one shape"),
    ("affine", "a.nii.gz on one grid"),
    ("value", "label values among"),
    ("missing", "none for b"),
    ("empty", "label maps"),
    ("nowhere", "a folder"),
    ("twice", "one label map a"),
    ("image", "one label per voxel"),
    ("dataset", "dataset.json"),
  ],
)
def test_bad_input_gets_one_line(folders, tmp_path, case, message, capsys):
  predictions, truth = folders
  words = [predictions, truth]
  path = predictions / "a.nii.gz"
  label = np.zeros((9, 8, 6), int)
  if case == "shape":
    write(path, label[:-1])
  elif case == "affine":
    write(path, label, AFFINE + [[0, 0, 0, 1.0]] + np.zeros((4, 4)))
  elif case == "value":
    write(path, label + 4)
  elif case == "missing":
    (predictions / "b.nii.gz").unlink()
  elif case == "empty":
    words[1] = tmp_path
  elif case == "nowhere":
    words[0] = tmp_path / "nowhere"
  elif case == "twice":
    write(predictions / "a.nii", label)
  elif case == "image":
    write(path, np.zeros((9, 8, 6, 2)))
  else:
    words += ["--dataset", tmp_path]
  with pytest.raises(SystemExit) as stop:
    call(*words)
  assert stop.value.code == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1
  assert not (predictions / "metrics").exists()
