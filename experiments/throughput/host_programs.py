"""What a user waits for on the host: measures of a segmentation, and a volume from file to file."""

import pathlib
import shutil
import tempfile
from typing import Any

import jax
import numpy as np

from experiments.throughput.measuring import Program
from medjax import data, inference, metrics, nets
from medjax.data.formats.nifti import write_nifti
from medjax.data.grid.preprocess import Preprocessing
from medjax.data.normalise import to_spec
from medjax.inference.window import starts
from medjax.predict import predict

_CLASSES = 3
_SPACING = (1.0, 1.0, 1.0)


def surfaces(shape: tuple[int, int, int]) -> list[Program]:
  """Overlap, one distance, and all measures of one case of two structures."""
  anatomy = data.ProceduralAnatomy(2, shape, _CLASSES, seed=0)
  target = np.asarray(anatomy[0].label)
  moved = np.roll(target, 1, 0)
  options: dict[str, Any] = {"num_classes": _CLASSES, "spacing": _SPACING}

  def report(prediction: np.ndarray, target: np.ndarray) -> int:
    return len(metrics.segmentation_report([prediction], [target], **options).rows)

  rows = {
    "Dice": lambda a, b: np.asarray(metrics.dice(a, b, **options)),
    "95th percentile of distances": lambda a, b: np.asarray(metrics.hd95(a, b, **options)),
    "all measures": report,
  }
  return [Program(name, fn, (moved, target), 1, on_host=True) for name, fn in rows.items()]


def volumes(
  shape: tuple[int, int, int], patch: tuple[int, int, int], widths: tuple[int, ...]
) -> list[Program]:
  """One window of a 3D U-Net, the sliding windows over a volume, and the volume from file to file.

  The windows are the floor of the volume; blending, reading and writing are what stands above it.
  """
  network = nets.UNet(_CLASSES, widths, norm="instance")
  model = nets.from_linen(network)
  image = np.random.default_rng(0).random((*shape, 1)).astype(np.float32)
  window = image[tuple(slice(0, p) for p in patch)]
  params, _ = model.init(jax.random.key(0), window)
  predictor = inference.Predictor(model, patch)
  windows = float(np.prod([len(starts(s, p, 0.5)) for s, p in zip(shape, patch, strict=True)]))
  folder = tempfile.TemporaryDirectory(prefix="throughput-")
  root = pathlib.Path(folder.name)
  (root / "images").mkdir()
  write_nifti(root / "images" / "case_0000.nii.gz", image[..., 0], np.eye(4))
  preprocess = Preprocessing(
    channel_names=("MR",),
    class_names=tuple(f"class {k}" for k in range(_CLASSES)),
    label_values=tuple(range(_CLASSES)),
    spacing=None,
    normalisation=(to_spec("zscore"),),
    patch=patch,
  )
  member = inference.Member(model, params, preprocess, "network")

  def file_to_file(keep: Any) -> Any:
    shutil.rmtree(root / "labels", ignore_errors=True)
    return len(predict([member], root / "images", root / "labels", progress=False)), keep.name

  return [
    Program(
      "one window", lambda p, x: np.asarray(predictor(p, x)), (params, window), 1, on_host=True
    ),
    Program("windows over a volume", predictor, (params, image), 1, windows, on_host=True),
    Program("file to file", lambda: file_to_file(folder), (), 1, windows, on_host=True),
  ]
