"""CC359: 359 heads in T1 from six scanners and their brain masks, as downloaded.

Souza et al., NeuroImage 2018 (Calgary-Campinas; CC BY-ND 4.0, so that nothing derived from it may
be passed on). Below ROOT, zipped or unpacked, in any folder:

  Original.zip                           Original/CC0030_philips_15_42_F.nii.gz
  Silver-standard-machine-learning.zip   Silver-standard/CC0030_philips_15_42_F_ss.nii.gz

A name says all there is to know: person, vendor, field strength (15 is 1.5 T), age, sex. A person
was scanned once.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medjax.check import require
from medjax.data.formats.volume import Volume
from medjax.data.normalise import Normaliser
from medjax.data.sets import downloads
from medjax.data.sets.downloads import Download
from medjax.data.sets.scans import Scan, ScanSet, add_file, digests_of, with_mask_of_its_shape

SITES = ("siemens-1.5T", "siemens-3T", "ge-1.5T", "ge-3T", "philips-1.5T", "philips-3T")
"""In the order in which MMTL's code numbers them from 0."""

SPACING = (1.0, 0.95, 0.95)
"""Millimetres of MMTL's code; its paper says (1, 1, 1)."""

NAME = r"(CC\d+)_(philips|siemens|ge)_(15|3)_(\d+)_([MF])(_\w+)?\.nii\.gz"
"""Name of a scan or mask, in any case."""


class Person(NamedTuple):
  """What the file name says; `age` in years."""

  subject: str
  site: str
  age: int
  sex: str


class CC359(ScanSet):
  """A Source of heads [x, y, z, 1] and brain masks, on axes upright (RAS).

  Attributes:
    people: one a case, by subject.
    names: names of the cases.
  """

  def __init__(
    self,
    root: str | os.PathLike,
    *,
    sites: Sequence[str] = SITES,
    mask: str = "_ss",
    spacing: tuple[float | None, float | None, float | None] | None = None,
    normalise: str | Normaliser = "percentile",
  ):
    """Lists the files; voxels are read when asked for.

    Args:
      root: folder with the two archives, or with what was in them.
      sites: which of SITES.
      mask: end of the mask's name before .nii.gz, in any case: "_ss" (silver standard).
      spacing: voxel size in mm per axis of the file after it was brought upright, None keeps the
        file's. MMTL: SPACING along its own axes (sagittal, coronal, axial).
      normalise: normalisation of each volume; MMTL's is "percentile" (1st to 99th to [0, 1]).
    Raises:
      InputError: no scans, an unknown site, a scan without mask, two of one person. Reading a case
        raises it for a mask on another grid and for what `nifti.read_nifti` refuses.
    """
    strangers = [site for site in sites if site not in SITES]
    require(
      not strangers and sites, f"sites among {', '.join(SITES)}", f"{list(sites)}", "correct them"
    )
    root = pathlib.Path(root)
    images: dict[str, Download] = {}
    masks: dict[str, Download] = {}
    people: dict[str, Person] = {}
    for download, match in downloads.find(root, NAME):
      subject = match[1].upper()
      end = (match[6] or "").lower()
      if end not in ("", mask.lower()):
        continue
      add_file(masks if end else images, subject, download)
      field = "1.5T" if match[3] == "15" else "3T"
      site = f"{match[2].lower()}-{field}"
      people[subject] = Person(subject, site, int(match[4]), match[5].upper())
    require(
      images,
      f"files like CC0030_philips_15_42_F.nii.gz, or Original.zip, in {root}",
      "none",
      "download Original.zip and Silver-standard-machine-learning.zip into one folder",
    )
    kept = sorted(subject for subject in images if people[subject].site in sites)
    missing = [subject for subject in kept if subject not in masks]
    require(
      kept and not missing,
      f"a mask *{mask}.nii.gz for each scan of {', '.join(sites)} in {root}",
      f"none for {', '.join(missing[:3])}" if kept else "no scan of these sites",
      "download Silver-standard-machine-learning.zip too" if kept else "pass other sites",
    )
    self.people = {subject: people[subject] for subject in kept}
    files = [(images[subject], masks[subject]) for subject in kept]

    def brain(label: Volume) -> np.ndarray:
      return (label.array > 0.5).astype(np.int32)

    # The masks' headers are not those of the scans in every file; their grids are.
    super().__init__(
      "cc359",
      root,
      [Scan(subject, subject, people[subject].site) for subject in kept],
      lambda index: with_mask_of_its_shape(*files[index], brain),
      class_names=("background", "brain"),
      channel_names=("T1",),
      files=digests_of(files),
      normalise=normalise,
      spacing=spacing,
      reorient=True,
      options={"sites": sites, "mask": mask, "spacing": spacing, "normalise": normalise},
    )
