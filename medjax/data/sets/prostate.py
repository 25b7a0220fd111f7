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

import numpy as np

from medjax.check import require
from medjax.data.formats import labels
from medjax.data.formats.volume import Volume
from medjax.data.normalise import Normaliser
from medjax.data.sets import downloads
from medjax.data.sets.downloads import Download
from medjax.data.sets.scans import Scan, ScanSet, add_file, digests_of, with_mask_of_its_shape

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


class ProstateSites(ScanSet):
  """A Source of scans [x, y, z, 1] and prostate masks with the axes of the file, z through slices.

  Attributes:
    names: SITE/CaseNN, which are the subjects too; the numbers begin anew at every site.
  """

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
      normalise: normalisation of each volume; MMTL's is "zscore".
    Raises:
      InputError: no scans, an unknown site, a scan without mask, two of one name. Reading a case
        raises it for a mask on another grid or with values other than 0, 1, 2, and for what
        `nifti.read_nifti` refuses.
    """
    strangers = [site for site in sites if site not in SITES]
    require(
      not strangers and sites, f"sites among {', '.join(SITES)}", f"{list(sites)}", "correct them"
    )
    root = pathlib.Path(root)
    images: dict[str, Download] = {}
    masks: dict[str, Download] = {}
    for download, match in downloads.find(root, NAME):
      site = _site(download.place)
      if site in sites:
        add_file(masks if match[2] else images, f"{site}/Case{int(match[1]):02d}", download)
    require(
      images,
      f"files like RUNMC/Case00.nii.gz of {', '.join(sites)} in {root}",
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
    files = [(images[name], masks[name]) for name in order]

    def read(index: int) -> tuple[Volume, np.ndarray]:
      # Scans and masks come from different tools: only their grids are known to agree.
      return with_mask_of_its_shape(*files[index], lambda label: _prostate(label, files[index][1]))

    super().__init__(
      "prostate",
      root,
      [Scan(name, name, name.partition("/")[0]) for name in order],
      read,
      class_names=("background", "prostate"),
      channel_names=("T2",),
      files=digests_of(files),
      normalise=normalise,
      spacing=spacing,
      options={"sites": sites, "spacing": spacing, "normalise": normalise},
    )


def _prostate(label: Volume, where: Download) -> np.ndarray:
  """Both zones are prostate."""
  raw = labels.whole_numbers(label.array, str(where))
  return (labels.class_ids(raw, (0, 1, 2), str(where)) > 0).astype(np.int32)


def _site(place: str) -> str:
  """The site that a folder or archive on the way to the file is named after, "" if none is."""
  for folder in reversed(place.split("/")[:-1]):
    name = folder.upper().removesuffix(".ZIP")
    name = ALIASES.get(name, name)
    if name in SITES:
      return name
  return ""
