"""Sites of the transfer study: simulated scanners, downloads, or a folder of yours for each site.

Every site has its own people, parted into training and test. A pair is one or more source sites and
a target: sources give all their training people, the target few of them, and both are tested. The
training slices of all sites are one pool, of which trainings take rows.
"""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments import slice_stacks
from experiments.slice_stacks import Stack
from medjax import check, data, synth
from medjax.data import cc359, manifest, prostate
from medjax.data.seeds import generator
from medjax.synth import tissues
from medjax.types import IGNORE, Batch, Example, Source

Kind = Literal["simulated", "folders", "cc359", "prostate"]
TO = ">"
"""Between the sources of a pair, joined by "+", and its target: "research-t1>lowfield-t1"."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where images come from.

  Attributes:
    data_source: "simulated": heads under the scanners of `python -m medjax.synth`, brain against
      the rest; "folders": an nnU-Net folder a site after --data, sources first, the target last;
      "cc359" and "prostate": one folder after --data with these downloads, see medjax.data.
    pairs: "SOURCE>TARGET" or "SOURCE+SOURCE>TARGET"; () is every site of CC359 onto every other,
      all but one prostate site onto that one, and all folders but the last onto the last.
    num_people: simulated people a site.
    test_fraction: share of a site's people that are tested.
    max_test: people tested at a site; 0 tests all of the test part.
    subject_pattern: regular expression with one group that finds the subject in a case name; ""
      makes every case its own subject.
    shape: pixels of the network's input, a crop or padding about the middle.
    num_slices: slices of a simulated head.
    spacing: voxel size in mm, one an axis: of simulated heads, and what volumes are resampled to;
      () keeps the files' own.
    normalise: intensities of a volume: "percentile" (the 1st and 99th go to 0 and 1) or "zscore".
  """

  data_source: Kind = "simulated"
  pairs: tuple[str, ...] = ()
  num_people: int = 20
  test_fraction: float = 0.3
  max_test: int = 0
  subject_pattern: str = ""
  shape: tuple[int, int] = (48, 48)
  num_slices: int = 12
  spacing: tuple[float, ...] = ()
  normalise: Literal["percentile", "zscore"] = "percentile"

  def __post_init__(self):
    check.positive("num_people", self.num_people)
    check.positive("num_slices", self.num_slices)
    check.in_interval("sizes of shape", min(self.shape), 8, 4096, "pass 8 pixels or more")
    check.in_interval("test_fraction", self.test_fraction, 0.05, 0.9)
    check.non_negative("max_test", self.max_test)
    check.require(
      all(mm > 0 for mm in self.spacing)
      and (len(self.spacing) == 3 or self.data_source != "simulated"),
      "sizes in mm, three of simulated heads, as spacing",
      f"{self.spacing}",
      "pass for example --spacing 2 2 4",
    )


class Pair(NamedTuple):
  """Sources and a target, ready to train and to test.

  Attributes:
    name: "SOURCE>TARGET".
    source_rows: rows of the pool with slices of the sources' training people.
    people: the same of each training person of the target.
    source_test, target_test: cases.
    parts: part -> people, for splits.json.
  """

  name: str
  source_rows: np.ndarray
  people: tuple[np.ndarray, ...]
  source_test: tuple[Stack, ...]
  target_test: tuple[Stack, ...]
  parts: dict[str, tuple[str, ...]]

  def drawn_people(self, seed: int) -> list[np.ndarray]:
    """`people` in the order in which sizes take them; every seed has its own."""
    order = generator(seed, f"people of {self.name}").permutation(len(self.people))
    return [self.people[i] for i in order]

  def target_rows(self, size: float, seed: int) -> np.ndarray:
    """Rows of `size` people; below 1 that share of the first one's slices, evenly spread.

    Raises:
      InputError: more people than the target has.
    """
    check.positive("target size", size)
    check.require(
      size <= len(self.people) and (size < 1 or size == int(size)),
      f"a target size of 1..{len(self.people)} people, or a share below 1 of one",
      f"{size:g}",
      f"choose another, or add people to the target of {self.name}",
    )
    people = self.drawn_people(seed)
    if size >= 1:
      return np.concatenate(people[: int(size)])
    rows = people[0]
    return rows[np.linspace(0, len(rows) - 1, max(round(size * len(rows)), 1)).round().astype(int)]


