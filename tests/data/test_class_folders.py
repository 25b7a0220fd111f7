"""Pictures in class folders: names, people, parts, duplicates, damaged files."""

import zlib

import numpy as np
import pytest
from PIL import Image

from medjax import data, types
from medjax.check import InputError
from medjax.data.sets.class_folders import ClassFolders, Identity, KermanyNames, kermany


def write(path, *, shape=(40, 60), mode="L"):
  """A smooth random picture, so that JPEG keeps it; another one for every path."""
  random = np.random.default_rng(zlib.crc32(str(path).encode()))
  channels = (3,) if mode == "RGB" else ()
  coarse = random.integers(0, 255, (5, 5, *channels)).astype(np.uint8)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC).save(path)
  return path


KERMANY = {
  "train/NORMAL": ("IM-0115-0001", "IM-0117-0001", "NORMAL2-IM-0115-0001-0002"),
  "train/PNEUMONIA": ("person1_bacteria_1", "person2_bacteria_3", "person120_virus_226"),
  "val/NORMAL": ("NORMAL2-IM-1427-0001",),
  "val/PNEUMONIA": ("person1946_bacteria_4874",),
  "test/NORMAL": ("IM-0001-0001",),
  "test/PNEUMONIA": ("person1_virus_6", "person120_bacteria_570"),
}


@pytest.fixture
def tree(tmp_path):
  for folder, stems in KERMANY.items():
    for stem in stems:
      write(tmp_path / folder / f"{stem}.jpeg")
  (tmp_path / "train" / "NORMAL" / ".DS_Store").write_bytes(b"x")
  (tmp_path / "train" / "NORMAL" / "._IM-0115-0001.jpeg").write_bytes(b"x")
  (tmp_path / "train" / "__MACOSX").mkdir()
  return tmp_path


def stems(source, indices):
  return {source.names[i].rpartition("/")[2] for i in indices}


def test_two_and_three_classes_and_persons_from_the_names(tree):
  source = kermany(tree, size=(8, 10))
  assert isinstance(source, types.Source)
  assert source.class_names == ("NORMAL", "PNEUMONIA") and source.channel_names == ("grey",)
  labels = {name: int(source[i].label) for i, name in enumerate(source.names)}
  assert all(label == ("PNEUMONIA" in name) for name, label in labels.items())
  assert source[0].image.shape == (8, 10, 1) and source[0].image.dtype == np.float32
  three = kermany(tree, num_classes=3, size=(8, 8))
  assert three.class_names == ("NORMAL", "BACTERIA", "VIRUS")
  for i, name in enumerate(three.names):
    assert three[i].label == (1 if "bacteria" in name else 2 if "virus" in name else 0)
  people = dict(zip((n.rpartition("/")[2] for n in source.names), source.subjects, strict=True))
  assert people["IM-0115-0001"] != people["NORMAL2-IM-0115-0001-0002"]
  assert people["person1_bacteria_1"] == people["person1_virus_6"] == "person1"


def test_whoever_is_tested_is_not_trained_on(tree):
  source = kermany(tree, size=(8, 8))
  assert stems(source, source.indices("test")) == {
    *KERMANY["test/NORMAL"],
    *KERMANY["test/PNEUMONIA"],
  }
  assert stems(source, source.indices("train")) == {
    "IM-0115-0001",
    "IM-0117-0001",
    "NORMAL2-IM-0115-0001-0002",
    "person2_bacteria_3",
    "NORMAL2-IM-1427-0001",  # Kaggle's val/ belongs to train
    "person1946_bacteria_4874",
  }
  assert source.num_left_out("train") == 2 and source.num_left_out("test") == 0
  train, test = ({source.subjects[i] for i in source.indices(p)} for p in ("train", "test"))
  assert not train & test
  apart = kermany(tree, size=(8, 8), persons="series")
  assert apart.num_left_out("train") == 0
  assert "person120-virus" in apart.subjects and "person120-bacteria" in apart.subjects


def test_identical_pictures_are_one_person_whatever_their_names(tree):
  copy = (tree / "test" / "NORMAL" / "IM-0001-0001.jpeg").read_bytes()
  (tree / "train" / "NORMAL" / "IM-0117-0001.jpeg").write_bytes(copy)
  source = kermany(tree, size=(8, 8))
  assert source.num_left_out("train") == 3
  assert "IM-0117-0001" not in stems(source, source.indices("train"))
  data.check_content(  # the library's own check agrees that nothing crosses
    source,
    data.Splits(
      {p: tuple({source.subjects[i] for i in source.indices(p)}) for p in ("train", "test")}
    ),
  )


def test_names_of_version_3():
  names = KermanyNames(3, "number")
  found = names(Identity("train", "PNEUMONIA", ""), "BACTERIA-1008087-0001")
  assert found == Identity("train", "BACTERIA", "patient1008087")
  found = names(Identity("test", "NORMAL", ""), "NORMAL-1003233-0001")
  assert found == Identity("test", "NORMAL", "patient1003233")
  with pytest.raises(InputError, match="VIRUS-1-0001 in PNEUMONIA, got it in NORMAL"):
    names(Identity("test", "NORMAL", ""), "VIRUS-1-0001")
  with pytest.raises(InputError, match="got 'cat'; read other folders with ClassFolders"):
    names(Identity("test", "NORMAL", ""), "cat")


