"""Simulated centres of the replay study: heads with lesions under scanners of the catalogue.

Heads and lesions are functions of (seed, centre, case), so that no anatomy and no lesion stands in
two centres or on two sides of a split. Lesions lie in white matter, more often near the ventricles;
their soft label is the share of each voxel that they fill. Masks of real patients may take the
place of some, each in one head.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from medjax import check, data
from medjax.data.seeds import generator
from medjax.synth import sites, tissues

# The published order, by size. Karo has FLAIR and T2 scans, Milan T2 alone, the others FLAIR.
SITES = (
  ("research", ("flair",)),
  ("trial", ("t2", "flair")),
  ("clinic", ("t2",)),
  ("hospital", ("flair",)),
  ("memory", ("flair",)),
  ("legacy", ("flair",)),
  ("lowfield", ("flair",)),
  ("surface", ("flair",)),
)
_HEAD = 0.84  # of the field of view that a simulated head fills
_TISSUE_OF = {
  1: "cortical_gray_matter",
  2: "white_matter",
  3: "csf",
  4: "csf",
  5: "deep_gray_matter",
  6: "deep_gray_matter",
}
_WHITE, _VENTRICLES = 2, (3, 4)
_SUBVOXELS = 3  # an axis, for the share of a voxel that a lesion fills
_ONE_MASK = 0.8  # Dice, brain on brain, from which two people's lesions are taken for one mask


def centre(
  name: str,
  contrasts: Sequence[str],
  num: int,
  shape: tuple[int, ...],
  spacing: tuple[float, ...],
  seed: int,
  real: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """Images [case, *space, 1] and soft labels [case, *space] of one centre."""
  heads = data.ProceduralAnatomy(num, shape, 7, int(generator(seed, name).integers(2**31)))
  anatomy = np.stack([np.asarray(heads[i].label) for i in range(num)])
  lesion = np.stack(
    [lesions(anatomy[i], generator(seed, f"{name} lesions", i)) for i in range(num)]
  )
  for i, mask in enumerate(real):
    lesion[i] = mask * (anatomy[i] == _WHITE)
  table = tissues.by_name(_TISSUE_OF)
  image = np.empty((*anatomy.shape, 1), np.float32)
  for turn, contrast in enumerate(contrasts):
    site = sites.find(f"{name}-{contrast}")

    @jax.jit
    @jax.vmap
    def scan(key, label, share, site=site):
      sigma = 0.4 * float(np.mean(spacing))
      maps = tissues.tissue_fractions(table, label, spacing=spacing, sigma_mm=sigma)
      ill = jax.nn.one_hot(tissues.TISSUES.index("lesion"), len(tissues.TISSUES))
      maps = maps * (1 - share[..., None]) + share[..., None] * ill.reshape(
        (1,) * share.ndim + (-1,)
      )
      parameters = site.draw(key, (*shape, 1))
      return site.apply(parameters, site.contrast_image(parameters, maps), spacing=spacing)

    own = np.arange(turn, num, len(contrasts))
    key = jax.random.key(int(generator(seed, f"{name} scans").integers(2**31)))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, own)
    image[own] = scan(keys, anatomy[own], lesion[own])
  return image, lesion


def generated(num: int, shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Images [num, *shape, 1] and soft labels of synthetic heads of random contrast."""
  from scipy import ndimage

  images = np.zeros((num, *shape, 1), np.float32)
  labels = np.zeros((num, *shape), np.float32)
  if num == 0:
    return images, labels
  heads = data.ProceduralAnatomy(num, shape, 7, int(generator(seed, "synthetic").integers(2**31)))
  for i in range(num):
    random = generator(seed, "synthetic scans", i)
    anatomy = np.asarray(heads[i].label)
    labels[i] = lesions(anatomy, random)
    level = np.concatenate([[0.0], random.uniform(0.1, 1.0, 6)])
    clean = level[anatomy]
    ill = level[_WHITE] + random.uniform(0.1, 0.5)
    clean = clean + labels[i] * (ill - clean)
    clean = ndimage.gaussian_filter(clean, random.uniform(0.3, 0.9))
    noisy = np.abs(clean + random.uniform(0.01, 0.06) * random.standard_normal(shape))
    images[i] = noisy.astype(np.float32)[..., None]
  return images, labels


