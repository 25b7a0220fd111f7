"""A small nnU-Net folder of simulated heads, so that a demo takes the path of real files.

Half of the files are stored with the axes of another convention (left, posterior, superior) and
every file has its own intensity scale, as files from two scanners would.
"""

import json
import pathlib
import shutil

import numpy as np

from medjax import data
from medjax.data.seeds import generator


def write(folder: pathlib.Path, seed: int, *, num_train: int, num_test: int, size: int) -> None:
  """Writes `folder` whole or not at all; a folder that is there stays as it is.

  Args:
    folder: nnU-Net v2 layout, imagesTr, labelsTr, imagesTs and dataset.json.
    seed: of the anatomies and scales.
    num_train: labelled cases.
    num_test: cases without labels.
    size: voxels per axis, of 1 mm.
  """
  if folder.exists():
    return
  anatomies = data.ProceduralAnatomy(
    num_train + num_test, (size,) * 3, num_classes=5, seed=seed, with_image=True, noise=0.15
  )
  partial = folder.with_name(f".{folder.name}.partial")
  shutil.rmtree(partial, ignore_errors=True)
  for part in ("imagesTr", "labelsTr", "imagesTs"):
    (partial / part).mkdir(parents=True)
  for index, example in enumerate(anatomies):
    assert example.image is not None and example.label is not None
    gain = 10 ** generator(seed, "gain", index).uniform(1, 3)
    image, label = (gain * example.image[..., 0]).astype(np.float32), example.label
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    if index % 2:
      image, label = image[::-1, ::-1], label[::-1, ::-1]
      affine = np.array([[-1, 0, 0, size - 1], [0, -1, 0, size - 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    part = "Tr" if index < num_train else "Ts"
    data.write_nifti(partial / f"images{part}" / f"head{index:03d}_0000.nii.gz", image, affine)
    if index < num_train:
      data.write_nifti(partial / "labelsTr" / f"head{index:03d}.nii.gz", label, affine)
  (partial / "dataset.json").write_text(
    json.dumps(
      {
        "channel_names": {"0": "simulated"},
        "labels": {name: value for value, name in enumerate(anatomies.class_names)},
        "numTraining": num_train,
        "file_ending": ".nii.gz",
      },
      indent=2,
    )
  )
  partial.rename(folder)
