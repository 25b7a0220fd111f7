"""Sites with label maps: simulated scanners, downloads, or a folder of yours for each site.

Where one folder is rescanned, its people are parted once: each trains at one site, and whoever is
tested is tested at every site, so that sites differ by their scanners alone.
"""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.site_transfer.config import DataConfig
from experiments.site_transfer.heads import SimulatedHeads
from experiments.site_transfer.setting import TO, Pair, Setting, parted, sites_of
from medjax import check, data, study
from medjax.data.sets import cc359, prostate
from medjax.study import stacks
from medjax.study.sites import Rescanned, rescanned
from medjax.study.stacks import Grid, Stack
from medjax.types import Source


def load(
  config: DataConfig, paths: Sequence[pathlib.Path], seed: int, picture: pathlib.Path | None = None
) -> Setting:
  """Reads all sites and refuses what would leak between parts.

  Two cases of two folders that look like one scan are shown in the file `picture`.

  Raises:
    InputError: sites with different channels or labels, a pair of unknown sites, a wrong number of
      folders, identical images in two parts, images at two sites that look like one scan, and
      whatever the sources refuse.
  """
  sites = _sites(config, paths, seed)
  together = _together(sites)
  if config.data_source == "folders":
    # A person at two sites may be trained on at one and tested at the other.
    homes = {f"site {name}": _people_at(together, name) for name in sites}
    study.check_alike(together, homes, config.near_duplicates, picture)
  names = config.pairs or _all_pairs(config, list(sites))
  used = list(dict.fromkeys(site for name in names for site in sites_of(name, sites)))
  cases = {name: _cases(config, name, sites[name], used, seed) for name in used}
  train = [stack for site in cases.values() for stack in site.train]
  rows = _rows(train)
  stacks.check_pixels(train, [stack for site in cases.values() for stack in site.test])
  return Setting(
    " and ".join(used),
    together.class_names,
    together.channel_names,
    together.manifest(),
    stacks.batch(train, used, lambda stack: (stack.site, stack.subject)),
    tuple(_pair(config, name, sites_of(name, sites), cases, rows) for name in names),
    (len(together.class_names),),
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
  check.require(len(paths) == 1, "one folder after --data", f"{len(paths)}", "see --help")
  if config.data_source == "rescanned":
    check.require(named, "pairs of scanners", "none", "pass --pairs research-t1>lowfield-t1")
    return dict(rescanned(_folder(config, paths[0]), named, seed))
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
      "give all sites one label table in dataset.json: the U-Nets have one head (a new head for"
      " other labels is there for radiographs)",
    )
  return data.concat(sites)


def _people_at(together: Source, site: str) -> list[str]:
  pairs = zip(together.domains, together.subjects, strict=True)
  return sorted({subject for domain, subject in pairs if domain == site})


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
  return {name: _folder(config, path) for name, path in zip(names, paths, strict=True)}


def _folder(config: DataConfig, path: pathlib.Path) -> data.NnUNetFolder:
  return data.NnUNetFolder(
    path,
    spacing=config.spacing or None,
    normalise="none",
    subject_pattern=config.subject_pattern or None,
    cache=True,
  )


class _Site(NamedTuple):
  """Cases of a site by part."""

  train: tuple[Stack, ...]
  test: tuple[Stack, ...]


def _cases(config: DataConfig, name: str, source: Source, used: Sequence[str], seed: int) -> _Site:
  subjects = source.subjects
  if config.data_source == "folders":
    subjects = stacks.alike_together(source)
  elif isinstance(source, Rescanned):
    subjects = stacks.alike_together(source.original)
  indices = parted(config, subjects, seed)
  if isinstance(source, Rescanned):
    people = sorted({subjects[i] for i in indices["train"]})
    own = set(people[used.index(name) :: len(used)])
    check.require(
      own, f"people for {len(used)} sites", f"{len(people)}", "name fewer sites in --pairs"
    )
    indices["train"] = tuple(i for i in indices["train"] if subjects[i] in own)
  grid = Grid(config.shape, normalise=config.normalise, is_by_slice=False)
  train, test = (
    tuple(grid.stack(source[i].replace(subject=subjects[i]), name) for i in indices[part])
    for part in ("train", "test")
  )
  return _Site(train, test)


def _rows(stacks: Sequence[Stack]) -> dict[tuple[str, str], np.ndarray]:
  """Rows of the pool of each (site, person)."""
  starts = np.cumsum([0, *(len(stack.image) for stack in stacks)])
  found: dict[tuple[str, str], list[np.ndarray]] = {}
  for a, b, stack in zip(starts[:-1], starts[1:], stacks, strict=True):
    found.setdefault((stack.site, stack.subject), []).append(np.arange(a, b))
  return {person: np.concatenate(parts) for person, parts in found.items()}


def _pair(
  config: DataConfig,
  name: str,
  sites: Sequence[str],
  cases: Mapping[str, _Site],
  rows: Mapping[tuple[str, str], np.ndarray],
) -> Pair:
  *sources, target = sites
  tested = tuple(stack for source in sources for stack in cases[source].test)
  parts = {
    "source train": _people(stack for source in sources for stack in cases[source].train),
    "source test": _people(tested),
    "target train": _people(cases[target].train),
    "target test": _people(cases[target].test),
  }
  data.check_disjoint(parts)
  if config.data_source == "rescanned":
    bare = {part: {n.partition("/")[2] for n in names} for part, names in parts.items()}
    data.check_disjoint(
      {
        "source train": bare["source train"],
        "target train": bare["target train"],
        "test": bare["source test"] | bare["target test"],
      }
    )
  return Pair(
    name,
    np.concatenate([r for (site, _), r in rows.items() if site in sources]),
    tuple(r for (site, _), r in rows.items() if site == target),
    tested,
    cases[target].test,
    parts,
  )


def _people(stacks: Iterable[Stack]) -> tuple[str, ...]:
  return tuple(sorted({f"{stack.site}/{stack.subject}" for stack in stacks}))
