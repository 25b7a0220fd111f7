"""Simulated heads for skull stripping, as the scanners of `python -m medjax.synth` show them."""

import functools
import zlib
from typing import Any

import jax
import numpy as np

from experiments.site_transfer.config import DataConfig
from medjax import data, synth
from medjax.data import manifest
from medjax.synth import tissues
from medjax.types import Example


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
