"""Studies that read folders of their users ask for two people who look like one, by one flag."""

import dataclasses

import pytest

from experiments import classification
from experiments.learn2synth import real_images
from experiments.lscl import hospitals as lscl
from experiments.lscl.training import Config as LSCLConfig
from experiments.ms_replay import hospitals as replay
from experiments.ms_replay.config import Config as ReplayConfig
from experiments.segmentation import training as segmentation
from experiments.site_transfer import hospitals as transfer
from experiments.site_transfer.config import Config as TransferConfig
from medjax import data, study
from medjax.check import InputError
from tests.data.folders import nnunet
from tests.experiments.test_lscl import FOLDERS, site

CONFIGS = (
  segmentation.Config, classification.Config, LSCLConfig, TransferConfig, real_images.Config,
  ReplayConfig,
)  # fmt: skip
CASES = tuple(f"case{i}_scan{j}" for i in range(5) for j in range(2))
SMALL = {"shape": (8, 8), "background": "zero", "subject_pattern": r"(case\d+)_"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__module__)
def test_the_flag_is_one(config):
  (field,) = [f for f in dataclasses.fields(config) if f.name == "near_duplicates"]
  assert field.default == -1


def two_sites(tmp_path):
  names = [f"{c}_1" for c in "abcdef"]
  return [site(tmp_path / name, seed, names) for seed, name in enumerate(("old", "new"))]


def ask_lscl(tmp_path, **options):
  config = dataclasses.replace(FOLDERS, **options)
  lscl.load(config, two_sites(tmp_path), 0, tmp_path / "pair.png")


def ask_transfer(tmp_path, **options):
  config = TransferConfig(
    data_source="folders", shape=(12, 12), subject_pattern=r"(.)_\d", **options
  )
  transfer.load(config, two_sites(tmp_path), 0, tmp_path / "pair.png")


def ask_learn2synth(tmp_path, **options):
  folder = nnunet(tmp_path / "data", CASES, shape=(8, 9, 3))
  config = real_images.Config(**SMALL, **options)
  real_images.load(config, (folder,), 0, tmp_path / "pair.png")


def ask_replay(tmp_path, **options):
  pattern = {"subject_pattern": r"(.)_\d", "shape": None, "spacing": None, "seed": 0}
  replay.folders(two_sites(tmp_path), 0.2, **pattern, picture=tmp_path / "pair.png", **options)


@pytest.mark.parametrize("ask", [ask_lscl, ask_transfer, ask_learn2synth, ask_replay])
def test_a_study_passes_the_flag_on(ask, tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(data, "check_near_duplicates", lambda *args, **how: seen.append((args, how)))
  for number, value in enumerate((-1.0, 0.0, 0.7)):
    (folder := tmp_path / str(number)).mkdir()
    ask(folder, near_duplicates=value)
  assert [how["threshold"] for _, how in seen] == [None, 0.7]  # 0 does not look
  assert all(how["picture"].name == "pair.png" for _, how in seen)
  (source, sides), _ = seen[0]
  assert set(source.subjects) == {name for members in sides.parts.values() for name in members}
  assert len(sides.parts) >= 2


def test_the_pair_is_shown_beside_the_run_directory(tmp_path):
  folder = nnunet(tmp_path / "data", [f"case{i}" for i in range(8)], shape=(24, 20, 12))
  source = data.NnUNetFolder(folder)
  sides = {"train": source.subjects[:4], "test": source.subjects[4:]}
  picture = study.pair_picture(tmp_path / "run")
  study.check_alike(source, sides, 0, picture)
  with pytest.raises(InputError, match="run-pair.png.*--near_duplicates"):
    study.check_alike(source, sides, 1e-9, picture)  # whoever is likest is refused
  assert picture.is_file() and not (tmp_path / "run").exists()
