"""The MNI152 T1 template with a tissue label map, from the files that nilearn ships.

ICBM 2009a nonlinear symmetric, 1 mm, skull-stripped. It is ONE averaged head: every slice has the
subject "mni152", so that no split can put parts of it on two sides. Nothing is downloaded.
"""

import importlib
from collections.abc import Callable

import numpy as np

from medjax.check import InputError, one_of, require
from medjax.data import manifest
from medjax.data.formats.nifti import to_ras
from medjax.data.formats.volume import Volume
from medjax.data.grid.resample import resample
from medjax.data.grid.slices import slices
from medjax.data.normalise import NORMALISERS, Normaliser, normalise
from medjax.types import Example, Json, Source

CLASS_NAMES = ("background", "csf", "gray_matter", "white_matter")
SUBJECT = "mni152"


def mni152(
  *,
  resolution: float | int = 2,
  axis: int | None = 2,
  keep: Callable[[Example], bool] | None = None,
  normalise: str | Normaliser = "none",
) -> Source:
  """The template as slices or as one volume.

  Args:
    resolution: voxel size in mm, 1 or more; probabilities are resampled before the labels.
    axis: 0 sagittal, 1 coronal, 2 axial; None gives the volume as the only case.
    keep: which slices to keep; None keeps those with at least 5 % brain.
    normalise: a name of `normalise.NORMALISERS` or a function; "none" leaves T1 in [0, 1].
  Returns:
    Source with image [*space, 1] and label 0 background, 1 CSF and what else lies inside the brain
    mask, 2 grey matter, 3 white matter (the most probable tissue).
  Raises:
    InputError: nilearn is not installed.
  """
  volume = MNI152(resolution, normalise)
  if axis is None:
    require(keep is None, "keep=None with axis=None", f"{keep=}", "choose an axis to slice")
    return volume
  return slices(volume, axis, keep=_has_brain if keep is None else keep)


class MNI152:
  """A Source with one case; use `mni152`."""

  class_names: tuple[str, ...] = CLASS_NAMES
  channel_names: tuple[str, ...] = ("T1",)
  subjects: tuple[str, ...] = (SUBJECT,)
  domains: tuple[str, ...] = ("",)

  def __init__(self, resolution: float | int, how: str | Normaliser):
    require(resolution >= 1, "resolution of 1 mm or more", f"{resolution=}", "pass 1, 2 or 4")
    if isinstance(how, str):
      one_of("normalise", how, NORMALISERS)
    self._options = {"resolution": resolution, "normalise": how}
    t1, tissues = _load()
    wanted = (float(resolution),) * 3
    t1, tissues = resample(t1, wanted), resample(tissues, wanted)
    label = np.argmax(tissues.array, axis=-1).astype(np.int32)
    self._example = Example(
      name=SUBJECT,
      subject=SUBJECT,
      index=0,
      image=normalise(t1.array[..., None], how),
      label=label,
      spacing=t1.spacing,
      affine=t1.affine,
    )

  def __len__(self) -> int:
    return 1

  def __getitem__(self, index: int) -> Example:
    return (self._example,)[index]

  def manifest(self) -> dict[str, Json]:
    image, label = self._example.image, self._example.label
    assert image is not None and label is not None
    return manifest.describe(
      "mni152",
      files={"image": manifest.array_digest(image), "label": manifest.array_digest(label)},
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=self._options,
    )


def _has_brain(example: Example) -> bool:
  return example.label is not None and float((example.label > 0).mean()) >= 0.05


def _load() -> tuple[Volume, Volume]:
  """T1 [x, y, z] in [0, 1] and probabilities [x, y, z, class], 1 mm, in RAS."""
  try:
    datasets = importlib.import_module("nilearn.datasets")
  except ImportError as error:
    raise InputError(
      "the package nilearn, which ships the MNI152 template", "none", "pip install -e '.[demo]'"
    ) from error
  loaders = (
    datasets.load_mni152_template,
    datasets.load_mni152_gm_template,
    datasets.load_mni152_wm_template,
  )
  affine, arrays = np.eye(4), []
  for loader in loaders:
    image = loader(resolution=1)
    affine = np.asarray(image.affine, np.float64)
    arrays.append(np.asarray(image.get_fdata(), np.float32))
  t1, gray, white = arrays
  brain = t1 > 0
  other = np.clip(1 - gray - white, 0, 1)
  tissues = np.stack([~brain, other * brain, gray * brain, white * brain], axis=-1)
  spacing = (1.0, 1.0, 1.0)
  return to_ras(Volume(t1, affine, spacing)), to_ras(Volume(tissues, affine, spacing))
