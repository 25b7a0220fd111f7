"""Sites of the style-curriculum study: who is trained on, who is unseen, on which grid.

A turn leaves some sites out. People of the other sites, the sources, are parted into training,
validation and test; of the sites left out everybody tests. Where sites are simulated, one set of
people is parted once, trains at one source each, and is tested at every site: differences between
sites are then differences between scanners. Styles come from training images, and from unlabelled
ones, of source sites.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import slice_stacks
from experiments.rescanned import rescanned
from experiments.slice_stacks import Stack
from medjax import check, data
from medjax.data.cardiac import VENDORS, CardiacAnatomy
from medjax.data.mnms import MnMs
from medjax.data.seeds import generator
from medjax.data.subjects import subjects_of
from medjax.types import IGNORE, Batch, Example, Source

Kind = Literal["cardiac", "folders", "mnms"]
Role = Literal["in-domain", "unseen"]
_PARTS = {"train": 0.6, "validation": 0.1, "test": 0.3}


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where images come from.

  Attributes:
    source: "cardiac": simulated hearts of vendors A to D; "folders": an nnU-Net folder a site after
      --data, or one folder whose scans are given the scanners of --simulate; "mnms": the M&Ms
      challenge, its vendors being the sites.
    simulate: sites of `python -m medjax.synth` that rescan the one folder, e.g. research-t1.
    leave_out: sites to leave out; () leaves out each in its turn.
    turns: "together": one training without all of `leave_out`; "each": a training without each.
    num_people: simulated hearts.
    num_unlabelled: further simulated hearts a source, whose images are styles and no more.
    subject_pattern: regular expression with one group that finds the subject in a case name; ""
      makes every case its own subject.
    train_part, test_part: folders of the M&Ms download to train on and to test on.
    max_test: people tested at a site; 0 tests all.
    shape: pixels of the network's input.
    pixel_mm: pixel size in mm that volumes are resampled to in plane; 0 keeps the files' own.
    grid: how an image comes to `shape`: "crop" about its middle, outside which nothing is scored,
      or "resize" whatever its pixel size, as published.
    normalise: intensities of a slice: "percentile" (the 1st and 99th go to 0 and 1) or "minmax".
  """

  source: Kind = "cardiac"
  simulate: tuple[str, ...] = ()
  leave_out: tuple[str, ...] = ()
  turns: Literal["together", "each"] = "together"
  num_people: int = 40
  num_unlabelled: int = 0
  subject_pattern: str = ""
  train_part: str = "Training/Labeled"
  test_part: str = "Testing"
  max_test: int = 0
  shape: tuple[int, int] = (64, 64)
  pixel_mm: float = 0.0
  grid: Literal["crop", "resize"] = "crop"
  normalise: Literal["percentile", "minmax"] = "percentile"

  def __post_init__(self):
    check.positive("num_people", self.num_people)
    check.in_interval("sizes of shape", min(self.shape), 8, 4096, "pass 8 pixels or more")
    for name in ("num_unlabelled", "max_test", "pixel_mm"):
      check.non_negative(name, getattr(self, name))
    check.require(
      not self.simulate or self.source == "folders",
      "--source folders with --simulate",
      f"--source {self.source}",
      "give one nnU-Net folder after --data",
    )


class Turn(NamedTuple):
  """One set of source sites and what is tested after it.

  Attributes:
    name: of the sites left out.
    unseen: these.
    train: slices of the training people; `domain` numbers the sources.
    validation: of the source sites.
    test: of all sites.
    styles: [n, height, width, channel] images of the sources.
    people: part -> subjects, for splits.json.
    vote: [slice, height, width] most frequent training class at each place of the network's grid,
      None where cases differ in their number of slices.
  """

  name: str
  unseen: tuple[str, ...]
  train: Batch
  validation: tuple[Stack, ...]
  test: tuple[Stack, ...]
  styles: np.ndarray
  people: dict[str, tuple[str, ...]]
  vote: np.ndarray | None

  def role(self, site: str) -> Role:
    return "unseen" if site in self.unseen else "in-domain"


class Setting(NamedTuple):
  """All that is known before a network is made.

  Attributes:
    title: what the images are.
    sites: all of them.
    class_names, channel_names: common to all sites.
    is_simulated: whether the same people were scanned at all sites.
    manifest: of the sources.
    turns: trainings.
  """

  title: str
  sites: tuple[str, ...]
  class_names: tuple[str, ...]
  channel_names: tuple[str, ...]
  is_simulated: bool
  manifest: dict[str, Any]
  turns: tuple[Turn, ...]

  @property
  def splits(self) -> dict[str, Any]:
    """What splits.json holds."""
    return {
      "kind": "subjects by part, sites left out in turn",
      "turns": [{"unseen": turn.unseen, "parts": turn.people} for turn in self.turns],
    }


