"""Pictures of one slide have one subject, and a picture that the table lacks is refused."""

import shutil

import pytest

from experiments import scanner_sets
from medjax import tables
from medjax.check import InputError
from tests.data.folders import real_set


def test_pictures_of_a_slide_stay_together(tmp_path):
  root = real_set("mitosis_amibr")
  source = scanner_sets.folder(root / "HamamatsuXR", 8, "patches.csv")
  lines = tables.read_table(root / "patches.csv")
  slides = {
    f"{x.filled('label')}/{x.filled('file').partition('.')[0]}": x.filled("slide")
    for x in lines
    if x.filled("scanner") == "HamamatsuXR"
  }
  assert len(source) == 255 and source.class_names == ("atypical", "normal")
  want = [f"HamamatsuXR {slides[name]}" for name in source.names]
  assert list(source.subjects) == want and len(set(want)) < 51
  (tmp_path / "S" / "normal").mkdir(parents=True)
  (tmp_path / "S" / "atypical").mkdir()
  for kind in ("normal", "atypical"):
    shutil.copy(next((root / "HamamatsuXR" / kind).iterdir()), tmp_path / "S" / kind / "1.png")
  (tmp_path / "patches.csv").write_text("scanner,label,file,slide\nS,normal,1.png,a\n")
  with pytest.raises(InputError, match="every picture of S, got none for atypical/1"):
    scanner_sets.folder(tmp_path / "S", 8, "patches.csv")
