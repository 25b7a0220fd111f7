"""Manifests survive JSON, name files by their content and do not depend on where the data lie."""

import functools
import hashlib
import json
import shutil

import numpy as np

from medjax.data.manifest import array_digest, describe, file_digest, file_digests
from medjax.data.normalise import ForegroundPercentiles, zscore
from medjax.data.sets.nnunet import NnUNetFolder
from tests.data.folders import nnunet


def test_digests_are_sha_256(tmp_path):
  (tmp_path / "a").write_bytes(b"abc")
  assert file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()[:16]


def test_an_array_digest_tells_values_shapes_and_types_apart():
  array = np.arange(6, dtype=np.int32)
  others = [array + 1, array.reshape(2, 3), array.astype(np.int64), array.astype(np.uint32)]
  assert len({array_digest(a) for a in [array, *others]}) == 5
  assert array_digest(array) == array_digest(array.copy())
  table = np.arange(12).reshape(3, 4)
  assert array_digest(table.T) == array_digest(np.ascontiguousarray(table.T))


def test_a_folder_at_another_place_has_the_same_manifest(tmp_path):
  first = nnunet(tmp_path / "here" / "set")
  shutil.copytree(first, tmp_path / "there" / "set")
  manifests = [NnUNetFolder(tmp_path / place / "set").manifest() for place in ("here", "there")]
  assert manifests[0] == manifests[1]
  assert json.loads(json.dumps(manifests[0])) == manifests[0]
  files = manifests[0]["files"]
  assert {"imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "dataset.json"} <= set(files)
  assert manifests[0]["subjects"] == ["a", "b"]
  with open(tmp_path / "there" / "set" / "labelsTr" / "a.nii.gz", "ab") as file:
    file.write(b"x")
  changed = NnUNetFolder(tmp_path / "there" / "set").manifest()["files"]
  assert [name for name in files if files[name] != changed[name]] == ["labelsTr/a.nii.gz"]


def test_paths_are_relative_with_forward_slashes_and_sorted(tmp_path):
  (tmp_path / "b").mkdir()
  for name in ("b/z", "a"):
    (tmp_path / name).write_text(name)
  assert list(file_digests(tmp_path, [tmp_path / "b" / "z", tmp_path / "a"])) == ["a", "b/z"]


def test_options_become_json():
  options = {
    "normalise": [zscore, ForegroundPercentiles(-1, 2, 0, 3.5), functools.partial(zscore)],
    "spacing": (1.0, np.float32(0.5), None),
  }
  found = describe("x", class_names=(), channel_names=(), subjects=(), options=options)["options"]
  assert json.loads(json.dumps(found)) == found
  assert found["normalise"] == [
    "medjax.data.normalise.zscore",
    {"type": "ForegroundPercentiles", "low": -1, "high": 2, "mean": 0, "std": 3.5},
    "functools.partial",
  ]
  assert found["spacing"] == [1.0, 0.5, None]