class Setting(NamedTuple):
  """All that is known before a network is made.

  Attributes:
    title: what the images are.
    class_names, channel_names: of all sites.
    manifest: of the sources.
    pool: slices of the training people of all sites.
    pairs: what is asked.
  """

  title: str
  class_names: tuple[str, ...]
  channel_names: tuple[str, ...]
  manifest: dict[str, Any]
  pool: Batch
  pairs: tuple[Pair, ...]

  @property
  def splits(self) -> dict[str, Any]:
    """What splits.json holds."""
    return {
      "kind": "people of each site, parted into training and test",
      "pairs": {pair.name: pair.parts for pair in self.pairs},
    }


def load(config: DataConfig, paths: Sequence[pathlib.Path], seed: int) -> Setting:
  """Reads all sites and refuses what would leak between parts.

  Raises:
    InputError: sites with different channels or labels, a pair of unknown sites, a wrong number of
      folders, identical images in two parts, and whatever the sources refuse.
  """
  sites = _sites(config, paths, seed)
  together = _together(sites)
  names = config.pairs or _all_pairs(config, list(sites))
  used = dict.fromkeys(site for name in names for site in _sites_of(name, sites))
  parted = {name: _parted(config, name, sites[name], seed) for name in used}
  train = [stack for site in parted.values() for stack in site.train]
  rows = _rows(train)
  slice_stacks.check_pixels(train, [stack for site in parted.values() for stack in site.test])
  return Setting(
    " and ".join(used),
    together.class_names,
    together.channel_names,
    together.manifest(),
    slice_stacks.batch(train, list(used), lambda stack: (stack.site, stack.subject)),
    tuple(_pair(name, _sites_of(name, sites), parted, rows) for name in names),
  )


def _sites(config: DataConfig, paths: Sequence[pathlib.Path], seed: int) -> dict[str, Source]:
  if config.data_source == "folders":
    return _folders(config, paths)
  words = [word for pair in config.pairs for word in pair.replace(TO, "+").split("+") if word]
  named = tuple(dict.fromkeys(words))
  if config.data_source == "simulated":
    check.require(not paths, "no --data for simulated sites", str(paths[:1]), "choose folders")
    check.require(named, "pairs of simulated sites", "none", "pass --pairs research-t1>legacy-t1")
    return {name: SimulatedHeads(config, name, seed) for name in named}
  check.require(len(paths) == 1, "one folder after --data", f"{len(paths)}", "pass the download")
  options: dict[str, Any] = {"spacing": config.spacing or None, "normalise": "none"}
  if config.data_source == "cc359":
    sites = named or cc359.SITES
    return {name: cc359.CC359(paths[0], sites=(name,), **options) for name in sites}
  sites = named or prostate.SITES
  return {name: prostate.ProstateSites(paths[0], sites=(name,), **options) for name in sites}


def _all_pairs(config: DataConfig, names: list[str]) -> tuple[str, ...]:
  if config.data_source == "cc359":
    return tuple(f"{a}{TO}{b}" for a in names for b in names if a != b)
  targets = names if config.data_source == "prostate" else names[-1:]
  return tuple("+".join(n for n in names if n != target) + TO + target for target in targets)


def _together(sites: Mapping[str, Source]) -> Source:
  first, *others = sites
  for other in others:
    mine, theirs = sites[first].class_names, sites[other].class_names
    check.require(
      mine == theirs,
      f"the labels of {first}, {mine}, at every site",
      f"{theirs} at {other}",
      "give all sites one label table in dataset.json; a network with other labels needs a new head"
      " in a group of its own (optax.partition), see medjax.methods.octl",
    )
  return data.concat(sites)


