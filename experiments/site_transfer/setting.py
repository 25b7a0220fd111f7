"""What is known of a transfer study before a network is made: pool, pairs of sites, test cases.

Every site has its own people, parted into training and test. A pair is one or more source sites and
a target: sources give all their training people, the target few of them, and both are tested. The
training images of all sites are one pool, of which trainings take rows.
"""

from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.site_transfer.config import DataConfig
from medjax import check, data
from medjax.data.seeds import generator
from medjax.types import Batch

TO = ">"
"""Between the sources of a pair, joined by "+", and its target: "research-t1>lowfield-t1"."""


class Pair(NamedTuple):
  """Sources and a target, ready to train and to test.

  Attributes:
    name: "SOURCE>TARGET".
    source_rows: rows of the pool with images of the sources' training people.
    units: the same of each training person of the target, or each of its rows: what sizes count.
    source_test, target_test: cases with `image` [n, height, width, channel].
    parts: part -> people, for splits.json.
    source_head, target_head: heads of the network that the labels are for.
    unit: "people" or "images".
  """

  name: str
  source_rows: np.ndarray
  units: tuple[np.ndarray, ...]
  source_test: tuple[Any, ...]
  target_test: tuple[Any, ...]
  parts: dict[str, tuple[str, ...]]
  source_head: int = 0
  target_head: int = 0
  unit: Literal["people", "images"] = "people"

  @property
  def sources(self) -> str:
    """Names of the sources."""
    return self.name.partition(TO)[0]

  @property
  def has_new_head(self) -> bool:
    """Whether the target's labels are others than the source's."""
    return self.source_head != self.target_head

  def drawn_units(self, seed: int) -> list[np.ndarray]:
    """`units` in the order in which sizes take them; every seed has its own."""
    order = generator(seed, f"people of {self.name}").permutation(len(self.units))
    return [self.units[i] for i in order]

  def target_rows(self, size: float, seed: int) -> np.ndarray:
    """Rows of `size` units; below 1 that share of the first person's slices, evenly spread.

    Raises:
      InputError: more than the target has, or part of an image.
    """
    check.positive("target size", size)
    is_share = size < 1 and self.unit == "people"
    check.require(
      size <= len(self.units) and (is_share or size == int(size)),
      f"a target size of 1..{len(self.units)} {self.unit}"
      + (", or a share below 1 of one" if self.unit == "people" else ""),
      f"{size:g}",
      f"choose another, or add {self.unit} to the target of {self.name}",
    )
    units = self.drawn_units(seed)
    if not is_share:
      return np.concatenate(units[: int(size)])
    rows = units[0]
    return rows[np.linspace(0, len(rows) - 1, max(round(size * len(rows)), 1)).round().astype(int)]


class Setting(NamedTuple):
  """All that is known before a network is made.

  Attributes:
    title: what the images are.
    class_names, channel_names: of all sites; of findings the names of all columns.
    manifest: of the sources.
    pool: slices or pictures of the training people of all sites.
    pairs: what is asked.
    heads: outputs of each head of the network.
    labels: "masks", one class a pixel, or "findings", each present or absent in an image.
  """

  title: str
  class_names: tuple[str, ...]
  channel_names: tuple[str, ...]
  manifest: dict[str, Any]
  pool: Batch
  pairs: tuple[Pair, ...]
  heads: tuple[int, ...]
  labels: Literal["masks", "findings"] = "masks"

  @property
  def metrics(self) -> tuple[str, ...]:
    """Scores in [0, 1]: the first answers questions, the last decides what there is to gain."""
    return ("surface_dice", "dice") if self.labels == "masks" else ("auroc",)

  @property
  def splits(self) -> dict[str, Any]:
    """What splits.json holds."""
    return {
      "kind": "people of each site, parted into training and test",
      "pairs": {pair.name: pair.parts for pair in self.pairs},
    }


def sites_of(pair: str, sites: Collection[str]) -> tuple[str, ...]:
  """Sources of a pair, then its target.

  Raises:
    InputError: no pair, or one of unknown sites.
  """
  sources, arrow, target = pair.partition(TO)
  names = (*sources.split("+"), target)
  check.require(
    arrow and all(names), f"a pair SOURCE{TO}TARGET", repr(pair), "pass for example --pairs a>b"
  )
  for name in names:
    check.one_of("site of a pair", name, sites)
  check.require(
    target not in names[:-1], "a target that is no source", repr(pair), "choose another target"
  )
  return names


def parted(config: DataConfig, subjects: Sequence[str], seed: int) -> dict[str, tuple[int, ...]]:
  """Positions of the cases of "train" and "test" people, at most `max_test` of the latter."""
  share = config.test_fraction
  drawn = data.split_subjects(subjects, {"train": 1 - share, "test": share}, seed=seed)
  indices = {part: drawn.indices(part, subjects) for part in ("train", "test")}
  if config.max_test:
    people = sorted({subjects[i] for i in indices["test"]})
    kept = set(generator(seed, "tested").permutation(people)[: config.max_test].tolist())
    indices["test"] = tuple(i for i in indices["test"] if subjects[i] in kept)
  return indices
