"""Chest radiographs of two hospitals, CheXpert and ChestX-ray14, with findings for labels.

Sizes count images of the target, as in the paper; people never cross a split. With classes of their
own the label of a picture has the columns of both sites, `IGNORE` in those of the other: the loss
then takes the head of the picture's site, and normalises by its number of classes.

Pictures stay uint8 until a network sees them: 50 kB each at 224 x 224 pixels. Of the frontal
training pictures, 70 % of 191,027 and of 112,120, the pool on the device is 11 GB, and twice as
much on the host while it is put together; test pictures stay on the host.
"""

import concurrent.futures
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.site_transfer.config import DataConfig
from experiments.site_transfer.setting import TO, Pair, Setting, parted, sites_of
from medjax import check, data
from medjax.data.manifest import array_digest
from medjax.data.sets import chest
from medjax.types import IGNORE, Batch

SITES = ("chexpert", "chest-xray14")


class Films(NamedTuple):
  """Pictures of one part of a site.

  Attributes:
    site: its name.
    names, subjects: of each picture.
    image: [n, height, width, 1] uint8.
    label: [n, column] int32 of 1, 0 and `IGNORE`.
    columns: those of the site's head.
  """

  site: str
  names: tuple[str, ...]
  subjects: tuple[str, ...]
  image: np.ndarray
  label: np.ndarray
  columns: range

  @property
  def people(self) -> tuple[str, ...]:
    return tuple(sorted({f"{self.site}/{subject}" for subject in self.subjects}))

  @property
  def scored(self) -> tuple[int, ...]:
    """Columns with both outcomes: an area under the ROC curve exists."""
    return tuple(k for k in self.columns if {0, 1} <= set(self.label[:, k].tolist()))


class _Site(NamedTuple):
  train: Films
  test: Films


def load(config: DataConfig, paths: Sequence[pathlib.Path], seed: int) -> Setting:
  """Reads both sets and refuses what would leak between parts.

  Raises:
    InputError: other than two folders, a pair of unknown sites, a picture in both parts, and
      whatever the readers refuse.
  """
  check.require(
    len(paths) == 2,
    "the folders of CheXpert and ChestX-ray14 after --data",
    f"{len(paths)}",
    "pass --data CHEXPERT --data CHESTXRAY14",
  )
  classes = (chest.CHEXPERT_CLASSES, chest.CHEST_XRAY14_CLASSES)
  shared = chest.shared_classes(*classes)
  if config.classes == "shared":
    classes = (shared, shared)
  uncertain = chest.MIXED_POLICY if config.uncertain == "mixed" else config.uncertain
  sources = {
    SITES[0]: chest.chexpert(
      paths[0], class_names=classes[0], uncertain=uncertain, size=config.shape
    ),
    SITES[1]: chest.chest_xray14(paths[1], class_names=classes[1], size=config.shape),
  }
  # A policy is a guess to train on: tests take certain labels alone.
  certain = chest.chexpert(paths[0], class_names=classes[0], uncertain="ignore", size=config.shape)
  judges = {SITES[0]: certain, SITES[1]: sources[SITES[1]]}
  is_own = config.classes == "own"
  first = len(classes[0])
  heads = (first, len(classes[1])) if is_own else (first,)
  columns = (range(first), range(first, sum(heads)) if is_own else range(first))
  names = shared
  if is_own:
    names = tuple(f"{site}: {c}" for site, own in zip(SITES, classes, strict=True) for c in own)
  sites = {
    site: _site(config, site, source, judges[site], own, sum(heads), seed)
    for (site, source), own in zip(sources.items(), columns, strict=True)
  }
  _check_pictures(sites)
  pairs = config.pairs or tuple(f"{a}{TO}{b}" for a, b in (SITES, SITES[::-1]))
  return Setting(
    "CheXpert and ChestX-ray14",
    names,
    ("grey",),
    {
      "kind": "sites",
      "class_names": list(names),
      "channel_names": ["grey"],
      "sites": {site: source.manifest() for site, source in sources.items()},
    },
    _pool([site.train for site in sites.values()]),
    tuple(_pair(name, sites, is_own) for name in pairs),
    heads,
    "findings",
  )


def _site(
  config: DataConfig,
  name: str,
  source: chest.ChestRadiographs,
  judge: chest.ChestRadiographs,
  columns: range,
  width: int,
  seed: int,
) -> _Site:
  """Pictures of a site; `judge` has the labels of the test part."""
  indices = parted(config, source.subjects, seed)
  train = _read(source, name, indices["train"], columns, width)
  test = _read(judge, name, indices["test"], columns, width)
  check.require(
    test.scored,
    f"a finding that is present and absent among the people tested at {name}",
    f"none in {len(test.names)} pictures",
    "raise --test_fraction or --max_test",
  )
  return _Site(train, test)


def _read(
  source: chest.ChestRadiographs, site: str, indices: Sequence[int], columns: range, width: int
) -> Films:
  """Pictures of a part, decoded by several threads."""

  def picture(index: int) -> np.ndarray:
    return np.round(255 * np.asarray(source[index].image)).astype(np.uint8)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    images = np.stack(list(pool.map(picture, indices)))
  label = np.full((len(indices), width), IGNORE, np.int32)
  label[:, columns.start : columns.stop] = [source.label(i) for i in indices]
  names, subjects = (tuple(own[i] for i in indices) for own in (source.names, source.subjects))
  return Films(site, names, subjects, images, label, columns)


def _check_pictures(sites: dict[str, _Site]) -> None:
  """Refuses identical pictures on both sides of the split."""
  seen = {
    array_digest(image): f"{site.train.site}/{name}"
    for site in sites.values()
    for name, image in zip(site.train.names, site.train.image, strict=True)
  }
  for site in sites.values():
    for name, image in zip(site.test.names, site.test.image, strict=True):
      twin = seen.get(array_digest(image))
      check.require(
        twin is None,
        "different pictures to train on and to test",
        f"identical ones, {twin} and {site.test.site}/{name}",
        "remove the row of one from its table",
      )


def _pool(parts: Sequence[Films]) -> Batch:
  people = {person: code for code, person in enumerate(p for f in parts for p in f.people)}
  total = sum(len(films.names) for films in parts)
  codes = [people[f"{films.site}/{s}"] for films in parts for s in films.subjects]
  domain = [np.full(len(films.names), SITES.index(films.site)) for films in parts]
  return Batch(
    image=np.concatenate([films.image for films in parts]),
    label=np.concatenate([films.label for films in parts]),
    domain=np.concatenate(domain).astype(np.int32),
    subject=np.array(codes, np.int32),
    index=np.arange(total, dtype=np.int32),
    weight=np.ones(total, np.float32),
  )


def _pair(name: str, sites: dict[str, _Site], is_own: bool) -> Pair:
  *sources, target = sites_of(name, sites)
  check.require(len(sources) == 1, "one source", f"{sources}", "pass --pairs a>b")
  source = sources[0]
  ends = np.cumsum([0, *(len(site.train.names) for site in sites.values())])
  rows = {site: np.arange(a, b) for site, a, b in zip(sites, ends[:-1], ends[1:], strict=True)}
  places = {site: place if is_own else 0 for place, site in enumerate(sites)}
  parts: dict[str, Any] = {
    f"{role} {part}": films.people
    for role, site in (("source", source), ("target", target))
    for part, films in sites[site]._asdict().items()
  }
  data.check_disjoint(parts)
  return Pair(
    name,
    rows[source],
    tuple(rows[target][:, None]),
    (sites[source].test,),
    (sites[target].test,),
    parts,
    places[source],
    places[target],
    "images",
  )
