"""The scans of one folder as other scanners would have taken them."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from medjax import check, synth
from medjax.data.seeds import generator
from medjax.types import Example, Source


def rescanned(source: Source, sites: Iterable[str], seed: int) -> dict[str, "Rescanned"]:
  """The source at each of `sites` of `python -m medjax.synth`, with the same people.

  Raises:
    InputError: images of several channels, an unknown site.
  """
  check.require(
    len(source.channel_names) == 1,
    "images of one channel to rescan",
    f"{len(source.channel_names)}",
    "keep one channel in dataset.json",
  )
  return {name: Rescanned(source, synth.sites.find(name), seed) for name in sites}


class Rescanned:
  """A source whose images another scanner took.

  Attributes:
    original: the source.
  """

  def __init__(self, source: Source, site: synth.Site, seed: int):
    self.original, self._site, self._seed = source, site, seed
    self.class_names, self.channel_names = source.class_names, source.channel_names
    self.subjects, self.domains = source.subjects, (site.name,) * len(source)
    self._scan = jax.jit(
      lambda key, image, spacing: synth.rescan(site, key, image, spacing=spacing),
      static_argnames="spacing",
    )

  def __len__(self) -> int:
    return len(self.original)

  def __getitem__(self, index: int) -> Example:
    example = self.original[index]
    key = jax.random.key(int(generator(self._seed, self._site.name, index).integers(2**31)))
    image = np.maximum(np.asarray(example.image), 0.0)  # magnitudes; resampling may undershoot
    scanned = np.asarray(self._scan(key, image, tuple(example.spacing)))
    return example.replace(image=scanned, domain=self._site.name)

  def manifest(self) -> dict[str, Any]:
    return {**self.original.manifest(), "rescanned by": self._site.name, "seed": self._seed}
