"""Prostates in T2 from six sites, as Liu et al. distribute them (liuquande.github.io/SAML).

Three public sets on one grid of 384 x 384 voxels a slice: NCI-ISBI 2013 (sites A and B), I2CVB (C),
PROMISE12 (D, E, F). Below ROOT, zipped or unpacked, a folder for each site:

  RUNMC/Case00.nii.gz   RUNMC/Case00_segmentation.nii.gz
  BMC/Case05.nii.gz     BMC/Case05_Segmentation.nii.gz        capitals differ between the sites

Labels are 0 and 1, in the first two sites also 2 (a second zone): both are prostate.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from medjax.check import require, same_shape
from medjax.data import downloads, labels, manifest
from medjax.data.downloads import Download
from medjax.data.normalise import Normaliser, normalise
from medjax.data.preprocess import place
from medjax.data.volume import Volume
from medjax.types import Example

SITES = ("RUNMC", "BMC", "I2CVB", "UCL", "BIDMC", "HK")
"""Sites A to F; in this order MMTL's code numbers them from 0."""

ALIASES = {
  **{letter: site for letter, site in zip("ABCDEF", SITES, strict=True)},
  **{f"SITE{letter}": site for letter, site in zip("ABCDEF", SITES, strict=True)},
  "ISBI": "RUNMC",
  "ISBI_1.5": "BMC",
  "ISBI1.5": "BMC",
  "HCRUDB": "I2CVB",
}
"""Other names of the folders in circulation, in capitals; MMTL's code has ISBI and ISBI_1.5."""

NAME = r"Case(\d+)(_segmentation)?\.nii(\.gz)?"
"""Name of a scan or mask, in any case."""


class ProstateSites:
  """A Source of scans [x, y, z, 1] and prostate masks with the axes of the file, z through slices.

  Attributes:
    names: SITE/CaseNN, which are the subjects too; the numbers begin anew at every site.
  """

  class_names: tuple[str, ...] = ("background", "prostate")
  channel_names: tuple[str, ...] = ("T2",)

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    sites: Sequence[str] = SITES,
    spacing: tuple[float | None, float | None, float | None] | None = None,
    normalise: str | Normaliser = "zscore",
  ):
    """Lists the files; voxels are read when asked for.

    Args:
      root: folder with one folder or archive for each site, named as in SITES or ALIASES.
      sites: which of SITES.
      spacing: voxel size in mm, None keeps the file's.
      normalise: of each volume; MMTL's is "zscore".
    Raises:
      InputError: no scans, an unknown site, a scan without mask, two of one name. Reading a case
        raises it for a mask on another grid or with values other than 0, 1, 2, and for what
        `nifti.read_nifti` refuses.
    """
    strangers = [site for site in sites if site not in SITES]
    require(
      not strangers and sites, f"sites among {', '.join(SITES)}", f"{list(sites)}", "correct them"
    )
    self.root = pathlib.Path(root)
    self._spacing, self._normalise = spacing, normalise
    self._options = {"sites": sites, "spacing": spacing, "normalise": normalise}
    images: dict[str, Download] = {}
    masks: dict[str, Download] = {}
    for download, match in downloads.find(self.root, NAME):
      site = _site(download.place)
      if site not in sites:
        continue
      files = masks if match[2] else images
      name = f"{site}/Case{int(match[1]):02d}"
      first = files.setdefault(name, download)
      require(
        first is download or bool(first.member) != bool(download.member),
        f"one file of {name}",
        f"{first} and {download}",
        "remove one",
      )
    require(
      images,
      f"files like RUNMC/Case00.nii.gz of {', '.join(sites)} in {self.root}",
      "none",
      f"name the folders {', '.join(SITES)}",
    )
    missing = [str(images[name]) for name in images if name not in masks]
    require(
      not missing,
      "a file CaseNN_segmentation.nii.gz beside each scan",
      f"none for {', '.join(missing[:3])}",
      "download the site's folder again",
    )
    order = sorted(images, key=lambda name: (SITES.index(name.partition("/")[0]), name))
    self._files = [(images[name], masks[name]) for name in order]
    self.names = self.subjects = tuple(order)
    self.domains = tuple(name.partition("/")[0] for name in order)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    scan, mask = self._files[index]
    image, label = scan.read_nifti(), mask.read_nifti()
    same_shape(str(scan), image.array.shape, str(mask), label.array.shape)
    zones = labels.class_ids(labels.whole_numbers(label.array, str(mask)), (0, 1, 2), str(mask))
    # Scans and masks come from different tools: only their grids are known to agree.
    label = Volume((zones > 0).astype(np.int32), image.affine, image.spacing)
    scaled = image._replace(array=normalise(image.array[..., None], self._normalise))
    scaled = place(scaled, spacing=self._spacing, reorient=False, order=1)
    return Example(
      name=self.names[index],
      subject=self.subjects[index],
      index=index,
      image=scaled.array.astype(np.float32, copy=False),
      label=place(label, spacing=self._spacing, reorient=False, order=0).array,
      spacing=scaled.spacing,
      affine=scaled.affine,
      domain=self.domains[index],
    )

  def manifest(self) -> dict[str, Any]:
    return manifest.describe(
      "prostate",
      root=self.root,
      files=downloads.digests(file for pair in self._files for file in pair),
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=self._options,
    )


def _site(place: str) -> str:
  """The site that a folder or archive on the way to the file is named after, "" if none is."""
  for folder in reversed(place.split("/")[:-1]):
    name = folder.upper().removesuffix(".ZIP")
    name = ALIASES.get(name, name)
    if name in SITES:
      return name
  return ""