def _sites_of(pair: str, sites: Mapping[str, Source]) -> tuple[str, ...]:
  """Sources, then the target."""
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


def _folders(config: DataConfig, paths: Sequence[pathlib.Path]) -> dict[str, Source]:
  check.require(
    len(paths) > 1,
    "a folder a site after --data, the target last",
    f"{len(paths)}",
    "pass --data SOURCE --data TARGET",
  )
  names = [path.resolve().name for path in paths]
  check.require(
    len(set(names)) == len(names), "folders of different names", f"{names}", "rename one"
  )
  return {
    name: data.NnUNetFolder(
      path,
      spacing=config.spacing or None,
      normalise="none",
      subject_pattern=config.subject_pattern or None,
      cache=True,
    )
    for name, path in zip(names, paths, strict=True)
  }


class SimulatedHeads:
  """A Source of heads as one scanner shows them: scalp, skull, fluid, and the brain to be found.

  The same seed and number give the same person at no two sites.
  """

  class_names: tuple[str, ...] = ("background", "brain")

  def __init__(self, config: DataConfig, site: str, seed: int):
    self.site, self.seed = synth.sites.find(site), seed
    self.channel_names: tuple[str, ...] = (self.site.contrast,)
    self.subjects: tuple[str, ...] = tuple(f"head_{seed}_{i:03d}" for i in range(config.num_people))
    self.names, self.domains = self.subjects, (site,) * config.num_people
    self.spacing = tuple(config.spacing)
    self._shape = (*config.shape, config.num_slices)
    own = zlib.crc32(f"{seed} {site}".encode())
    self._anatomy = data.ProceduralAnatomy(config.num_people, self._shape, 6, own)

  def __len__(self) -> int:
    return len(self.subjects)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    label = self._anatomy[index].label
    assert label is not None
    key = jax.random.fold_in(jax.random.key(self._anatomy.seed), index)
    image = np.asarray(_scanner(self.site, self.spacing)(key, _head(label)))
    brain = (label > 1).astype(np.int32)
    name = self.names[index]
    return Example(name, name, index, image, brain, self.spacing, np.eye(4), self.domains[index])

  def manifest(self) -> dict[str, Any]:
    return manifest.describe(
      "simulated heads",
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options={"site": self.site.name, "seed": self.seed, "shape": self._shape},
    )


# Procedural class or layer -> tissue; bone is as dark as air.
_TISSUE_OF = {
  1: "fat",
  2: "cortical_gray_matter",
  3: "white_matter",
  4: "white_matter",
  5: "csf",
  6: "csf",
  7: "muscle",
}
_BONE = 0


def _head(label: np.ndarray) -> np.ndarray:
  """[*space] keys of `_TISSUE_OF`: the shell becomes skin, fat, bone, the brain's rim fluid."""
  inside, from_shell, to_brain = (_depth(label > 0), _depth(label > 1), _depth(label <= 1))
  head = label.copy()
  head[(label == 1) & (to_brain <= 2)] = _BONE
  head[(label == 1) & (inside <= 1.5)] = 7
  head[(label == 2) & (from_shell <= 1.5)] = 6
  return head


def _depth(mask: np.ndarray) -> np.ndarray:
  """Distance to the outside in pixels; slices lie two pixels apart."""
  from scipy import ndimage

  return np.asarray(ndimage.distance_transform_edt(mask, (1.0, 1.0, 2.0)))


@functools.lru_cache(maxsize=16)
def _scanner(site: synth.Site, spacing: tuple[float, ...]) -> Any:
  """Compiled once for all people."""
  table = tissues.by_name(_TISSUE_OF)

  @jax.jit
  def scan(key: jax.Array, head: jax.Array) -> jax.Array:
    maps = tissues.tissue_fractions(table, head, spacing=spacing)
    return synth.acquire(site, key, maps, spacing=spacing)

  return scan


