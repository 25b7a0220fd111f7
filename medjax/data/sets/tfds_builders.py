"""TFDS builders that write any Source as ArrayRecord files, without TensorFlow; they own TFDS.

Importing this module makes "cc359", "prostate_sites", "ms_les_seg" and "ljubljana_ms" known:

  builder = tfds.builder("cc359", file_format="array_record", data_dir=...)
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir="folder with Original.zip ...")
  )
  builder.as_data_source("train")

Beside TFDS's own files stands medjax.json: the source's manifest, the case of every record, and the
digests of the record files. `prepared.Prepared` reads it.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.naming import ShardedFileTemplate
from tensorflow_datasets.core.splits import SplitDict, SplitInfo

from medjax.check import given, require
from medjax.data import manifest
from medjax.data.people.parts import parts_of
from medjax.data.sets import ms_sets
from medjax.data.sets.cc359 import CC359
from medjax.data.sets.prostate import ProstateSites as ProstateSource
from medjax.data.sets.record_files import RecordProgress, finish, write_shards
from medjax.data.sets.record_info import FORMAT, INFO, write_info
from medjax.types import Example, Indices, Json, Source

_LARGEST = float(np.finfo(np.float16).max)


class SourceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes the Source that `source(manual_dir)` opens; images as float16, labels as int16."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First version."}
  HOMEPAGE = ""
  DIMS = 3
  CHANNELS = 1
  LABEL: tuple[int | None, ...] | None = (None, None, None)  # shape; None: there are no labels
  SEED = 0

  def source(self, manual_dir: pathlib.Path) -> Source:
    raise NotImplementedError

  def parts(self, source: Source) -> Mapping[str, Sequence[int]]:
    """Cases of each split: as published, else 60, 20 and 20 percent of the people of every site."""
    return parts_of(source, seed=self.SEED)

  def _info(self) -> Any:
    space = (None,) * self.DIMS
    features = {
      "image": tfds.features.Tensor(
        shape=(*space, self.CHANNELS), dtype=np.float16, encoding="zlib"
      ),
      "spacing": tfds.features.Tensor(shape=(self.DIMS,), dtype=np.float32),
      "affine": tfds.features.Tensor(shape=(4, 4), dtype=np.float64),
      **{name: tfds.features.Text() for name in ("name", "subject", "domain")},
      "index": tfds.features.Scalar(dtype=np.int64),
    }
    if self.LABEL is not None:
      features["label"] = tfds.features.Tensor(shape=self.LABEL, dtype=np.int16, encoding="zlib")
    return tfds.core.DatasetInfo(
      builder=self,
      description=(type(self).__doc__ or "").strip(),
      homepage=self.HOMEPAGE,
      features=tfds.features.FeaturesDict(features),
      disable_shuffling=True,  # so that a record's place is known without reading it
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
    self._source = self.source(self._folder(dl_manager))
    self._parts = self.parts(self._source)
    return {part: self._generate_examples(indices) for part, indices in self._parts.items()}

  def _folder(self, dl_manager: Any) -> pathlib.Path:
    return pathlib.Path(dl_manager.manual_dir)

  def _generate_examples(self, indices: Indices) -> Iterator[tuple[int, dict]]:
    for position, index in enumerate(indices):
      yield position, self.record(self._source[index])

  def record(self, example: Example) -> dict[str, Any]:
    """What is written of a case."""
    image = given(example.image, f"an image in case {example.name}", "prepare images with labels")
    highest = float(np.abs(image).max(initial=0))
    require(
      highest <= _LARGEST,
      f"values up to {_LARGEST:g} in case {example.name}",
      f"{highest:g}",
      "normalise the images",
    )
    record = {
      "image": image.astype(np.float16),
      "spacing": np.asarray(example.spacing, np.float32),
      "affine": np.full((4, 4), np.nan) if example.affine is None else example.affine,
      "name": example.name,
      "subject": example.subject,
      "domain": example.domain,
      "index": example.index,
    }
    if self.LABEL is not None:
      record["label"] = np.asarray(example.label, np.int16)
    return record

  def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
    super()._download_and_prepare(dl_manager, download_config)
    folder = pathlib.Path(self.data_path)
    records = sorted(folder.glob("*.array_record-*"))
    require(records, "ArrayRecord files", "none", 'pass file_format="array_record"')
    num = {part: self.info.splits[part].num_examples for part in self._parts}
    describe(folder, self._source, self._parts, num, manifest.file_digests(folder, records))


class Cc359(SourceBuilder):
  """CC359: heads in T1 from six scanners and brain masks; domain is the scanner."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Register at https://sites.google.com/view/calgary-campinas-dataset, and put Original.zip and"
    " Silver-standard-machine-learning.zip, or the folders in them, into one folder."
  )
  HOMEPAGE = "https://sites.google.com/view/calgary-campinas-dataset"

  def source(self, manual_dir: pathlib.Path) -> Source:
    return CC359(manual_dir)


