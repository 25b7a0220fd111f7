"""From the grid and intensities of a file to those of a network, and back.

A `Preprocessing` is saved beside the weights it trained, so that prediction repeats exactly what
training saw: intensities are normalised on the grid of the file, axes brought to right, anterior,
superior, the image resampled. Back goes what a network says of every voxel, channel by channel.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from medjax.check import InputError, require, same_shape
from medjax.data.formats import nifti
from medjax.data.formats.dataset_json import FILE_ENDINGS
from medjax.data.formats.volume import Volume
from medjax.data.grid.resample import resample, resample_back
from medjax.data.normalise import Normaliser, from_spec, normalise
from medjax.types import Json

Spacing = Sequence[float | int | None]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How files become the input of a network.

  Attributes:
    channel_names: names of the channels of the image, in the order of the files _0000, _0001, ...
    class_names: names of the class ids 0..K-1 that the network tells apart.
    label_values: value of each class id in label files.
    spacing: voxel size in mm that images are resampled to, one per axis, None on an axis that keeps
      the file's; None as a whole keeps the grid.
    normalisation: `normalise.to_spec` of each channel.
    reorient: bring NIfTI axes to right, anterior, superior.
    file_ending: one of `formats.FORMATS`; ".png" says that images are pictures of two axes.
    patch: spatial shape of the images that the network was trained on; prediction slides a window
      of this shape.
    axis: axis of the volume across which a 2D network works slice by slice; None for 3D and PNG.
    answers: "masks" (a class for every voxel), "classes" (one for the image) or "findings" (of
      which an image has any number). For the last two `patch` is the size that pictures are cut to.
  Raises:
    InputError: a field of another kind than stated, or lengths that disagree.
  """

  channel_names: tuple[str, ...]
  class_names: tuple[str, ...]
  label_values: tuple[int, ...]
  spacing: tuple[float | int | None, ...] | None
  normalisation: tuple[dict[str, Json], ...]
  reorient: bool = True
  file_ending: str = ".nii.gz"
  patch: tuple[int, ...] | None = None
  axis: int | None = None
  answers: str = "masks"

  def __post_init__(self):
    _check_kinds(vars(self))
    for spec in self.normalisation:
      from_spec(spec)
    for name, other in (("normalisation", "channel_names"), ("label_values", "class_names")):
      require(
        len(getattr(self, name)) == len(getattr(self, other)),
        f"{name} and {other} of one length",
        f"{getattr(self, name)} and {getattr(self, other)}",
        "give one entry each",
      )

  def apply(self, volume: Volume, name: str = "the image") -> Volume:
    """Network input [*space, channel] float32 from raw values on the grid of a file.

    `name` is what errors call it.

    Raises:
      InputError: another number of channels than `channel_names`.
    """
    return to_input(
      volume,
      channel_names=self.channel_names,
      how=[from_spec(spec) for spec in self.normalisation],
      spacing=self.spacing,
      reorient=self.reorient,
      name=name,
    )

  @classmethod
  def of_pictures(
    cls,
    class_names: Sequence[str],
    channel_names: Sequence[str],
    size: tuple[int, int],
    *,
    answers: str = "classes",
  ) -> "Preprocessing":
    """For a classifier of pictures in [0, 1] as `ClassFolders` and `picture_table` give them.

    Args:
      class_names: of the classes or findings, in the order of the logits.
      channel_names: ("grey",) or ("R", "G", "B").
      size: height and width that pictures are cut to.
      answers: "classes" or "findings".
    """
    return cls(
      channel_names=tuple(channel_names),
      class_names=tuple(class_names),
      label_values=tuple(range(len(class_names))),
      spacing=None,
      normalisation=({"name": "none"},) * len(channel_names),
      reorient=False,
      file_ending=".png",
      patch=size,
      answers=answers,
    )

  def restore(self, values: np.ndarray, volume: Volume) -> np.ndarray:
    """Values [*network space, k] on the grid of the file that `volume` was read from, linearly.

    Where nothing was resampled the numbers come back untouched, in the file's order of axes.

    Raises:
      InputError: values of another grid than `apply(volume)` gives.
    """
    # Only shape and place of the volume are asked for: a view of one zero is no copy of it.
    geometry = volume._replace(array=np.broadcast_to(np.uint8(0), volume.space))
    upright = nifti.to_ras(geometry) if self.reorient else geometry
    spacing = _filled(self.spacing, upright)
    back = resample_back(values, upright, spacing)
    same_shape("restored values", back.shape[: len(volume.spacing)], "file", upright.space)
    return nifti.from_ras(back, volume.affine) if self.reorient else back

  def to_dict(self) -> dict[str, Json]:
    """JSON-able; `from_dict` undoes it."""
    content = dataclasses.asdict(self)
    if self.answers == "masks":
      del content["answers"]  # so that such networks stay readable by version 0.1
    return content

  @classmethod
  def from_dict(cls, content: Any) -> "Preprocessing":
    """Raises InputError for fields that are missing, unknown here or of another kind."""
    require(
      isinstance(content, Mapping), "preprocessing as a mapping", f"{content!r}", "save it again"
    )
    known = {field.name for field in dataclasses.fields(cls)}
    content = {"answers": "masks", **content}  # files of version 0.1 do not say it
    if set(content) != known:
      different = sorted(known.symmetric_difference(content))
      raise InputError(
        f"preprocessing with the fields {sorted(known)}",
        f"a difference in {different}",
        "load it with the version of medjax that saved it",
      )

    _check_kinds(content)

    def tuples(value: Any) -> Any:
      return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value

    return cls(**{name: tuples(value) for name, value in content.items()})


