"""Splits over subjects: drawn once from a seed, saved, and checked before a run starts."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from medjax import files
from medjax.check import InputError, existing_file, one_of, require
from medjax.data.manifest import array_digest
from medjax.data.seeds import Seed, generator
from medjax.types import Source

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.6, "validation": 0.2, "test": 0.2}


@dataclasses.dataclass(frozen=True)
class Splits:
  """Subjects by part ("train", "validation", ...). No subject is in two parts.

  `seed` is what they were drawn from, None where they were imported.
  """

  parts: dict[str, tuple[str, ...]]
  seed: int | None = None

  def __post_init__(self):
    check_disjoint(self.parts)

  def indices(self, part: str, subjects: Sequence[str]) -> tuple[int, ...]:
    """Positions in `subjects` (one entry a case) of the cases in a part, in order.

    Raises:
      InputError: an unknown part, or a subject that no part holds.
    """
    one_of("part", part, self.parts)
    known = {subject for members in self.parts.values() for subject in members}
    strangers = sorted(set(subjects) - known)
    require(
      not strangers,
      "subjects of the saved splits",
      f"also {some(strangers)}",
      "draw the splits again for these data",
    )
    members = set(self.parts[part])
    return tuple(i for i, subject in enumerate(subjects) if subject in members)

  def save(self, path: str | os.PathLike) -> None:
    """Writes JSON; the file appears whole or not at all."""
    path = pathlib.Path(path)
    content = {"seed": self.seed, "parts": {k: list(v) for k, v in self.parts.items()}}
    files.write_text(path, json.dumps(content, indent=2) + "\n")

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Splits":
    """Reads what `save` wrote; raises InputError naming the file."""
    path = existing_file(path, "draw and save the splits")
    try:
      content = json.loads(path.read_text(encoding="utf-8"))
      parts = {str(k): tuple(map(str, v)) for k, v in content["parts"].items()}
      seed = None if content["seed"] is None else int(content["seed"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
      raise InputError(
        f"saved splits in {path}", f"an error ({error})", "draw them again"
      ) from error
    return cls(parts, seed)


def split_subjects(
  subjects: Iterable[str],
  fractions: Mapping[str, float | int] = DEFAULT_FRACTIONS,
  *,
  seed: Seed,
) -> Splits:
  """Draws parts over people.

  Args:
    subjects: subject of each case, in any order and with repeats.
    fractions: share of the people per part; positive, sum 1.
    seed: any int.
  Returns:
    Splits that depend on the seed, the fractions and the set of names only. Sizes are rounded by
    largest remainder, and every part has at least one person.
  Raises:
    InputError: fractions that are not positive or do not sum to 1, or fewer people than parts.
  """
  names = sorted(set(subjects))
  shares = np.array(list(fractions.values()), np.float64)
  require(
    len(shares) and (shares > 0).all() and abs(shares.sum() - 1) < 1e-6,
    "positive fractions of sum 1",
    f"{dict(fractions)}",
    "leave out empty parts",
  )
  require(
    len(names) >= len(shares),
    f"at least {len(shares)} subjects for {len(shares)} parts",
    f"{len(names)}",
    "use fewer parts or more people",
  )
  sizes = _sizes(shares, len(names))
  order = generator(seed, "split").permutation(len(names))
  bounds = np.cumsum(sizes)[:-1]
  parts = {
    part: tuple(sorted(names[i] for i in members))
    for part, members in zip(fractions, np.split(order, bounds), strict=True)
  }
  return Splits(parts, int(seed))


def check_disjoint(parts: Mapping[str, Iterable[str]]) -> None:
  """Raises InputError that names the subjects standing in two parts."""
  sets = {part: set(members) for part, members in parts.items()}
  names = list(sets)
  for i, first in enumerate(names):
    for second in names[i + 1 :]:
      shared = sorted(sets[first] & sets[second])
      require(
        not shared,
        f"no subject in both {first} and {second}",
        some(shared),
        "split over subjects, not over images",
      )


def check_content(source: Source, splits: Splits) -> None:
  """Refuses splits that hold identical pixels on two sides under different subjects.

  Reads every case once and compares digests of images and of label maps that are not constant.

  Raises:
    InputError: naming the first two such cases.
  """
  part_of = {subject: part for part, members in splits.parts.items() for subject in members}
  seen: dict[tuple[str, str], tuple[str, str]] = {}
  for index, subject in enumerate(source.subjects):
    part = part_of.get(subject)
    if part is None:
      continue
    example = source[index]
    for kind, array in (("image", example.image), ("label", example.label)):
      # A label without the image's axes is a class or findings, which people share.
      if array is None or array.ndim < len(example.spacing) or array.min() == array.max():
        continue
      name, other_part = seen.setdefault((kind, array_digest(array)), (example.name, part))
      require(
        part == other_part,
        f"different {kind}s in {other_part} and {part}",
        f"identical ones in cases {name} and {example.name}",
        "give both the same subject or remove one",
      )


def _sizes(shares: np.ndarray, total: int) -> np.ndarray:
  exact = shares / shares.sum() * total
  sizes = np.floor(exact + 1e-9).astype(int)
  rest = total - sizes.sum()
  sizes[np.argsort(sizes - exact, kind="stable")[:rest]] += 1
  while (sizes == 0).any():
    sizes[np.argmax(sizes)] -= 1
    sizes[np.argmin(sizes)] += 1
  return sizes


def some(names: Sequence[str]) -> str:
  """The first five names, for an error."""
  shown = ", ".join(map(str, names[:5]))
  return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
