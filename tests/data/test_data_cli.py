"""python -m medjax.data: list, inspect, prepare; recognised layouts; one line for bad input."""

import json

import numpy as np
import pytest
from PIL import Image

from medjax import cli
from medjax.check import InputError
from medjax.data import __main__ as command
from medjax.data.formats.nifti import write_nifti
from medjax.data.people import inspection
from medjax.data.sets import readers
from medjax.data.sets.cc359 import CC359
from medjax.data.sets.prepared import Prepared
from tests.data import fake_downloads, folders


def call(*words):
  cli.command(command.Config, command.run, None, args=[str(w) for w in words])


FAKES = {
  "cc359": lambda root: fake_downloads.cc359(root, zipped=True),
  "prostate": fake_downloads.prostate,
  "mslesseg": lambda root: fake_downloads.mslesseg(root, zipped=True),
  "ljubljana": fake_downloads.ljubljana,
  "chexpert": fake_downloads.chexpert,
  "chest_xray14": fake_downloads.chest_xray14,
  "nnunet": folders.nnunet,
  "nnunet_sites": lambda root: folders.nnunet(root / "site1").parent,
  "label_maps": lambda root: folders.nnunet(root) / "labelsTr",
}


@pytest.mark.parametrize("kind", FAKES)
def test_a_layout_is_recognised_and_opened(tmp_path, kind):
  root = FAKES[kind](tmp_path / "data")
  assert readers.recognise(root) == kind
  source = readers.open_source(root)
  assert len(source) > 0 and source[0].name


def test_the_list_says_what_each_reader_expects(capsys):
  call("list")
  printed = capsys.readouterr().out
  for name, reader in readers.READERS.items():
    assert f"{name}: {reader.what}" in printed
    assert all(line in printed for line in reader.layout)


def test_inspection_counts_by_hand(tmp_path):
  root = fake_downloads.cc359(tmp_path, zipped=False)
  sites = inspection.inspect(CC359(root, normalise="none"))
  assert [site.name for site in sites] == sorted(site.name for site in sites) and len(sites) == 6
  one = next(site for site in sites if site.name == "philips-1.5T")
  image, mask = fake_downloads.voxels(0)
  assert (one.cases, one.people, one.read) == (1, 1, 1)
  assert one.shapes == (fake_downloads.SHAPE,) * 2 and one.spacings == ((2.0, 1.0, 1.0),) * 2
  assert one.intensities == (image.min(), np.median(image), image.max())
  assert one.present == {"background": 1, "brain": 1}
  np.testing.assert_allclose(one.share["brain"], mask.mean())
  assert one.unknown == 0


def test_inspect_writes_a_page_and_a_summary(tmp_path, capsys):
  root = fake_downloads.prostate(tmp_path / "six")
  call("inspect", root, "--output", tmp_path / "pages", "--cases", 1)
  printed = capsys.readouterr().out
  assert "prostate: 12 cases of 12 people" in printed
  page = (tmp_path / "pages" / "report.html").read_text()
  assert page.count("<img ") == 6 and "RUNMC/Case00" in page
  summary = json.loads((tmp_path / "pages" / "summary.json").read_text())
  assert len(summary["manifest"]["files"]) == 24
  assert [site["read"] for site in summary["sites"]] == [1] * 6


def test_inspect_of_pictures_claims_no_people_and_takes_flags_of_their_reader(tmp_path, capsys):
  for number, name in enumerate(("a/p1_1.PNG", "a/p2_1.PNG", "b/p1_2.PNG")):
    (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((8, 8, 3), 40 * number, np.uint8)
    picture[:4] = 255
    Image.fromarray(picture).save(tmp_path / "set" / name)
  words = ("inspect", tmp_path / "set", "--output", tmp_path / "pages")
  call(*words)
  assert "class_folders: 3 cases of unknown people" in capsys.readouterr().out
  call(*words, "--subject_pattern", r"(p\d)_", "--colour", "yes", "--size", 4, 4)
  assert "3 cases of 2 people" in capsys.readouterr().out
  summary = json.loads((tmp_path / "pages" / "summary.json").read_text())
  assert summary["manifest"]["channel_names"] == ["R", "G", "B"]


def test_inspect_shows_the_values_of_the_files(tmp_path, capsys):
  root = folders.nnunet(tmp_path / "set", ("a",))
  path = root / "imagesTr" / "a_0000.nii.gz"
  write_nifti(path, np.arange(120.0).reshape(6, 5, 4) * 50, np.eye(4))
  call("inspect", root, "--output", tmp_path / "pages")
  (site,) = json.loads((tmp_path / "pages" / "summary.json").read_text())["sites"]
  assert site["intensities"] == [0.0, 2975.0, 5950.0]


def test_findings_that_nothing_may_count_are_unknown(tmp_path):
  root = fake_downloads.chexpert(tmp_path)
  source = readers.open_source(root, class_names=("Edema", "Cardiomegaly"), size=(8, 8))
  (site,) = inspection.inspect(source)
  assert site.unknown == 1 / 8  # one of four pictures, one of two classes
  assert site.present == {"Edema": 0, "Cardiomegaly": 1} and site.share["Cardiomegaly"] == 1 / 4


def test_prepare_then_inspect_what_was_prepared(tmp_path, capsys):
  root = fake_downloads.cc359(tmp_path / "raw", zipped=True)
  call("prepare", root, "--output", tmp_path / "made", "--spacing", 1, 1, 1)
  printed = capsys.readouterr().out
  lines = [line for line in printed.splitlines() if not line.startswith("preparing ")]
  assert lines[0].startswith("6 cases (4 train, 1 validation, 1 test)")  # and no word of downloads
  ready = Prepared(tmp_path / "made" / "cc359" / "1.0.0")
  assert ready[0].spacing == (1.0, 1.0, 1.0)
  call("inspect", ready.root, "--output", tmp_path / "pages")
  assert "prepared: 6 cases" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (("inspect",), "inspect FOLDER"),
    (("inspect", "{}/nowhere"), "a file or folder"),
    (("inspect", "{}/empty"), "one of the layouts"),
    (("inspect", "{}/six", "--kind", "nifti"), "kind"),
    (("inspect", "{}/six", "--size", "8", "8"), "options of the reader prostate"),
    (("prepare", "{}/six"), "--output FOLDER"),
    (("prepare", "{}/six", "--output", "{}/out", "--name", "Six sites"), "lower case"),
    (("prepare", "{}/six", "--output", "{}/out", "--normalise", "best"), "best"),
  ],
)
def test_bad_input_gets_one_line(tmp_path, capsys, words, message):
  fake_downloads.prostate(tmp_path / "six")
  (tmp_path / "empty").mkdir()
  with pytest.raises(SystemExit) as stop:
    call(*(word.format(tmp_path) for word in words))
  assert stop.value.code == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_what_looks_like_nothing_is_refused(tmp_path):
  with pytest.raises(InputError, match="an empty folder"):
    readers.recognise(tmp_path)


@pytest.mark.parametrize("name", ["nuclei", "hippocampus_nifti"])
def test_real_folders_are_inspected(tmp_path, name):
  sites = inspection.inspect(readers.open_source(folders.real_set(name)), most=2)
  for site in sites:
    assert site.read <= 2 and 0 < sum(site.share.values()) <= 1 + 1e-6
    picture, label = inspection.middle(site.shown)
    assert label is not None and picture.shape[:2] == label.shape