def to_input(
  volume: Volume,
  *,
  channel_names: Sequence[str],
  how: str | Normaliser | Sequence[str | Normaliser],
  spacing: Spacing | None,
  reorient: bool,
  name: str,
) -> Volume:
  """The one way from raw values to the input of a network, of training and of prediction.

  Intensities are normalised on the grid of the file, before the axes are turned and resampled.

  Args:
    volume: raw values on the grid of a file.
    channel_names: that the image must have.
    how: see `normalise.normalise`.
    spacing, reorient: see `Preprocessing`.
    name: of the image, for errors.
  Returns:
    Volume [*space, channel] float32.
  Raises:
    InputError: another number of channels.
  """
  array = volume.array
  array = array[..., None] if array.ndim == len(volume.spacing) else array
  require(
    array.shape[-1] == len(channel_names),
    f"{len(channel_names)} channels ({', '.join(channel_names)}) in {name}",
    f"{array.shape[-1]}",
    "give one file a channel, in the order of training",
  )
  image = volume._replace(array=normalise(array, how), file=None)
  placed = place(image, spacing=spacing, reorient=reorient, order=1)
  return placed._replace(array=placed.array.astype(np.float32, copy=False))


def _check_kinds(content: Mapping[str, Json]) -> None:
  for name, (expected, is_right) in _FIELDS.items():
    require(
      is_right(content[name]),
      f"{name} of a preprocessing as {expected}",
      f"{content[name]!r}",
      "correct it",
    )


def _each(value: Any, kind: type, least: float | int = -math.inf) -> bool:
  """A tuple or list of this kind, numbers above `least`."""
  is_sequence = isinstance(value, tuple | list)
  return is_sequence and all(isinstance(v, kind) and (kind is str or v > least) for v in value)


def _is_spacing(value: object) -> bool:
  return isinstance(value, tuple | list) and _each([v for v in value if v is not None], Real, 0)


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
  "channel_names": ("names", lambda v: _each(v, str)),
  "class_names": ("names", lambda v: _each(v, str)),
  "label_values": ("whole numbers", lambda v: _each(v, Integral)),
  "spacing": ("sizes in mm above 0, or None", lambda v: v is None or _is_spacing(v)),
  "normalisation": (
    "one dict a channel",
    lambda v: isinstance(v, tuple | list) and all(isinstance(spec, Mapping) for spec in v),
  ),
  "reorient": ("a bool", lambda v: isinstance(v, bool)),
  "file_ending": (" or ".join(FILE_ENDINGS), lambda v: v in FILE_ENDINGS),
  "patch": ("whole numbers above 0, or None", lambda v: v is None or _each(v, Integral, 0)),
  "axis": ("0, 1, 2 or None", lambda v: v in (None, 0, 1, 2)),
  "answers": ("masks, classes or findings", lambda v: v in ("masks", "classes", "findings")),
}


def place(volume: Volume, *, spacing: Spacing | None, reorient: bool, order: int) -> Volume:
  """Brings axes upright, then resamples: linearly (order 1) or to the nearest voxel (0)."""
  if reorient:
    volume = nifti.to_ras(volume)
  target = _filled(spacing, volume)
  return volume if target is None else resample(volume, target, order=order)


def _filled(spacing: Spacing | None, volume: Volume) -> tuple[float, ...] | None:
  """The spacing with the file's own where it is None."""
  if spacing is None:
    return None
  require(
    len(spacing) == len(volume.spacing),
    f"spacing with {len(volume.spacing)} entries",
    f"{tuple(spacing)}",
    "give one voxel size in mm per spatial axis",
  )
  return tuple(
    float(own if new is None else new) for new, own in zip(spacing, volume.spacing, strict=True)
  )