def real_lesions(
  path: pathlib.Path, shape: tuple[int, ...], subject_pattern: str | None = None
) -> list[np.ndarray]:
  """Soft masks [*shape] of people's lesions, their brains scaled to the simulated ones.

  Args:
    path: nnU-Net folder; of a person with several cases the first is taken.
    shape: of the simulated heads.
    subject_pattern: finds the person in a case's name.
  Raises:
    InputError: no such folder, masks of other axes than `shape`, a mask without lesion, two people
      of one mask: the same voxels, or the same place in the brain.
  """
  source = data.NnUNetFolder(path, normalise="none", subject_pattern=subject_pattern)
  data.check_content(source, data.Splits({person: (person,) for person in set(source.subjects)}))
  found: dict[str, np.ndarray] = {}
  for i, person in enumerate(source.subjects):
    if person in found:
      continue
    example = source[i]
    body, mask = np.abs(np.asarray(example.image)).max(-1) > 0, np.asarray(example.label) > 0
    check.require(
      mask.ndim == len(shape), f"masks of {len(shape)} axes", f"{mask.ndim}", "match --shape"
    )
    check.require(mask.any(), f"a lesion in {example.name}", "none", "remove the case")
    found[person] = _scaled(body, mask, shape)
    for other, own in found.items():
      overlap = 2 * np.minimum(own, found[person]).sum() / (own.sum() + found[person].sum())
      check.require(
        other == person or overlap < _ONE_MASK,
        "different lesions of different people",
        f"Dice {overlap:.2f}, brain on brain, of {other} and {person}",
        "remove one, or pass --subject_pattern if they are one person",
      )
  return list(found.values())


def _scaled(body: np.ndarray, mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """The mask as shares of voxels [*shape], the box around the body as large as a simulated head."""
  from scipy import ndimage

  inner = [round(_HEAD * n) for n in shape]
  box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(body | mask))
  cut = mask[box].astype(np.float32)
  scale = [n / size for n, size in zip(inner, cut.shape, strict=True)]
  smooth = ndimage.uniform_filter(cut, [max(round(1 / s), 1) for s in scale], mode="constant")
  small = ndimage.zoom(smooth, scale, order=1, grid_mode=True, mode="grid-constant")
  whole = np.zeros(shape, np.float32)
  first = [(n - size) // 2 for n, size in zip(shape, small.shape, strict=True)]
  whole[tuple(slice(f, f + size) for f, size in zip(first, small.shape, strict=True))] = small
  return np.clip(whole, 0, 1)


def lesions(anatomy: np.ndarray, random: np.random.Generator) -> np.ndarray:
  """[*space] float32 in [0, 1]: 3 to 9 ellipsoids in the white matter of one head.

  Lengths are shares of the field of view, which is as long along every axis of the grid.
  """
  from scipy import ndimage

  white, sides = anatomy == _WHITE, np.array(anatomy.shape)
  away = ~np.isin(anatomy, _VENTRICLES)
  near = ndimage.distance_transform_edt(away, sides[0] / sides) / sides[0]
  chance = white * np.exp(-8 * near)
  places = np.flatnonzero(white)
  chance = chance.ravel()[places] / chance.sum()
  middles = random.choice(places, random.integers(3, 10), replace=False, p=chance)
  grid = np.stack(np.meshgrid(*(np.arange(n) for n in anatomy.shape), indexing="ij"), -1)
  offsets = (np.arange(_SUBVOXELS) + 0.5) / _SUBVOXELS - 0.5
  steps = np.stack(np.meshgrid(*(offsets,) * anatomy.ndim, indexing="ij"), -1).reshape(
    -1, anatomy.ndim
  )
  share = np.zeros(anatomy.shape, np.float32)
  for middle in middles:
    centre = np.asarray(np.unravel_index(middle, anatomy.shape))
    radii = sides * random.uniform(0.03, 0.09) * random.uniform(0.7, 1.3, anatomy.ndim)
    inside = [(((grid + s - centre) / radii) ** 2).sum(-1) < 1 for s in steps]
    share = np.maximum(share, np.mean(inside, 0, dtype=np.float32))
  return share * white