def test_any_folders_without_parts_in_colour(tmp_path):
  for name in ("b/1.png", "b/2.PNG", "a/1.jpg"):
    write(tmp_path / name, mode="RGB")
  source = ClassFolders(tmp_path, size=(16, 12), colour=True)
  assert source.class_names == ("a", "b") and source.parts == ("", "", "")
  assert source.names == ("a/1", "b/1", "b/2") and source.indices("") == (0, 1, 2)
  assert source[2].image.shape == (16, 12, 3) and len(set(source.subjects)) == 3
  manifest = source.manifest()
  assert set(manifest["files"]) == {"a/1.jpg", "b/1.png", "b/2.PNG"}
  assert manifest["options"]["size"] == [16, 12]


def test_pictures_are_cut_around_their_middle_and_averaged(tmp_path):
  # 32 x 64, black outside of the middle square, in which each quarter has its own grey
  picture = np.zeros((32, 64), np.uint8)
  values = np.array([[40, 80], [120, 200]], np.uint8)
  picture[:, 16:48] = values.repeat(16, 0).repeat(16, 1)
  (tmp_path / "a").mkdir()
  Image.fromarray(picture).save(tmp_path / "a" / "1.png")
  write(tmp_path / "b" / "1.png")
  image = ClassFolders(tmp_path, size=(2, 2))[0].image
  # Weights fall from 1 in the middle of a quarter to 0 one quarter (16 pixels) away. Down, the
  # picture ends with its quarters: 12 of 14 parts are a quarter's own, 2 the other's. Across, it
  # goes on: 12 of 16 are its own, 2 the other's, 2 black.
  down, across = np.array([[6, 1], [1, 6]]) / 7, np.array([[6, 1], [1, 6]]) / 8
  want = down @ values @ across
  np.testing.assert_allclose(image[..., 0] * 255, want, atol=1)  # rounded after each direction


@pytest.mark.parametrize("ending", ["jpeg", "png"])
def test_a_damaged_file_is_named(tmp_path, ending):
  write(tmp_path / "a" / f"1.{ending}")
  path = write(tmp_path / "b" / f"2.{ending}")
  content = path.read_bytes()
  for length in (0, 20, len(content) // 2):
    path.write_bytes(content[:length])
    with pytest.raises(InputError, match=rf"a readable picture .*b/2.{ending}, got a damaged"):
      ClassFolders(tmp_path)


def test_bad_folders(tmp_path):
  with pytest.raises(InputError, match="nothing there"):
    ClassFolders(tmp_path / "x")
  with pytest.raises(InputError, match="pictures .* got none"):
    ClassFolders(tmp_path)
  write(tmp_path / "a" / "1.png")
  with pytest.raises(InputError, match="two or more classes, a, in .*, got 1"):
    ClassFolders(tmp_path)
  write(tmp_path / "NORMAL" / "2.png")
  with pytest.raises(InputError, match="names like IM-0115-0001"):
    kermany(tmp_path)
  Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "a" / "1.png")
  with pytest.raises(InputError, match="8 bits a channel in .*a/1.png, got mode I;16"):
    ClassFolders(tmp_path)


def test_class_ids_are_those_of_the_training_set_also_without_a_class(tmp_path):
  for name in ("train/benign/1.png", "train/malignant/1.png", "train/normal/1.png"):
    write(tmp_path / name)
  for name in ("new/malignant/7.png", "new/normal/8.png"):
    write(tmp_path / name)
  (tmp_path / "new" / "unsure").mkdir()
  train = ClassFolders(tmp_path / "train")
  new = ClassFolders(tmp_path / "new", class_names=train.class_names)
  assert new.class_names == ("benign", "malignant", "normal")
  assert [int(new[i].label) for i in range(2)] == [1, 2]
  assert ClassFolders(tmp_path / "new").class_names == ("malignant", "normal", "unsure")
  with pytest.raises(InputError, match="others: malignant"):
    ClassFolders(tmp_path / "new", class_names=("benign", "normal"))


def test_people_are_found_by_a_pattern_and_unknown_without(tmp_path):
  for name in ("a/p1_1.png", "a/p2_1.png", "b/p1_2.png"):
    write(tmp_path / name)
  source = ClassFolders(tmp_path, subject_pattern=r"(p\d)_")
  assert source.subjects == ("p1", "p2", "p1") and source.knows_people
  assert not ClassFolders(tmp_path).knows_people
  assert source.manifest()["options"]["subject_pattern"] == r"(p\d)_"


def test_pictures_are_in_colour_if_one_of_them_is(tmp_path):
  write(tmp_path / "a" / "1.png")
  write(tmp_path / "b" / "1.png")
  assert ClassFolders(tmp_path).channel_names == ("grey",)
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "b" / "2.png")
  assert ClassFolders(tmp_path).channel_names == ("R", "G", "B")
  assert ClassFolders(tmp_path, colour=False)[0].image.shape[-1] == 1


def test_two_pictures_of_one_name_are_refused(tmp_path):
  for name in ("a/1.png", "a/1.jpg", "b/1.png"):
    write(tmp_path / name)
  with pytest.raises(InputError, match="one picture a/1, got .*a/1.jpg and .*a/1.png"):
    ClassFolders(tmp_path)
