"""Run directory: what is refused, what is written, and that neither leaves halves behind."""

import dataclasses
import json

import pytest

from medjax import files
from medjax.check import InputError
from medjax.train import RunDirectory, rundir


@dataclasses.dataclass(frozen=True)
class Inner:
  sizes: tuple[int, ...] = (2, 3)


@dataclasses.dataclass(frozen=True)
class Config:
  num_steps: int = 100
  inner: Inner = Inner()


@dataclasses.dataclass(frozen=True)
class Reporting:
  num_steps: int = 100
  log_every: int = 50
  checkpoint_every: int | None = None


def manifest(root, digest="1"):
  return {"root": root, "files": {"a.png": digest}, "subjects": ["a"]}


def open_run(path, config=None, **changes):
  settings = dict(experiment="toy", preset="demo", seed=0, data_manifest={"subjects": ["a"]})
  return RunDirectory.open(path, config=config or Config(), **{**settings, **changes})


def test_config_json_says_what_ran_and_reopening_keeps_it(tmp_path):
  with open_run(tmp_path / "run") as run:
    config = json.loads((run.path / "config.json").read_text())
  assert config["config"] == {"num_steps": 100, "inner": {"sizes": [2, 3]}}
  assert config["data"] == {"subjects": ["a"]}
  assert (config["experiment"], config["preset"], config["seed"]) == ("toy", "demo", 0)
  assert set(config["versions"]) == {"python", "jax", "jaxlib", "flax", "optax", "numpy", "medjax"}
  assert config["devices"]["count"] == 2  # conftest simulates two
  assert "commit" in config
  before = (tmp_path / "run" / "config.json").read_bytes()
  with open_run(tmp_path / "run") as again:
    assert again.config == config
  assert (tmp_path / "run" / "config.json").read_bytes() == before


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"config": Config(num_steps=7)}, "config.num_steps=100, got config.num_steps=7;"),
    (
      {"config": Config(inner=Inner((4,)))},
      r"config.inner.sizes=\[2, 3\], got config.inner.sizes=\[4\];",
    ),
    ({"seed": 1}, "seed=0, got seed=1;"),
    ({"preset": "paper"}, "preset='demo', got preset='paper';"),
    ({"data_manifest": {"subjects": ["b"]}}, r"data.subjects=\['a'\], got data.subjects=\['b'\];"),
  ],
)
def test_a_changed_configuration_is_refused(tmp_path, changes, message):
  open_run(tmp_path).close()
  with pytest.raises(InputError, match=message):
    open_run(tmp_path, **changes)
  open_run(tmp_path).close()  # and the refusal left no lock behind


def test_other_versions_are_a_warning(tmp_path, monkeypatch, capsys):
  open_run(tmp_path).close()
  monkeypatch.setattr(rundir, "checkout_commit", lambda: "elsewhere")
  open_run(tmp_path).close()
  assert capsys.readouterr().err.startswith("warning: commit of this run were ")


