"""A Source out of what you have already: a TFDS data source, a grain source, a list of dicts.

  held = tfds.data_source("my_set", split="train")
  source = from_records(held, class_names=("healthy", "ill"), subject="patient_id")

Anything that can be counted and fetched by position and gives a mapping will do; neither library is
imported here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from medjax.check import InputError, require
from medjax.data import manifest
from medjax.types import Example, Json


@runtime_checkable
class Records(Protocol):
  """Mappings of arrays that can be counted and fetched by position, as TFDS and grain give them."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: Any, /) -> Any: ...


def from_records(
  records: Records,
  *,
  class_names: Sequence[str] = (),
  subject: str | Sequence[str] | None = None,
  domain: str | Sequence[str] = "",
  image: str = "image",
  label: str = "label",
  channel_names: Sequence[str] | None = None,
  spacing: Sequence[float | int] | None = None,
) -> "RecordSource":
  """Wraps records as a Source.

  Args:
    records: mappings with an image [*space, channel] or [*space]; 8-bit images are divided by 255.
    class_names: of the class ids, or of the findings; () without labels.
    subject: field with the person, which all records are read for once, or the people in order;
      None where nobody knows them: each record is then a person, so split such sets with care.
    domain: field with the site, or the sites in order; "" for one site.
    image, label: fields; a label is a class id, [finding] of 0, 1 and IGNORE, or a map [*space].
    channel_names: of the image; None takes "grey", "R", "G", "B", or numbers.
    spacing: voxel size in mm, one per spatial axis; None: 1 each.
  Returns:
    A Source; images are float32, labels int32.

  >>> held = [{"image": np.full((4, 4), 51, np.uint8), "label": k, "id": f"p{k}"} for k in range(2)]
  >>> source = from_records(held, class_names=("healthy", "ill"), subject="id")
  >>> source.subjects, source[1].image.shape, round(float(source[1].image.max()), 3)
  (('p0', 'p1'), (4, 4, 1), 0.2)

  Raises:
    InputError: no records, fields that they lack, another number of people than records. Reading a
      case raises it for labels outside the classes.
  """
  require(len(records) > 0, "records", "none", "check the split")
  return RecordSource(records, class_names, subject, domain, image, label, channel_names, spacing)


class RecordSource:
  """A Source; use `from_records`."""

  class_names: tuple[str, ...]
  channel_names: tuple[str, ...]

  def __init__(
    self,
    records: Records,
    class_names: Sequence[str],
    subject: str | Sequence[str] | None,
    domain: str | Sequence[str],
    image: str,
    label: str,
    channel_names: Sequence[str] | None,
    spacing: Sequence[float | int] | None,
  ):
    self._records, self._image, self._label = records, image, label
    first = self._pixels(0)
    shape = first.shape
    # A last axis of 1 or 3 is that of the channels, unless the voxel sizes say otherwise.
    has_channels = shape[-1] in (1, 3) if spacing is None else len(shape) == len(spacing) + 1
    self._num_axes = len(shape) - has_channels
    self._spacing = (1.0,) * self._num_axes if spacing is None else tuple(map(float, spacing))
    require(
      len(self._spacing) == self._num_axes,
      f"voxel sizes for {self._num_axes} axes",
      f"{self._spacing} for an image {shape}",
      "give one an axis",
    )
    num_channels = shape[-1] if has_channels else 1
    usual = {1: ("grey",), 3: ("R", "G", "B")}
    default = usual.get(num_channels, tuple(map(str, range(num_channels))))
    self.channel_names = default if channel_names is None else tuple(channel_names)
    self.class_names = tuple(class_names)
    self.names = tuple(f"record_{i:06d}" for i in range(len(records)))
    self.knows_people = subject is not None
    self.subjects = self.names if subject is None else self._texts(subject, "subject")
    self.domains = ("",) * len(records) if domain == "" else self._texts(domain, "domain")
    self._digest = ""

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    pixels = self._pixels(index)
    image = pixels.astype(np.float32)
    if pixels.dtype == np.uint8:
      image /= np.float32(255)
    if image.ndim == self._num_axes:
      image = image[..., None]
    require(
      image.ndim == self._num_axes + 1 and image.shape[-1] == len(self.channel_names),
      f"images of {self._num_axes} axes and channels {', '.join(self.channel_names)}",
      f"{pixels.shape} in record {index}",
      "give all records one kind of image",
    )
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=image,
      label=self._label_of(index) if self.class_names else None,
      spacing=self._spacing,
      domain=self.domains[index],
    )

  def manifest(self) -> dict[str, Json]:
    """Reads every record once: its digest covers images and labels."""
    if not self._digest:
      parts = []
      for index in range(len(self)):
        held = self[index]
        parts += [manifest.array_digest(a) for a in (held.image, held.label) if a is not None]
      self._digest = manifest.array_digest(np.array(parts))
    return manifest.describe(
      "records",
      files={"records": self._digest},
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options={"image": self._image, "label": self._label, "spacing": self._spacing},
    )

  def _field(self, index: int, name: str) -> Any:
    record = self._records[index]
    if not isinstance(record, Mapping) or name not in record:
      held = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
      raise InputError(f"a field {name!r} in record {index}", held, "name the field that it has")
    return record[name]

  def _pixels(self, index: int) -> np.ndarray:
    return np.asarray(self._field(index, self._image))

  def _label_of(self, index: int) -> np.ndarray:
    label = np.asarray(self._field(index, self._label))
    label = label[0] if label.shape == (1,) else label  # MedMNIST stores classes [1]
    is_findings = label.ndim == 1 and self._num_axes > 1
    allowed = (-1, 2) if is_findings else (-1, len(self.class_names))
    require(
      label.dtype.kind in "iub"
      and int(label.min(initial=0)) >= allowed[0]
      and int(label.max(initial=0)) < allowed[1]
      and (not is_findings or len(label) == len(self.class_names)),
      f"labels of {len(self.class_names)} classes in record {index}",
      f"{label.dtype}{list(label.shape)}, {label.min(initial=0)}..{label.max(initial=0)}",
      "correct class_names, or the labels",
    )
    return np.asarray(label, np.int32)

  def _texts(self, given: str | Sequence[str], what: str) -> tuple[str, ...]:
    if isinstance(given, str):
      given = [_text(self._field(i, given)) for i in range(len(self))]
    require(
      len(given) == len(self),
      f"a {what} for each of {len(self)} records",
      f"{len(given)}",
      "add it",
    )
    return tuple(map(str, given))


def _text(value: object) -> str:
  """Of a field: TFDS gives text as bytes."""
  value = value.item() if isinstance(value, np.ndarray | np.generic) else value
  return value.decode() if isinstance(value, bytes) else str(value)