class _Site(NamedTuple):
  """A site before a turn gives it a role: cases with their part, and images without labels."""

  source: Source
  part_of: Mapping[str, str]  # subject -> train, validation, test
  unlabelled: Sequence[np.ndarray]


def load(config: DataConfig, paths: Sequence[pathlib.Path], seed: int) -> Setting:
  """Reads everything and refuses what would leak between parts.

  Raises:
    InputError: sites with different channels or labels, a site that is not there, a wrong number
      of folders, identical images in two parts, and whatever the sources refuse.
  """
  is_simulated = config.source == "cardiac" or bool(config.simulate)
  if config.source == "cardiac":
    check.require(not paths, "no --data with --source cardiac", str(paths[:1]), "leave it out")
    sites, title = _hearts(config, seed), "simulated hearts"
  elif config.source == "mnms":
    check.require(len(paths) == 1, "one folder after --data", f"{len(paths)}", "pass the download")
    sites, title = _mnms(config, paths[0], seed), "M&Ms"
  elif config.simulate:
    check.require(
      len(paths) == 1, "one folder after --data with --simulate", f"{len(paths)}", "pass one"
    )
    sites, title = _rescanned(config, paths[0], seed), paths[0].resolve().name
  else:
    check.require(
      len(paths) > 1, "a folder a site after --data, two or more", f"{len(paths)}", "see --help"
    )
    sites = _folders(config, paths, seed)
    title = " and ".join(sites)
  together = data.concat({name: site.source for name, site in sites.items()})
  check.require(together.class_names, "labelled cases", "none", "give images with labels")
  for name in config.leave_out:
    check.one_of("leave_out", name, sites)
  left_out = _left_out(config, tuple(sites))
  for unseen in left_out:
    check.require(len(unseen) < len(sites), "a site to train on", "none", "leave fewer sites out")
  stacks = {name: _stacks(config, name, site) for name, site in sites.items()}
  turns = tuple(_turn(config, sites, stacks, unseen, is_simulated, seed) for unseen in left_out)
  return Setting(
    title,
    tuple(sites),
    together.class_names,
    together.channel_names,
    is_simulated,
    together.manifest(),
    turns,
  )


def restore(config: DataConfig, plane: np.ndarray, space: Sequence[int]) -> np.ndarray:
  """Class ids [height, width] on the network's grid -> [*space] on the case's own, in plane."""
  if config.grid == "resize":
    return _resized(plane, space, order=0)
  return data.fit_to_shape(plane, space)


def _left_out(config: DataConfig, sites: tuple[str, ...]) -> list[tuple[str, ...]]:
  chosen = config.leave_out or sites
  if config.turns == "together" and config.leave_out:
    return [chosen]
  return [(site,) for site in chosen]


def _hearts(config: DataConfig, seed: int) -> dict[str, _Site]:
  people = CardiacAnatomy(config.num_people, seed).subjects
  part_of = _drawn(people, seed)
  depth = 6
  sites = {}
  for name in VENDORS:
    source = CardiacAnatomy(config.num_people, seed, vendor=name, shape=(*config.shape, depth))
    more: Sequence[np.ndarray] = ()
    if config.num_unlabelled:
      others = CardiacAnatomy(
        config.num_unlabelled, seed + 1_000_000, vendor=name, shape=(*config.shape, depth)
      )
      more = [np.asarray(example.image) for example in _all(others)]
    sites[name] = _Site(source, part_of, more)
  return sites


def _mnms(config: DataConfig, root: pathlib.Path, seed: int) -> dict[str, _Site]:
  """Vendors as sites; their training people part into training and validation, others test."""
  training = MnMs(root, part=config.train_part)
  testing = MnMs(root, part=config.test_part)
  shares = {"train": 0.9, "validation": 0.1}
  sites = {}
  for vendor in sorted({*training.domains, *testing.domains}):
    is_known = vendor in training.domains
    own = {"test": MnMs(root, part=config.test_part, vendors=(vendor,))}
    if is_known:
      own["train"] = MnMs(root, part=config.train_part, vendors=(vendor,))
    part_of = dict.fromkeys(own["test"].subjects, "test")
    more: Iterable[np.ndarray] = ()
    if is_known:
      drawn = data.split_subjects(own["train"].subjects, shares, seed=seed)
      part_of |= {person: part for part, people in drawn.parts.items() for person in people}
      frames = MnMs(root, part=config.train_part, vendors=(vendor,), frames="all")
      more = (
        np.asarray(frames[i].image)
        for i, frame in enumerate(frames.frames)
        if not frame.phase and part_of.get(frame.code) == "train"
      )
    sites[vendor] = _Site(_Joined(own), part_of, list(more))
  return sites


