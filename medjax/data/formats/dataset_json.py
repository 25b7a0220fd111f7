"""The dataset.json of an nnU-Net v2 folder."""

import json
import os
import pathlib
from typing import Any, NamedTuple

from medjax.check import InputError, existing_file, require
from medjax.data.formats.table import FORMATS

FILE_ENDINGS = tuple(FORMATS)


class DatasetJson(NamedTuple):
  """What we use of dataset.json.

  Attributes:
    channel_names: in the order of the suffixes _0000, _0001, ...
    class_names: names of class ids 0..K-1, background first.
    label_values: value in the files of each class id, increasing from 0.
    ignore_value: value in the files that becomes `types.IGNORE`, or None.
    file_ending: one of `formats.FORMATS`.
  """

  channel_names: tuple[str, ...]
  class_names: tuple[str, ...]
  label_values: tuple[int, ...]
  ignore_value: int | None
  file_ending: str


def read_dataset_json(root: str | os.PathLike) -> DatasetJson:
  """Reads and checks ROOT/dataset.json.

  Raises:
    InputError: naming the file, when it is missing, is no JSON, lacks a key, or holds regions.
  """
  path = pathlib.Path(root) / "dataset.json"
  existing_file(path, "pass the nnU-Net v2 dataset folder")
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"JSON in {path}", f"an error ({error})", "correct the file") from error
  require(isinstance(content, dict), f"an object in {path}", type(content).__name__, "correct it")
  for key in ("channel_names", "labels", "file_ending"):
    require(
      key in content,
      f"key {key!r} in {path}",
      f"{', '.join(content) or 'no key'}",
      "write it in nnU-Net v2 form (nnUNetv2_convert_MSD_dataset converts Decathlon folders)",
    )
  ending = content["file_ending"]
  require(
    ending in FILE_ENDINGS,
    f"file_ending {' or '.join(FILE_ENDINGS)} in {path}",
    repr(ending),
    "convert the images",
  )
  names, values, ignore = _labels(path, content["labels"])
  return DatasetJson(_channels(path, content["channel_names"]), names, values, ignore, ending)


def _channels(path: pathlib.Path, channels: Any) -> tuple[str, ...]:
  expected = [str(n) for n in range(len(channels))] if isinstance(channels, dict) else []
  require(
    expected and sorted(channels, key=lambda k: (len(k), k)) == expected,
    f'channel_names {{"0": name, "1": name, ...}} in {path}',
    str(channels)[:80],
    "number the channels from 0",
  )
  return tuple(str(channels[key]) for key in expected)


def _labels(path: pathlib.Path, labels: Any) -> tuple[tuple[str, ...], tuple[int, ...], int | None]:
  require(
    isinstance(labels, dict) and labels,
    f"labels {{name: value}} in {path}",
    str(labels)[:80],
    "name the labels",
  )
  for name, value in labels.items():
    require(
      not isinstance(value, list),
      f"one integer per label in {path}",
      f"region {name!r}: {value}",
      "medjax has no region training: give each label one value",
    )
    require(
      isinstance(value, int) and not isinstance(value, bool) and value >= 0,
      f"labels {{name: non-negative integer}} in {path}",
      f"{name!r}: {value!r}",
      "nnU-Net v2 writes the name first, then the value",
    )
  ignore = labels.get("ignore")
  kept = sorted((value, name) for name, value in labels.items() if name != "ignore")
  values = tuple(value for value, _ in kept)
  require(
    len(set(labels.values())) == len(labels),
    f"distinct label values in {path}",
    str(list(labels.values())),
    "give each label its own value",
  )
  require(
    values[:1] == (0,),
    f"a background label of value 0 in {path}",
    f"values {list(values)}",
    'add "background": 0',
  )
  return tuple(name for _, name in kept), values, ignore