class _Site(NamedTuple):
  """Cases of a site by part."""

  train: tuple[Stack, ...]
  test: tuple[Stack, ...]


def _parted(config: DataConfig, name: str, source: Source, seed: int) -> _Site:
  share = config.test_fraction
  subjects = source.subjects
  if config.data_source == "folders":
    subjects = slice_stacks.alike_together(source)
  drawn = data.split_subjects(subjects, {"train": 1 - share, "test": share}, seed=seed)
  indices = {part: drawn.indices(part, subjects) for part in ("train", "test")}
  if config.max_test:
    people = sorted({subjects[i] for i in indices["test"]})
    kept = set(generator(seed, "tested").permutation(people)[: config.max_test].tolist())
    indices["test"] = tuple(i for i in indices["test"] if subjects[i] in kept)
  train, test = (
    tuple(_stack(config, source[i].replace(subject=subjects[i]), name) for i in own)
    for own in indices.values()
  )
  return _Site(train, test)


def _stack(config: DataConfig, example: Example, site: str) -> Stack:
  """The slices of a case on the network's grid; outside it nothing is scored."""
  image, label, spacing = example.image, example.label, example.spacing
  if image is None or label is None or label.ndim not in (2, 3):
    raise check.InputError(
      f"an image and a label map of 2 or 3 axes in {example.name}", "none", "give labelled cases"
    )
  check.require(
    all(np.isfinite(mm) and mm > 0 for mm in spacing),
    f"a positive voxel size on every axis of {example.name}",
    f"{spacing}",
    "correct the header, or distances mean nothing",
  )
  labels = label[..., None] if label.ndim == 2 else label
  volume = data.normalise(image[:, :, None] if image.ndim == 3 else image, config.normalise)
  low = float(volume.min())
  images = [data.fit_to_shape(plane, config.shape, low) for plane in np.moveaxis(volume, 2, 0)]
  planes = [data.fit_to_shape(plane, config.shape, IGNORE) for plane in np.moveaxis(labels, 2, 0)]
  seen = data.fit_to_shape(np.ones(config.shape, bool), label.shape[:2])
  truth = np.where(seen if label.ndim == 2 else seen[..., None], label, IGNORE)
  mm = tuple(float(x) for x in spacing)
  stacked = np.stack(images).astype(np.float32), np.stack(planes).astype(np.int32)
  return Stack(example.name, example.subject, site, "", *stacked, truth, mm)


def _rows(stacks: Sequence[Stack]) -> dict[tuple[str, str], np.ndarray]:
  """Rows of the pool of each (site, person)."""
  starts = np.cumsum([0, *(len(stack.image) for stack in stacks)])
  found: dict[tuple[str, str], list[np.ndarray]] = {}
  for a, b, stack in zip(starts[:-1], starts[1:], stacks, strict=True):
    found.setdefault((stack.site, stack.subject), []).append(np.arange(a, b))
  return {person: np.concatenate(parts) for person, parts in found.items()}


def _pair(
  name: str,
  sites: Sequence[str],
  parted: Mapping[str, _Site],
  rows: Mapping[tuple[str, str], np.ndarray],
) -> Pair:
  *sources, target = sites
  tested = tuple(stack for source in sources for stack in parted[source].test)
  parts = {
    "source train": _people(stack for source in sources for stack in parted[source].train),
    "source test": _people(tested),
    "target train": _people(parted[target].train),
    "target test": _people(parted[target].test),
  }
  data.check_disjoint(parts)
  return Pair(
    name,
    np.concatenate([r for (site, _), r in rows.items() if site in sources]),
    tuple(r for (site, _), r in rows.items() if site == target),
    tested,
    parted[target].test,
    parts,
  )


def _people(stacks: Iterable[Stack]) -> tuple[str, ...]:
  return tuple(sorted({f"{stack.site}/{stack.subject}" for stack in stacks}))