def _folders(config: DataConfig, paths: Sequence[pathlib.Path], seed: int) -> dict[str, _Site]:
  names = [path.resolve().name for path in paths]
  check.require(
    len(set(names)) == len(names), "folders of different names", f"{names}", "rename one"
  )
  sites = {}
  for name, path in zip(names, paths, strict=True):
    source = _folder(config, path)
    subjects = slice_stacks.alike_together(source)
    part_of = _drawn(subjects, seed)
    merged = dict(zip(source.subjects, (part_of[subject] for subject in subjects), strict=True))
    sites[name] = _Site(source, merged, _unlabelled(config, path, source, merged))
  return sites


def _rescanned(config: DataConfig, path: pathlib.Path, seed: int) -> dict[str, _Site]:
  """The scans of one folder as several scanners would have taken them."""
  source = _folder(config, path)
  subjects = slice_stacks.alike_together(source)
  part_of = _drawn(subjects, seed)
  merged = dict(zip(source.subjects, (part_of[subject] for subject in subjects), strict=True))
  return {
    name: _Site(scans, merged, ())
    for name, scans in rescanned(source, config.simulate, seed).items()
  }


def _folder(config: DataConfig, path: pathlib.Path) -> data.NnUNetFolder:
  is_png = data.NnUNetFolder(path, normalise="none").spec.file_ending == ".png"
  check.require(
    not (is_png and config.pixel_mm),
    "--pixel_mm 0 for pictures",
    f"{config.pixel_mm}",
    "PNG files have no pixel size; distances are then in pixels",
  )
  return data.NnUNetFolder(
    path,
    spacing=(config.pixel_mm, config.pixel_mm, None) if config.pixel_mm else None,
    normalise="none",
    subject_pattern=config.subject_pattern or None,
    cache=True,
  )


def _drawn(subjects: Iterable[str], seed: int) -> dict[str, str]:
  drawn = data.split_subjects(subjects, _PARTS, seed=seed)
  return {person: part for part, people in drawn.parts.items() for person in people}


def _unlabelled(
  config: DataConfig, path: pathlib.Path, source: data.NnUNetFolder, part_of: Mapping[str, str]
) -> list[np.ndarray]:
  """Images of imagesUn, where there are any, but for those of validation and test people."""
  folder = path / "imagesUn"
  if not folder.is_dir():
    return []
  preprocess = source.preprocessing()
  cases = data.find_cases(folder, preprocess)
  people = subjects_of([c.name for c in cases], config.subject_pattern or None)
  kept = [
    case
    for case, person in zip(cases, people, strict=True)
    if part_of.get(person, "train") == "train"
  ]
  return [preprocess.apply(data.read_case(case), case.name).array for case in kept]


def _all(source: Source) -> Iterable[Example]:
  return (source[index] for index in range(len(source)))


class _Joined:
  """Sources of one label table one after the other, under the names that their people have."""

  def __init__(self, parts: Mapping[str, MnMs]):
    self._parts = dict(parts)
    first = next(iter(self._parts.values()))
    self.class_names, self.channel_names = first.class_names, first.channel_names
    self.subjects = tuple(s for source in self._parts.values() for s in source.subjects)
    self.domains = tuple(d for source in self._parts.values() for d in source.domains)
    self.phases = tuple(f.phase for source in self._parts.values() for f in source.frames)

  def __len__(self) -> int:
    return len(self.subjects)

  def __getitem__(self, index: int) -> Example:
    place = range(len(self))[index]
    for source in self._parts.values():
      if place < len(source):
        return source[place].replace(index=index)
      place -= len(source)
    raise IndexError(index)

  def manifest(self) -> dict[str, Any]:
    subjects, names = list(self.subjects), list(self.class_names)
    parts = {part: source.manifest() for part, source in self._parts.items()}
    return {"kind": "joined", "subjects": subjects, "class_names": names, "parts": parts}


def _stacks(config: DataConfig, name: str, site: _Site) -> tuple[Stack, ...]:
  phases = getattr(site.source, "phases", ("",) * len(site.source))
  return tuple(
    _stack(config, example, name, phase)
    for example, phase in zip(_all(site.source), phases, strict=True)
  )


def _stack(config: DataConfig, example: Example, site: str, phase: str) -> Stack:
  """The slices of a case on the network's grid."""
  image, label, spacing = example.image, example.label, example.spacing
  if image is None or label is None or label.ndim not in (2, 3):
    raise check.InputError(
      f"an image and a label map of 2 or 3 axes in {example.name}", "none", "give labelled cases"
    )
  check.require(
    len(spacing) == label.ndim and all(np.isfinite(mm) and mm > 0 for mm in spacing),
    f"a positive voxel size on every axis of {example.name}",
    f"{spacing}",
    "correct the header, or distances mean nothing",
  )
  labels = label[..., None] if label.ndim == 2 else label
  planes = [_placed(config, plane, label=True) for plane in np.moveaxis(labels, 2, 0)]
  is_seen = restore(config, np.ones(config.shape, np.int32), label.shape[:2]) > 0
  is_seen = is_seen if label.ndim == 2 else is_seen[..., None]
  return Stack(
    example.name,
    example.subject,
    site,
    phase,
    np.stack(_planes(config, image)),
    np.stack(planes).astype(np.int32),
    np.where(is_seen, label, IGNORE),
    tuple(float(mm) for mm in spacing),
  )


