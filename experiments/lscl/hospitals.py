"""Sites of the style-curriculum study: who is trained on, who is unseen, on which grid.

A turn leaves some sites out. People of the other sites, the sources, are parted into training,
validation and test; of the sites left out everybody tests. Where sites are simulated, one set of
people is parted once, trains at one source each, and is tested at every site: differences between
sites are then differences between scanners. Styles come from training images, and from unlabelled
ones, of source sites.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from medjax import check, data, study
from medjax.data.people.subjects import subjects_of
from medjax.data.sets.mnms import MnMs
from medjax.data.simulated.cardiac import VENDORS, CardiacAnatomy
from medjax.study import stacks
from medjax.study.sites import StudySite, drawn, drawn_of, folder, names_of, rescanned, some_people
from medjax.study.stacks import Stack
from medjax.types import Batch, Example

Role = Literal["in-domain", "unseen"]
_PARTS = {"train": 0.6, "validation": 0.1, "test": 0.3}


@dataclasses.dataclass(frozen=True)
class DataConfig(study.Settings):
  """Where images come from."""

  # "cardiac": simulated hearts of vendors A to D; "folders": an nnU-Net folder a site after --data,
  # or one folder whose scans are given the scanners of --simulate; "mnms": the M&Ms challenge, its
  # vendors being the sites
  source: Literal["cardiac", "folders", "mnms"] = "cardiac"
  # sites of `python -m medjax.synth` that rescan the one folder, e.g. research-t1
  simulate: tuple[str, ...] = ()
  leave_out: tuple[str, ...] = ()  # sites to leave out; () leaves out each in its turn
  # "together": one training without all of `leave_out`; "each": a training without each
  turns: Literal["together", "each"] = "together"
  num_people: int = 40  # simulated hearts
  num_unlabelled: int = 0  # further simulated hearts a source, whose images are styles and no more
  # regular expression with one group that finds the subject in a case name; "" makes every case its
  # own subject
  subject_pattern: str = ""
  # similarity from which cases of two people are taken for one scan, and refused in two folders; -1
  # takes the measured default (.55 for volumes, .8 for pictures), 0 does not look. Cases of one
  # folder that look alike stay in one part in any case
  near_duplicates: float = -1.0
  train_part: str = "Training/Labeled"  # folder of the M&Ms download to train on
  test_part: str = "Testing"  # folder of the M&Ms download to test on
  max_test: int = 0  # people tested at a site; 0 tests all
  shape: tuple[int, int] = (64, 64)  # pixels of the network's input
  # pixel size in mm that volumes are resampled to in plane; 0 keeps the files' own
  pixel_mm: float = 0.0
  # how an image comes to `shape`: "crop" about its middle, outside which nothing is scored, or
  # "resize" whatever its pixel size, as published
  grid: Literal["crop", "resize"] = "crop"
  # intensities of a slice: "percentile" (the 1st and 99th go to 0 and 1) or "minmax"
  normalise: Literal["percentile", "minmax"] = "percentile"

  def __post_init__(self):
    study.check_fields(self, may_be_zero=("num_unlabelled", "max_test", "pixel_mm"))
    check.in_interval("sizes of shape", min(self.shape), 8, 4096, "pass 8 pixels or more")
    check.require(
      not self.simulate or self.source == "folders",
      "--source folders with --simulate",
      f"--source {self.source}",
      "give one nnU-Net folder after --data",
    )

  @property
  def network_grid(self) -> stacks.Grid:
    """How a case comes to the network's input."""
    return stacks.Grid(self.shape, self.grid, self.normalise)


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
    class_names: common to all sites.
    is_simulated: whether the same people were scanned at all sites.
    manifest: of the sources.
    turns: trainings.
  """

  title: str
  sites: tuple[str, ...]
  class_names: tuple[str, ...]
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


def load(
  config: DataConfig, paths: Sequence[pathlib.Path], seed: int, picture: pathlib.Path | None = None
) -> Setting:
  """Reads everything and refuses what would leak between parts.

  Two cases of two folders that look like one scan are shown in the file `picture`.

  Raises:
    InputError: sites with different channels or labels, a site that is not there, a wrong number
      of folders, identical images in two parts, and whatever the sources refuse.
  """
  is_simulated = config.source == "cardiac" or bool(config.simulate)
  if config.source == "cardiac":
    study.paths_of(paths, 0, " with --source cardiac")
    sites, title = _hearts(config, seed), "simulated hearts"
  elif config.source == "mnms":
    (path,) = study.paths_of(paths, 1, " with --source mnms: the download")
    sites, title = _mnms(config, path, seed), "M&Ms"
  elif config.simulate:
    (path,) = study.paths_of(paths, 1, " with --simulate")
    source, title = _folder(config, path), path.resolve().name
    part_of, scanners = drawn_of(source, _PARTS, seed), rescanned(source, config.simulate, seed)
    sites = {name: StudySite(scans, part_of) for name, scans in scanners.items()}
  else:
    sites = _folders(config, study.paths_of(paths, None, ", a folder a site"), seed)
    title = " and ".join(sites)
  together = data.concat({name: site.source for name, site in sites.items()})
  check.require(together.class_names, "labelled cases", "none", "give images with labels")
  for name in config.leave_out:
    check.one_of("leave_out", name, sites)
  is_one = config.turns == "together" and config.leave_out
  left_out = [config.leave_out] if is_one else [(site,) for site in config.leave_out or sites]
  for unseen in left_out:
    check.require(len(unseen) < len(sites), "a site to train on", "none", "leave fewer sites out")
  cases = {name: _stacks(config, name, site) for name, site in sites.items()}
  turns = tuple(_turn(config, sites, cases, unseen, is_simulated, seed) for unseen in left_out)
  if config.source == "folders" and not config.simulate:
    # A person in two folders may be trained on at one site and tested at another.
    homes = {f"site {n}": [f"{n}/{s}" for s in sorted(site.part_of)] for n, site in sites.items()}
    study.check_alike(together, homes, config.near_duplicates, picture)
  about = together.manifest()
  return Setting(title, tuple(sites), together.class_names, is_simulated, about, turns)


def _hearts(config: DataConfig, seed: int) -> dict[str, StudySite]:
  shape = (*config.shape, 6)
  part_of = drawn(CardiacAnatomy(config.num_people, seed).subjects, _PARTS, seed)
  sites = {}
  for name in VENDORS:
    more: list[np.ndarray] = []
    if config.num_unlabelled:
      others = CardiacAnatomy(config.num_unlabelled, seed + 1_000_000, vendor=name, shape=shape)
      more = [np.asarray(others[i].image) for i in range(len(others))]
    source = CardiacAnatomy(config.num_people, seed, vendor=name, shape=shape)
    sites[name] = StudySite(source, part_of, more)
  return sites


def _mnms(config: DataConfig, root: pathlib.Path, seed: int) -> dict[str, StudySite]:
  """Vendors as sites; their training people part into training and validation, others test."""
  training = MnMs(root, part=config.train_part)
  testing = MnMs(root, part=config.test_part)
  sites = {}
  for vendor in sorted({*training.domains, *testing.domains}):
    own = {"test": MnMs(root, part=config.test_part, vendors=(vendor,))}
    part_of = dict.fromkeys(own["test"].subjects, "test")
    more: list[np.ndarray] = []
    if vendor in training.domains:
      own["train"] = MnMs(root, part=config.train_part, vendors=(vendor,))
      part_of |= drawn(own["train"].subjects, {"train": 0.9, "validation": 0.1}, seed)
      frames = MnMs(root, part=config.train_part, vendors=(vendor,), frames="all")
      more = [
        np.asarray(frames[i].image)
        for i, frame in enumerate(frames.frames)
        if not frame.phase and part_of.get(frame.code) == "train"
      ]
    sites[vendor] = StudySite(_Joined(own), part_of, more)
  return sites


def _folders(config: DataConfig, paths: Sequence[pathlib.Path], seed: int) -> dict[str, StudySite]:
  found = {}
  for name, path in zip(names_of(paths), paths, strict=True):
    source = _folder(config, path)
    part_of = drawn_of(source, _PARTS, seed)
    found[name] = StudySite(source, part_of, _unlabelled(config, path, source, part_of))
  return found


def _folder(config: DataConfig, path: pathlib.Path) -> data.NnUNetFolder:
  spacing = (config.pixel_mm, config.pixel_mm, None) if config.pixel_mm else None
  return folder(path, config.subject_pattern, spacing)


def _unlabelled(
  config: DataConfig, path: pathlib.Path, source: data.NnUNetFolder, part_of: Mapping[str, str]
) -> list[np.ndarray]:
  """Images of imagesUn, where there are any, but for those of validation and test people."""
  if not (path / "imagesUn").is_dir():
    return []
  preprocess = source.preprocessing()
  cases = data.find_cases(path / "imagesUn", preprocess)
  people = subjects_of([c.name for c in cases], config.subject_pattern or None)
  return [
    preprocess.apply(data.read_case(case), case.name).array
    for case, person in zip(cases, people, strict=True)
    if part_of.get(person, "train") == "train"
  ]


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


def _stacks(config: DataConfig, name: str, site: StudySite) -> tuple[Stack, ...]:
  phases, grid = getattr(site.source, "phases", ("",) * len(site.source)), config.network_grid
  return tuple(grid.stack(site.source[i], name, phase) for i, phase in enumerate(phases))


def _turn(
  config: DataConfig,
  sites: Mapping[str, StudySite],
  cases: Mapping[str, tuple[Stack, ...]],
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
    for stack in cases[name]:
      part = site.part_of[stack.subject]
      if part == "test" or (name in unseen and not is_simulated):
        testing.append(stack)
      elif name in known and at_site.get(stack.subject, name) == name:
        (train if part == "train" else validation).append(stack)
    test += some_people(testing, config.max_test, seed, "tested people")
  for what, found in (("train on", train), ("test", test)):
    check.require(found, f"people to {what}", "none", "give more people or leave out fewer sites")
  people = {
    part: tuple(sorted({f"{stack.site}/{stack.subject}" for stack in found}))
    for part, found in (("train", train), ("validation", validation), ("test", test))
  }
  bare = {part: {name.partition("/")[2] for name in names} for part, names in people.items()}
  data.check_disjoint(bare if is_simulated else people)
  stacks.check_pixels(train + validation, test)
  planes = config.network_grid.planes
  more = [planes(image) for name in known for image in sites[name].unlabelled]
  styles = np.concatenate([stack.image for stack in train] + [np.stack(p) for p in more])
  return Turn(
    name="+".join(unseen),
    unseen=unseen,
    # Simulated sites show the same people, folders each their own.
    train=stacks.batch(train, known, lambda s: s.subject if is_simulated else (s.site, s.subject)),
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


def _one_site_each(sites: Mapping[str, StudySite], known: Sequence[str]) -> dict[str, str]:
  """The source at which each person of training and validation was scanned."""
  part_of = next(iter(sites.values())).part_of
  each = {}
  for part in ("train", "validation"):
    people = sorted(person for person, own in part_of.items() if own == part)
    each |= {person: known[i % len(known)] for i, person in enumerate(people)}
  return each
