"""Small nnU-Net folders for the tests of this room."""

import json
import os
import pathlib

import numpy as np
import pytest

from medjax.data.formats.nifti import write_nifti

LABELS = {"background": 0, "organ": 3, "lesion": 7}


def write_json(root, *, channels=("MRI",), labels=None, ending=".nii.gz"):
  content = {
    "channel_names": {str(i): name for i, name in enumerate(channels)},
    "labels": LABELS if labels is None else labels,
    "numTraining": 1,
    "file_ending": ending,
  }
  (root / "dataset.json").write_text(json.dumps(content))


def nnunet(root, names=("a", "b"), *, channels=("MRI",), labels=None, affine=None, shape=(6, 5, 4)):
  """Writes a complete folder; voxel values are random, labels 0, 3 and 7 all occur."""
  affine = np.eye(4) if affine is None else affine
  root.mkdir(parents=True, exist_ok=True)
  write_json(root, channels=channels, labels=labels)
  for folder in ("imagesTr", "labelsTr", "imagesTs"):
    (root / folder).mkdir(parents=True)
  random = np.random.default_rng(0)
  for name in names:
    for c in range(len(channels)):
      image = random.normal(size=shape).astype(np.float32) + c
      write_nifti(root / "imagesTr" / f"{name}_{c:04d}.nii.gz", image, affine)
    label = random.choice([0, 3, 7], size=shape)
    label.flat[:3] = (0, 3, 7)
    write_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
  return root


def real_set(name: str) -> pathlib.Path:
  """Folder of a real image set, or a skip with the reason."""
  here = pathlib.Path(__file__).resolve()
  default = here.parents[3] / "shared" / "data"
  path = pathlib.Path(os.environ.get("MEDJAX_DATA", default)) / name
  if not path.exists():
    pytest.skip(f"real set {name} absent: set MEDJAX_DATA to the folder that holds it")
  return path
