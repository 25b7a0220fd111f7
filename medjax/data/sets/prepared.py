"""Sets made ready once: any Source as ArrayRecord files that are read case by case.

  prepare(CC359(folder, spacing=SPACING), "prepared", name="cc359")
  source = Prepared("prepared/cc359/1.0.0")

The files are a TFDS set (see `tfds_builders`): `tfds.builder_from_directory` reads them too.
Images are kept as float16: relative steps of 2^-11, finer than any scanner's noise.
"""

import json
import math
import os
import pathlib
import re
from typing import Any

import numpy as np

from medjax.check import require
from medjax.data import manifest
from medjax.data.people.parts import parts_of
from medjax.data.people.splits import Splits
from medjax.data.seeds import Seed
from medjax.data.sets.record_files import RecordProgress
from medjax.data.sets.record_info import INFO, read_info
from medjax.types import Example, Json, Source


def prepare(
  source: Source,
  folder: str | os.PathLike,
  *,
  name: str,
  seed: Seed = 0,
  progress: RecordProgress = iter,
) -> pathlib.Path:
  """Writes FOLDER/NAME/1.0.0; a set that is there already is kept.

  A call that was stopped, by `kill -9` too, goes on at its last whole shard (about 64 MiB) when it
  is repeated; every shard has a digest.

  Splits are those of the set where it was published with some (`source.parts`), else 60, 20 and 20
  percent of the people of every site.

  Args:
    source: with images; its normalisation and voxel size are what is kept.
    folder: for all prepared sets.
    name: name of the set; lower case letters, digits and _, a letter first.
    seed: seed of the splits.
    progress: gets the names of the records that are left and hands them on, for a bar.
  Returns:
    The folder that `Prepared` reads.
  Raises:
    InputError: another kind of name, images beyond float16, and what reading the source raises; a
      set of this name that was made of other cases; another process that prepares it.
  """
  from medjax.data.sets import tfds_builders

  require(
    re.fullmatch(r"[a-z][a-z0-9_]*", name),
    "a name of lower case letters, digits and _",
    repr(name),
    "pass for example cc359",
  )
  target = pathlib.Path(folder) / name / "1.0.0"
  if (target / INFO).is_file():
    made_of = read_info(target / INFO)["source"]
    # Through JSON: tuples and lists are one.
    require(
      made_of == json.loads(json.dumps(source.manifest())),
      f"an empty place or the same set in {target}",
      "one made of other files or with other options",
      "remove it, or choose another name",
    )
    return target
  builder = tfds_builders.builder_of(source, name, lambda held: parts_of(held, seed=seed))
  tfds_builders.write_set(
    builder(data_dir=str(folder), file_format="array_record"), source, target, progress
  )
  return target


class Prepared:
  """A Source of what `prepare` or a builder wrote; nothing but the cases asked for is read.

  Attributes:
    names: names of the cases, split after split.
    parts: split of each case.
  """

  def __init__(self, root: str | os.PathLike):
    """Raises InputError: no prepared set in `root`, or one of another format."""
    import tensorflow_datasets as tfds

    self.root = pathlib.Path(root)
    require(
      (self.root / INFO).is_file(),
      f"{INFO} in {self.root}",
      "nothing there",
      "pass the folder NAME/1.0.0 that `prepare` made",
    )
    self._info = read_info(self.root / INFO)
    cases = self._info["cases"]
    listed = [(part, i, case) for part, held in cases.items() for i, case in enumerate(held)]
    self._place = [(part, i) for part, i, _ in listed]
    self.parts = tuple(part for part, _, _ in listed)
    self.names = tuple(case["name"] for _, _, case in listed)
    self.subjects = tuple(case["subject"] for _, _, case in listed)
    self.domains = tuple(case["domain"] for _, _, case in listed)
    self.class_names = tuple(self._info["source"]["class_names"])
    self.channel_names = tuple(self._info["source"]["channel_names"])
    builder = tfds.builder_from_directory(str(self.root))
    self._records: dict[str, Any] = {part: builder.as_data_source(part) for part in cases}

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    part, position = self._place[index]
    record = self._records[part][position]
    label = record.get("label")
    affine = record["affine"]
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=record["image"].astype(np.float32),
      label=None if label is None else np.asarray(label, np.int32),
      spacing=tuple(float(size) for size in record["spacing"]),
      affine=None if math.isnan(affine[0, 0]) else affine,
      domain=self.domains[index],
    )

  def indices(self, part: str) -> tuple[int, ...]:
    """Cases of a split."""
    return tuple(i for i, own in enumerate(self.parts) if own == part)

  def splits(self) -> Splits:
    """The splits of the set; raises InputError where published parts share people."""
    members = {part: {self.subjects[i] for i in self.indices(part)} for part in self._records}
    return Splits({part: tuple(sorted(people)) for part, people in members.items()})

  def check(self) -> None:
    """Raises InputError that names the record files whose digest is no longer the one written."""
    written = self._info["files"]
    now = {
      name: manifest.file_digest(self.root / name) if (self.root / name).is_file() else "none"
      for name in written
    }
    changed = [name for name in written if now[name] != written[name]]
    require(
      not changed,
      f"{self.root} as it was written",
      f"other {', '.join(changed)}",
      "prepare it anew",
    )

  def manifest(self) -> dict[str, Json]:
    return manifest.describe(
      "prepared",
      root=self.root.parent,
      files=self._info["files"],
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options={"source": self._info["source"]},
    )
