"""A Source out of any table of pictures: labels by column, people, parts; what is refused."""

import numpy as np
import pytest
from PIL import Image

from medjax import data, types
from medjax.check import InputError
from medjax.types import IGNORE

HEAD = "image,patient,part,edema,fracture,kind\n"
ROWS = [
  "scans/1.png,p1,train,1,0,benign",
  "scans/2.png,p1,train,0,-1,benign",
  "scans/3.png,p2,test,0,1,malignant",
]


def write(folder, rows=ROWS):
  (folder / "scans").mkdir(exist_ok=True)
  for number in (1, 2, 3):
    picture = np.full((6, 8), 40 * number, np.uint8)
    Image.fromarray(picture).save(folder / "scans" / f"{number}.png")
  path = folder / "films.csv"
  path.write_text(HEAD + "\n".join(rows) + "\n")
  return path


def test_findings_people_and_parts_are_columns(tmp_path):
  source = data.picture_table(
    write(tmp_path), findings=("fracture", "edema"), subject="patient", part="part", size=(4, 4)
  )
  assert isinstance(source, types.Source)
  assert source.class_names == ("fracture", "edema") and source.subjects == ("p1", "p1", "p2")
  assert [source[i].label.tolist() for i in range(3)] == [[0, 1], [IGNORE, 0], [1, 0]]
  np.testing.assert_allclose(source[2].image, 120 / 255, rtol=1e-6)
  assert source[2].image.shape == (4, 4, 1) and source.indices("test") == (2,)
  assert list(source.manifest()["files"]) == ["films.csv"]


def test_a_class_is_a_column_of_names_whose_ids_may_be_given(tmp_path):
  path = write(tmp_path)
  source = data.picture_table(path, label="kind", size=(4, 4))
  assert source.class_names == ("benign", "malignant") and not source.knows_people
  assert [int(source[i].label) for i in range(3)] == [0, 0, 1]
  names = ("unsure", "malignant", "benign")
  again = data.open_source(path, label="kind", class_names=names, size=(4, 4))
  assert [int(again[i].label) for i in range(3)] == [2, 2, 1]


@pytest.mark.parametrize(
  ("rows", "options", "message"),
  [
    (ROWS, {}, r"findings=\(COLUMN, ...\) or label=COLUMN, got neither, of the columns image, pa"),
    (ROWS, {"findings": ("oedema",)}, "none named oedema"),
    (["scans/1.png,p,train,,0,x"], {"findings": ("edema",)}, "1, 0 or -1 for edema in line 2 of"),
    (["scans/1.png,p,train,2,0,x"], {"findings": ("edema",)}, "for edema in line 2 of .* got '2'"),
    ([*ROWS, ROWS[0]], {"label": "kind"}, "one place for picture 'scans/1', got line 2 .* line 5"),
    (ROWS, {"label": "kind", "class_names": ("benign",)}, "among benign in line 4 .* got malig"),
    (["scans/9.png,p,train,1,0,x"], {"label": "kind"}, "1 missing, the first scans/9"),
  ],
)
def test_what_is_refused(tmp_path, rows, options, message):
  with pytest.raises(InputError, match=message):
    data.picture_table(write(tmp_path, rows), **options)


def test_blank_cells_may_be_absent_or_unknown(tmp_path):
  path = write(tmp_path, ["scans/1.png,p,train,,0,x"])
  for blank, want in (("zeros", 0), ("ignore", IGNORE)):
    source = data.picture_table(path, findings=("edema",), blank=blank, size=(4, 4))
    assert source[0].label.tolist() == [want]
