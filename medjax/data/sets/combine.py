"""Sources out of sources: several sites side by side, or some of the cases."""

from collections.abc import Mapping

from medjax.check import require
from medjax.types import Example, Indices, Json, Source


def concat(sites: Mapping[str, Source]) -> "Concat":
  """One Source over several sites in the order of the mapping.

  The key becomes `domain`, and the front of names and subjects ("site1/cell000"): equal case names
  at two sites are two people.

  Raises:
    InputError: no site, or class or channel names that differ between sites.
  """
  return Concat(sites)


class Concat:
  """A Source; use `concat`."""

  def __init__(self, sites: Mapping[str, Source]):
    require(sites, "at least one site", "none", "pass {name: source}")
    self.sites = dict(sites)
    first, *others = self.sites
    self.class_names = self.sites[first].class_names
    self.channel_names = self.sites[first].channel_names
    for other in others:
      for field in ("class_names", "channel_names"):
        mine, theirs = getattr(self, field), getattr(self.sites[other], field)
        require(
          mine == theirs,
          f"{field} of {first} and {other} to be equal",
          f"{mine} and {theirs}",
          "bring the sites to one label table",
        )
    self._table = [(site, i) for site, source in self.sites.items() for i in range(len(source))]
    self.subjects = tuple(
      f"{site}/{subject}" for site, source in self.sites.items() for subject in source.subjects
    )
    self.domains = tuple(site for site, _ in self._table)

  def __len__(self) -> int:
    return len(self._table)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    site, position = self._table[index]
    example = self.sites[site][position]
    return example.replace(
      name=f"{site}/{example.name}", subject=self.subjects[index], index=index, domain=site
    )

  def manifest(self) -> dict[str, Json]:
    return {
      "kind": "concat",
      "subjects": list(self.subjects),
      "class_names": list(self.class_names),
      "channel_names": list(self.channel_names),
      "sites": {site: source.manifest() for site, source in self.sites.items()},
    }


def subset(source: Source, indices: Indices) -> "Subset":
  """The cases at `indices`, in that order; they keep their name, subject and `index`."""
  return Subset(source, indices)


class Subset:
  """A Source; use `subset`."""

  def __init__(self, source: Source, indices: Indices):
    self.source = source
    self.indices = tuple(range(len(source))[int(i)] for i in indices)
    self.class_names, self.channel_names = source.class_names, source.channel_names
    self.subjects = tuple(source.subjects[i] for i in self.indices)
    domains = getattr(source, "domains", None)
    if domains is not None:
      self.domains = tuple(domains[i] for i in self.indices)

  def __len__(self) -> int:
    return len(self.indices)

  def __getitem__(self, index: int) -> Example:
    return self.source[self.indices[index]]

  def manifest(self) -> dict[str, Json]:
    return {
      **self.source.manifest(),
      "indices": list(self.indices),
      "subjects": list(self.subjects),
    }
