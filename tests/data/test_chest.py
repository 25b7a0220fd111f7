"""CheXpert and ChestX-ray14: policies for uncertain labels, views, people, shared classes."""

import numpy as np
import pytest

from medjax import data, types
from medjax.check import InputError
from medjax.data.sets.chest import (
  CHEST_XRAY14_CLASSES,
  CHEXPERT_CLASSES,
  MIXED_POLICY,
  chest_xray14,
  chexpert,
  shared_classes,
)
from medjax.types import IGNORE
from tests.data import fake_downloads

TWO = ("Edema", "Cardiomegaly")


def test_chexpert_labels_views_and_patients(tmp_path):
  source = chexpert(fake_downloads.chexpert(tmp_path), size=(10, 12))
  assert isinstance(source, types.Source)
  assert len(source) == 4  # no lateral view
  assert source.parts == ("train", "train", "train", "valid")
  assert source.subjects == ("patient00001", "patient00001", "patient00002", "patient64541")
  first = source[0]
  assert first.image.shape == (10, 12, 1)
  np.testing.assert_allclose(first.image, 40 / 255, atol=2 / 255)
  assert first.label.tolist() == [int(name == "Cardiomegaly") for name in CHEXPERT_CLASSES]
  assert len(chexpert(tmp_path, views=("frontal", "lateral"))) == 5
  assert len(chexpert(tmp_path, views=("PA",))) == 1


@pytest.mark.parametrize(
  ("uncertain", "want"),
  [("ones", 1), ("zeros", 0), ("ignore", IGNORE), (MIXED_POLICY, 1), ({}, -1)],
)
def test_uncertain_labels_follow_the_policy(tmp_path, uncertain, want):
  source = chexpert(fake_downloads.chexpert(tmp_path), class_names=TWO, uncertain=uncertain)
  assert source.label(1).tolist() == [want, 0]
  assert source.label(0).tolist() == [0, 1]


def test_unmentioned_is_absent_unless_it_is_left_out(tmp_path):
  source = chexpert(fake_downloads.chexpert(tmp_path), class_names=TWO, blank="ignore")
  assert source.label(0).tolist() == [IGNORE, 1]


def test_chest_xray14_labels_parts_and_patients(tmp_path):
  source = chest_xray14(fake_downloads.chest_xray14(tmp_path), size=(8, 8))
  assert isinstance(source, types.Source)
  assert source.subjects == ("1", "1", "2") and source.parts == ("train", "train", "test")
  names = [
    [c for c, v in zip(source.class_names, source.label(i), strict=True) if v] for i in (0, 1, 2)
  ]
  assert names == [["Cardiomegaly", "Pleural Effusion"], [], ["Pleural Thickening"]]
  assert source[2].image.shape == (8, 8, 1)
  assert source.indices("test") == (2,)
  assert len(chest_xray14(tmp_path, views=("AP",))) == 1


def test_patients_do_not_cross_a_split_and_sets_share_seven_classes(tmp_path):
  source = chexpert(fake_downloads.chexpert(tmp_path))
  splits = data.split_subjects(source.subjects, seed=1)
  parts = [set(splits.indices(part, source.subjects)) for part in splits.parts]
  assert set.union(*parts) == set(range(4)) and sum(map(len, parts)) == 4
  shared = shared_classes(CHEXPERT_CLASSES, CHEST_XRAY14_CLASSES)
  assert shared == tuple(
    name for name in CHEXPERT_CLASSES if name in shared_classes(CHEST_XRAY14_CLASSES, shared)
  )
  assert set(shared) == {
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema"),
    *("Pneumonia", "Pneumothorax", "Pleural Effusion"),
  }
  other = chest_xray14(fake_downloads.chest_xray14(tmp_path / "nih"), class_names=shared)
  assert other.class_names == chexpert(tmp_path, class_names=shared).class_names


def test_what_is_missing_is_said_and_may_be_skipped(tmp_path):
  root = fake_downloads.chest_xray14(tmp_path)
  before = chest_xray14(root).manifest()
  (root / "images_002" / "images" / "00000002_000.png").unlink()
  with pytest.raises(InputError, match='1 missing, the first 00000002_000; .*missing="skip"'):
    chest_xray14(root)
  kept = chest_xray14(root, missing="skip")
  assert len(kept) == 2 and kept.manifest()["options"] != before["options"]


def test_a_cut_row_and_a_shifted_row_are_refused_and_no_label_is_guessed(tmp_path):
  root = fake_downloads.chexpert(tmp_path)
  table = root / "CheXpert-v1.0-small" / "train.csv"
  whole = table.read_text()
  header, first, *others = whole.splitlines()
  cut = ",".join(first.split(",")[:8])
  shifted = first.replace(",1.0", ",1,0")  # a decimal comma is one cell too many
  for line, count in ((cut, 8), (shifted, 20)):
    table.write_text("\n".join([header, line, *others]))
    with pytest.raises(InputError, match=f"19 cells in line 2 of .*train.csv, got {count}"):
      chexpert(root)
  table.write_text(whole + first.replace("1.0", "0.0") + "\n")
  with pytest.raises(InputError, match="one place for picture .*, got line 2 of .* and line 6 of"):
    chexpert(root)


def test_two_pictures_of_one_name_are_refused(tmp_path):
  root = fake_downloads.chest_xray14(tmp_path)
  picture = next(root.rglob("00000002_000.png"))
  (root / "thumbnails").mkdir()
  (root / "thumbnails" / picture.name).write_bytes(picture.read_bytes())
  with pytest.raises(InputError, match="one picture 00000002_000.png of line 4 of .*thumbnails"):
    chest_xray14(root)
  (root / "thumbnails" / picture.name).rename(root / "thumbnails" / "other.png")
  assert len(chest_xray14(root)) == 3


def test_a_picture_in_both_lists_is_refused(tmp_path):
  root = fake_downloads.chest_xray14(tmp_path)
  both = (root / "train_val_list.txt").read_text() + "\n" + (root / "test_list.txt").read_text()
  (root / "test_list.txt").write_text(both)
  with pytest.raises(InputError, match="00000001_000.png in both"):
    chest_xray14(root)


def test_bad_tables_are_refused(tmp_path):
  with pytest.raises(InputError, match="train.csv"):
    chexpert(tmp_path)
  with pytest.raises(InputError, match="Data_Entry_2017"):
    chest_xray14(tmp_path)
  root = fake_downloads.chexpert(tmp_path)
  with pytest.raises(InputError, match="classes among"):
    chexpert(root, class_names=("Hernia",))
  with pytest.raises(InputError, match="views"):
    chexpert(root, views=("oblique",))
  with pytest.raises(InputError, match="uncertain"):
    chexpert(root, uncertain={"Edema": "maybe"})
  table = root / "CheXpert-v1.0-small" / "train.csv"
  table.write_text(table.read_text().replace("-1.0", "-2.0"))
  with pytest.raises(InputError, match="for Edema in line 3 of"):
    chexpert(root)
  table.write_text("Path,Edema\n")
  with pytest.raises(InputError, match="none named Frontal/Lateral"):
    chexpert(root)
