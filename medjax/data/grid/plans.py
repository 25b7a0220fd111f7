"""Import of nnU-Net v2's plans.json: how a data set is resampled, normalised and cut into patches.

Source: MIC-DKFZ/nnUNet, documentation/explanation_plans_files.md and nnunetv2/utilities/
plans_handling/plans_handler.py; the schemes in nnunetv2/preprocessing/normalization.

nnU-Net holds a volume as [z, y, x] (the reverse of the NIfTI file's axes) and then transposes it by
`transpose_forward`, so that its axis k is the file's axis 2 - transpose_forward[k]. Its 2D
configurations slice across its axis 0. Everything here is in the order of our arrays: x, y, z as in
the file for NIfTI, row and column for PNG.

DEVIATION: nnU-Net crops an image to its non-zero bounding box before it computes a z-score without
mask; we take the whole grid. nnU-Net plans no mask where the box of the median case holds at least
3/4 of the grid.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from medjax.check import InputError, existing_file, one_of, require
from medjax.data.formats.dataset_json import DatasetJson
from medjax.data.normalise import ForegroundPercentiles, to_spec
from medjax.types import Json

if TYPE_CHECKING:
  from medjax.data.grid.preprocess import Preprocessing

_VOLUME_READERS = {  # reader: does it bring the axes to right, anterior, superior
  "SimpleITKIO": False,
  "SimpleITKIOWithReorient": True,
  "NibabelIO": False,
  "NibabelIOWithReorient": True,
}
_PICTURE_READER = "NaturalImage2DIO"
_SCHEMES = {  # scheme: our name without and with use_mask_for_norm
  "ZScoreNormalization": ("zscore", "filled_zscore"),
  "NoNormalization": ("none", "none"),
  "RescaleTo01Normalization": ("minmax", "minmax"),
  "RGBTo01Normalization": ("eight_bit", "eight_bit"),
}
_INTENSITY_KEYS = (  # the second in plans of 2022
  "foreground_intensity_properties_per_channel",
  "foreground_intensity_properties_by_modality",
)


class Plan(NamedTuple):
  """One configuration of a plans.json, axes in the order of our arrays.

  Attributes:
    dataset: name of the data set, for example "Dataset004_Hippocampus".
    configuration: "2d", "3d_fullres", ...
    spacing: voxel size in mm per axis; None on the axis that 2D slices are cut across, where
      nnU-Net keeps each file's own; None as a whole for PNG, which has no voxel size.
    patch: voxels per axis of a patch, 2 or 3 axes.
    axis: which axis 2D patches are cut across; None in 3D and for PNG.
    batch_size: patches a batch.
    normalisation: `normalise.to_spec` of each channel.
    reorient: whether the axes are brought to right, anterior, superior.
  """

  dataset: str
  configuration: str
  spacing: tuple[float | None, ...] | None
  patch: tuple[int, ...]
  axis: int | None
  batch_size: int
  normalisation: tuple[dict[str, Json], ...]
  reorient: bool

  def preprocessing(self, dataset: DatasetJson) -> "Preprocessing":
    """The record that training saves and prediction applies.

    Raises:
      InputError: another number of channels than the plan has.
    """
    require(
      len(dataset.channel_names) == len(self.normalisation),
      f"{len(self.normalisation)} channels as in the plans of {self.dataset}",
      f"{len(dataset.channel_names)} in dataset.json",
      "use the plans of these data",
    )
    from medjax.data.grid.preprocess import Preprocessing

    return Preprocessing(
      channel_names=dataset.channel_names,
      class_names=dataset.class_names,
      label_values=dataset.label_values,
      spacing=self.spacing,
      normalisation=self.normalisation,
      reorient=self.reorient,
      file_ending=dataset.file_ending,
      patch=self.patch,
      axis=self.axis,
    )


def read_plans(path: str | os.PathLike, configuration: str = "3d_fullres") -> Plan:
  """Reads one configuration of an nnU-Net v2 plans file.

  Args:
    path: nnUNetPlans.json, or plans.json of a trained model.
    configuration: its name; `inherits_from` is followed.
  Raises:
    InputError: naming the file, when it is missing, is no JSON, lacks a key or the configuration,
      or asks for what medjax does not have: a cascade, another reader or normalisation.
  """
  path = existing_file(path, "pass nnU-Net's nnUNetPlans.json")
  try:
    plans = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"JSON in {path}", f"an error ({error})", "correct the file") from error
  try:
    return _plan(plans, configuration, path)
  except (KeyError, TypeError, AttributeError, IndexError) as error:
    raise InputError(
      f"an nnU-Net v2 plans file {path}",
      f"{type(error).__name__} {error}",
      "plan with nnUNetv2_plan_experiment",
    ) from error


def _plan(plans: Mapping[str, Json], configuration: str, path: pathlib.Path) -> Plan:
  settings = _resolved(plans["configurations"], configuration, path)
  require(
    settings.get("previous_stage") is None,
    f"a configuration without a stage before it in {path}",
    f"{configuration} after {settings.get('previous_stage')}",
    "medjax has no cascade: choose 3d_fullres",
  )
  reader = plans["image_reader_writer"]
  one_of(f"image_reader_writer in {path}", reader, (*_VOLUME_READERS, _PICTURE_READER))
  patch = [int(size) for size in settings["patch_size"]]
  require(
    len(patch) in (2, 3) and len(settings["spacing"]) == len(patch),
    f"patch_size and spacing of 2 or 3 axes in {path}",
    f"{patch} and {settings['spacing']}",
    "plan again",
  )
  is_picture = reader == _PICTURE_READER
  # our axis of each of nnU-Net's axes, across slices first
  ours = [axis if is_picture else 2 - axis for axis in plans["transpose_forward"]]
  require(
    sorted(ours) == [0, 1, 2] and not (is_picture and (ours[0] != 0 or len(patch) == 3)),
    f"transpose_forward as an order of three axes in {path}",
    f"{plans['transpose_forward']} for patches {patch}",
    "plan again",
  )
  size_of = dict(zip(ours[-len(patch) :], patch, strict=True))
  spacing_of = dict(zip(ours[-len(patch) :], settings["spacing"], strict=True))
  return Plan(
    dataset=str(plans["dataset_name"]),
    configuration=configuration,
    spacing=None if is_picture else tuple(_float(spacing_of.get(axis)) for axis in range(3)),
    patch=tuple(size_of[axis] for axis in sorted(size_of)),
    axis=ours[0] if len(patch) == 2 and not is_picture else None,
    batch_size=int(settings["batch_size"]),
    normalisation=_normalisation(plans, settings, path),
    reorient=_VOLUME_READERS.get(reader, False),
  )


def _resolved(
  configurations: Mapping[str, Json], name: str, path: pathlib.Path, children: tuple[str, ...] = ()
) -> dict[str, Json]:
  """A configuration over all that it inherits from."""
  one_of(f"configuration of {path}", name, configurations)
  require(
    name not in children,
    f"configurations that inherit without a circle in {path}",
    " from ".join((*children, name)),
    "correct inherits_from",
  )
  own = configurations[name]
  parent = own.get("inherits_from")
  return {**(_resolved(configurations, parent, path, (*children, name)) if parent else {}), **own}


def _normalisation(
  plans: Mapping[str, Json], settings: Mapping[str, Json], path: pathlib.Path
) -> tuple[dict[str, Json], ...]:
  schemes, masked = settings["normalization_schemes"], settings["use_mask_for_norm"]
  require(
    len(schemes) == len(masked) > 0,
    f"a normalisation and a mask rule for each channel in {path}",
    f"{schemes} and {masked}",
    "plan again",
  )
  specs = []
  for channel, (scheme, in_mask) in enumerate(zip(schemes, masked, strict=True)):
    one_of(f"normalization_schemes in {path}", scheme, (*_SCHEMES, "CTNormalization"))
    if scheme == "CTNormalization":
      key = next((key for key in _INTENSITY_KEYS if key in plans), _INTENSITY_KEYS[0])
      measured = plans[key][str(channel)]
      names = ("percentile_00_5", "percentile_99_5", "mean", "std")
      specs.append(to_spec(ForegroundPercentiles(*(float(measured[name]) for name in names))))
    else:
      specs.append(to_spec(_SCHEMES[scheme][bool(in_mask)]))
  return tuple(specs)


def _float(value: Json) -> float | None:
  return None if value is None else float(value)