class ProstateSites(SourceBuilder):
  """Prostates in T2 from six sites and their masks; domain is the site."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Download the six folders RUNMC, BMC, I2CVB, UCL, BIDMC, HK from"
    " https://liuquande.github.io/SAML into one folder, zipped or unpacked."
  )
  HOMEPAGE = "https://liuquande.github.io/SAML"

  def source(self, manual_dir: pathlib.Path) -> Source:
    return ProstateSource(manual_dir)


class MsLesSeg(SourceBuilder):
  """MSLesSeg: heads in FLAIR with MS lesions from Catania, in the parts as published."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Download the set from https://doi.org/10.6084/m9.figshare.27919209 into one folder, zipped or"
    " unpacked; it holds train and test."
  )
  HOMEPAGE = "https://doi.org/10.6084/m9.figshare.27919209"

  def source(self, manual_dir: pathlib.Path) -> Source:
    return ms_sets.mslesseg(manual_dir)


class LjubljanaMs(SourceBuilder):
  """Heads in FLAIR with MS lesions from Ljubljana, cross-sectional part, consensus of raters."""

  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Follow https://github.com/muschellij2/open_ms_data and put the folder cross_sectional, zipped"
    " or unpacked, into one folder."
  )
  HOMEPAGE = "https://github.com/muschellij2/open_ms_data"

  def source(self, manual_dir: pathlib.Path) -> Source:
    return ms_sets.ljubljana(manual_dir)


def builder_of(
  source: Source, name: str, parts: Callable[[Source], Mapping[str, Sequence[int]]]
) -> type[SourceBuilder]:
  """A builder class for a source that is open already; TFDS does not come to know it by name."""
  example = source[0]
  image = given(
    example.image, "a source of images", "there is nothing to gain", got="label maps alone"
  )
  label = None
  if example.label is not None:
    is_map = example.label.ndim == len(example.spacing)
    label = (None,) * len(example.spacing) if is_map else example.label.shape
  fields = {
    "__doc__": f"{name}: prepared by medjax.",
    "__module__": __name__,
    "DIMS": len(example.spacing),
    "CHANNELS": image.shape[-1],
    "LABEL": label,
    "source": lambda self, manual_dir: source,
    "parts": lambda self, held: parts(held),
    "_folder": lambda self, dl_manager: pathlib.Path(),
  }
  camel = "".join(word.capitalize() for word in name.split("_"))
  return type(camel, (SourceBuilder,), fields, skip_registration=True)


def describe(
  folder: pathlib.Path,
  source: Source,
  parts: Mapping[str, Sequence[int]],
  num: Mapping[str, int],
  digests: Mapping[str, Json],
) -> None:
  """Writes medjax.json: what the first `num` cases of each part are, and the record files."""
  cases = {
    part: [
      {"name": name, "subject": source.subjects[i], "domain": source.domains[i]}
      for i, name in zip(indices, _names(source, indices), strict=True)
    ][: num[part]]
    for part, indices in parts.items()
  }
  content = {
    "format": FORMAT,
    "source": source.manifest(),
    "cases": cases,
    "files": dict(digests),
  }
  write_info(folder / INFO, content)


def write_set(
  builder: SourceBuilder, source: Source, target: pathlib.Path, progress: RecordProgress
) -> None:
  """Writes what `builder.download_and_prepare` would, and goes on where an earlier call stopped.

  Until the set is complete it lies in a folder beside `target` whose name begins with a point.
  """
  partial = target.with_name(f".{target.name}.partial")
  parts = builder.parts(source)
  serialised = ExampleSerializer(builder.info.features.get_serialized_info())

  def serialise(index: int) -> bytes:
    record = builder.record(source[index])
    return serialised.serialize_example(builder.info.features.encode_example(record))

  first = next(int(indices[0]) for indices in parts.values() if len(indices))
  shards = write_shards(
    partial,
    parts,
    source.manifest(),
    serialise,
    name=builder.name,
    case_bytes=len(serialise(first)),
    progress=progress,
  )
  infos = []
  for part, written in shards.items():
    template = ShardedFileTemplate(
      data_dir=tfds.core.Path(partial),
      dataset_name=builder.name,
      split=part,
      filetype_suffix="array_record",
    )
    infos.append(
      SplitInfo(
        name=part,
        shard_lengths=[int(shard["cases"]) for shard in written],
        num_bytes=sum(int(shard["bytes"]) for shard in written),
        filename_template=template,
      )
    )
  builder.info.set_splits(SplitDict(infos))
  builder.info.write_to_directory(partial)
  digests = {shard["file"]: shard["digest"] for part in shards.values() for shard in part}
  describe(partial, source, parts, {part: len(held) for part, held in parts.items()}, digests)
  finish(partial, target)


def _names(source: Source, indices: Indices) -> list[str]:
  names = getattr(source, "names", None)
  return [source[i].name if names is None else names[i] for i in indices]