def test_a_directory_of_something_else_is_refused_untouched(tmp_path):
  (tmp_path / "thesis.tex").write_text("")
  with pytest.raises(InputError, match="with 'thesis.tex'"):
    open_run(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_writers_are_refused(tmp_path):
  with open_run(tmp_path):
    with pytest.raises(InputError, match=r"in use by process \d+ on "):
      open_run(tmp_path)
  open_run(tmp_path).close()


def test_results_finish_a_run(tmp_path):
  with open_run(tmp_path) as run:
    assert not run.finished and run.results is None and run.timing is None
    run.write_json("timing", {"seconds": 1.5})
    run.write_json("results", {"b": float("nan"), "a": (1, 2.5)})
    assert run.finished
    assert run.results == {"a": [1, 2.5], "b": None}
    assert run.timing == {"seconds": 1.5}
    text = (run.path / "results.json").read_text()
    assert text == '{\n  "a": [\n    1,\n    2.5\n  ],\n  "b": null\n}\n'


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
  path = tmp_path / "results.json"
  files.write_json(path, {"a": 1})
  with pytest.raises(TypeError, match="expected a number, text"):
    files.write_json(path, {"a": object()})

  def fail(*_):
    raise OSError("disk full")

  monkeypatch.setattr("os.replace", fail)
  with pytest.raises(OSError, match="disk full"):
    files.write_json(path, {"a": 2})
  assert json.loads(path.read_text()) == {"a": 1}
  assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_rows_go_to_tensorboard_too_and_the_writers_close_with_the_directory(tmp_path):
  pytest.importorskip("tensorboardX")
  with open_run(tmp_path / "run", log_to=["tensorboard"]) as directory:
    (writer,) = directory.writers
    writer.write("main", 1, {"loss": 0.5})
  assert list((tmp_path / "run" / "tensorboard" / "main").iterdir())
  open_run(tmp_path / "run").close()  # another choice is no other run
  with pytest.raises(InputError, match="log_to"):
    open_run(tmp_path / "run", log_to=["comet"])


MANIFEST = {
  "kind": "concat",
  "subjects": ["anna", "berta", "anna"],
  "class_names": ["well", "ill"],
  "sites": {
    "train": {"kind": "folder", "files": {"anna_1.png": "0f0f"}, "options": {"people": ["anna"]}}
  },
  "indices": [4, 7],
}


def open_private(path, manifest=None, **changes):
  return open_run(path, data_manifest=manifest or MANIFEST, private=True, **changes)


def test_a_private_run_shows_counts_and_hides_names(tmp_path):
  with open_private(tmp_path / "run") as run:
    assert run.private == run.path / "private"
    run.write_json("splits", {"train": ["anna"]}, names_people=True)
    run.write_json("results", {"accuracy": 0.5})
  shared = [p for p in run.path.iterdir() if p.is_file()]
  assert {p.name for p in shared} == {".lock", "config.json", "results.json"}
  for file in shared:
    for word in ("anna", "berta", "0f0f"):
      assert word not in file.read_text()
  assert json.loads((run.path / "config.json").read_text())["data"] == {
    "kind": "concat",
    "num_cases": 3,
    "num_subjects": 2,
    "class_names": ["well", "ill"],
    "sites": {"train": {"kind": "folder", "num_files": 1}},
  }
  hidden = {p.name: p for p in run.private.iterdir()}
  assert json.loads(hidden["data.json"].read_text()) == MANIFEST
  assert json.loads(hidden["splits.json"].read_text()) == {"train": ["anna"]}
  assert run.private.stat().st_mode & 0o777 == 0o700
  assert {p.stat().st_mode & 0o777 for p in hidden.values()} == {0o600}


def test_a_private_run_resumes_with_its_own_data_only_and_names_no_one(tmp_path):
  open_private(tmp_path).close()
  open_private(tmp_path).close()
  same_counts = {**MANIFEST, "subjects": ["anna", "clara", "anna"]}
  with pytest.raises(InputError, match=r"the data that .* got others \(files, subjects") as error:
    open_private(tmp_path, same_counts)
  assert "clara" not in str(error.value) and "berta" not in str(error.value)
  with pytest.raises(
    InputError, match="data.num_cases=3, data.num_subjects=2, got data.num_cases=1"
  ):
    open_private(tmp_path, {**MANIFEST, "subjects": ["anna"]})
  with pytest.raises(InputError, match="private=True, got private=None;"):
    open_run(tmp_path)
  (tmp_path / "private" / "data.json").unlink()
  with pytest.raises(InputError, match="data manifest of a private run, .*data.json, got nothing"):
    open_private(tmp_path)


def test_the_times_of_a_private_run_are_kept_private(tmp_path):
  with open_private(tmp_path / "run") as run:
    run.write_json("timing", {"seconds": 1.0})
    assert run.timing == {"seconds": 1.0}
    assert not (run.path / "timing.json").exists()
    assert (run.private / "timing.json").stat().st_mode & 0o777 == 0o600


def test_a_private_run_killed_before_its_configuration_starts_again(tmp_path):
  open_private(tmp_path).close()
  (tmp_path / "config.json").unlink()
  (tmp_path / "private").chmod(0o755)
  open_private(tmp_path).close()
  assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
  (tmp_path / "config.json").unlink()
  (tmp_path / "private" / "diary.txt").write_text("")
  with pytest.raises(InputError, match="with 'private'"):
    open_private(tmp_path)


def test_how_often_a_run_reports_and_the_name_of_its_folder_may_change(tmp_path):
  open_run(tmp_path, Reporting(), data_manifest=manifest("mini")).close()
  moved = manifest("mini_moved")
  open_run(tmp_path, Reporting(log_every=5, checkpoint_every=7), data_manifest=moved).close()
  with pytest.raises(InputError, match=r"data.files.a.png='1', got data.files.a.png='2'"):
    open_run(tmp_path, Reporting(), data_manifest=manifest("mini", "2"))
  without = {"root": "elsewhere", "subjects": ["a"]}
  open_run(tmp_path / "named", Reporting(), data_manifest={**without, "root": "here"}).close()
  with pytest.raises(InputError, match="data.root='here', got data.root='elsewhere'"):
    open_run(tmp_path / "named", Reporting(), data_manifest=without)


def test_a_finished_run_goes_on_to_more_steps_when_asked(tmp_path):
  with open_run(tmp_path) as run:
    run.write_json("results", {"dice": 0.5})
  with pytest.raises(InputError, match="got config.num_steps=200; go on with --continue"):
    open_run(tmp_path, Config(num_steps=200))
  with open_run(tmp_path, Config(num_steps=200), more_steps=True) as run:
    assert run.is_longer and not run.finished
    assert json.loads((tmp_path / "results-before.json").read_text()) == {"dice": 0.5}
  with open_run(tmp_path, Config(num_steps=200)) as run:
    assert run.config["config"]["num_steps"] == 200 and not run.is_longer
  with pytest.raises(InputError, match="got config.num_steps=150"):
    open_run(tmp_path, Config(num_steps=150), more_steps=True)