def _planes(config: DataConfig, image: np.ndarray) -> list[np.ndarray]:
  """[height, width, channel] in [0, 1] of each slice of [*space, channel]."""
  volume = image[:, :, None] if image.ndim == 3 else image
  placed = (_placed(config, plane, label=False) for plane in np.moveaxis(volume, 2, 0))
  return [data.normalise(plane, config.normalise) for plane in placed]


def _placed(config: DataConfig, plane: np.ndarray, *, label: bool) -> np.ndarray:
  if config.grid == "resize":
    return _resized(plane, config.shape, order=0 if label else 3)
  return data.fit_to_shape(plane, config.shape, IGNORE if label else float(plane.min()))


def _resized(plane: np.ndarray, shape: Sequence[int], *, order: int) -> np.ndarray:
  """Spline interpolation between pixel centres; pixels keep their share of the field of view."""
  from scipy import ndimage

  factors = [new / old for new, old in zip(shape, plane.shape, strict=False)]
  factors += [1.0] * (plane.ndim - 2)
  return ndimage.zoom(plane, factors, order=order, mode="nearest", grid_mode=True)


def _turn(
  config: DataConfig,
  sites: Mapping[str, _Site],
  stacks: Mapping[str, tuple[Stack, ...]],
  unseen: tuple[str, ...],
  is_simulated: bool,
  seed: int,
) -> Turn:
  """Roles of the sites, and of the people in them."""
  known = [name for name in sites if name not in unseen]
  at_site = _one_site_each(sites, known) if is_simulated else {}
  train: list[Stack] = []
  validation: list[Stack] = []
  test: list[Stack] = []
  for name, site in sites.items():
    testing: list[Stack] = []
    for stack in stacks[name]:
      part = site.part_of[stack.subject]
      if part == "test" or (name in unseen and not is_simulated):
        testing.append(stack)
      elif name in known and at_site.get(stack.subject, name) == name:
        (train if part == "train" else validation).append(stack)
    test += _some_people(testing, config.max_test, seed)
  for what, found in (("train on", train), ("test", test)):
    check.require(found, f"people to {what}", "none", "give more people or leave out fewer sites")
  people = {
    part: tuple(sorted({f"{stack.site}/{stack.subject}" for stack in found}))
    for part, found in (("train", train), ("validation", validation), ("test", test))
  }
  bare = {part: {name.partition("/")[2] for name in names} for part, names in people.items()}
  data.check_disjoint(bare if is_simulated else people)
  slice_stacks.check_pixels(train + validation, test)
  more = [_planes(config, image) for name in known for image in sites[name].unlabelled]
  styles = np.concatenate([stack.image for stack in train] + [np.stack(p) for p in more])
  return Turn(
    name="+".join(unseen),
    unseen=unseen,
    # Simulated sites show the same people, folders each their own.
    train=slice_stacks.batch(
      train, known, lambda s: s.subject if is_simulated else (s.site, s.subject)
    ),
    validation=tuple(validation),
    test=tuple(test),
    styles=styles,
    people=people,
    vote=_vote(train, test),
  )


def _vote(train: Sequence[Stack], test: Sequence[Stack]) -> np.ndarray | None:
  if len({stack.label.shape for stack in (*train, *test)}) > 1:
    return None
  labels = np.stack([stack.label for stack in train])
  counts = np.stack([(labels == k).sum(0) for k in range(int(labels.max()) + 1)])
  return counts.argmax(0).astype(np.int32)


def _one_site_each(sites: Mapping[str, _Site], known: Sequence[str]) -> dict[str, str]:
  """The source at which each person of training and validation was scanned."""
  part_of = next(iter(sites.values())).part_of
  each = {}
  for part in ("train", "validation"):
    people = sorted(person for person, own in part_of.items() if own == part)
    each |= {person: known[i % len(known)] for i, person in enumerate(people)}
  return each


def _some_people(stacks: list[Stack], most: int, seed: int) -> list[Stack]:
  people = sorted({stack.subject for stack in stacks})
  if not most or len(people) <= most:
    return stacks
  kept = set(generator(seed, "tested people").permutation(people)[:most].tolist())
  return [stack for stack in stacks if stack.subject in kept]
