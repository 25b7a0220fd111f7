"""Catalogue of scanners: 8 in-family centres, 4 with an out-of-family effect, each T1, T2, FLAIR.

Settings are typical of the kind of scanner that a description names, and of no particular one. The
inversion times of the FLAIR sequences are the nulls of CSF (T1 4300 ms), `null_inversion_time`, to
within 60 ms.
"""

from typing import Any

from medjax import check
from medjax.synth.acquisition import Site
from medjax.synth.artefacts import Ghosting, IntensityCurve, Motion, Ringing
from medjax.synth.coils import Coil
from medjax.synth.sequences import Flair, InversionTrain, Sequence, SpinEcho, SpoiledGradientEcho

_Protocol = tuple[Sequence, tuple[float, float]]  # sequence, voxel in mm (in plane, across slices)


def _centre(
  name: str,
  description: str,
  *,
  field: float | int,
  t1: _Protocol,
  t2: _Protocol,
  flair: _Protocol,
  **settings: Any,
) -> tuple[Site, ...]:
  """The sites NAME-t1, NAME-t2 and NAME-flair of one scanner."""
  return tuple(
    Site(
      name=f"{name}-{contrast}",
      description=description,
      contrast=contrast,
      field=field,
      sequence=sequence,
      voxel_mm=voxel_mm,
      **settings,
    )
    for contrast, (sequence, voxel_mm) in {"t1": t1, "t2": t2, "flair": flair}.items()
  )


_IN_FAMILY = (
  *_centre(
    "research",
    "3 T, 32 channels, isotropic 1 mm volumes, intensity-corrected.",
    field=3.0,
    t1=(InversionTrain(tr=2300, ti=900, te=3, flip_angle=9), (1.0, 1.0)),
    t2=(SpinEcho(tr=3200, te=100), (1.0, 1.0)),
    flair=(Flair(tr=6000, ti=2000, te=140), (1.0, 1.0)),
    noise=(0.01, 0.02),
    coil=Coil(num_elements=12, radius=0.5, shading=0.1),
    gain=(400.0, 900.0),
  ),
  *_centre(
    "trial",
    "3 T of another make: IR-SPGR with a short inversion time, 3 mm slices, large numbers.",
    field=3.0,
    t1=(
      InversionTrain(tr=1900, ti=650, te=3, flip_angle=12, echo_spacing=7.5, num_echoes=160),
      (1.0, 1.2),
    ),
    t2=(SpinEcho(tr=6000, te=85), (1.0, 3.0)),
    flair=(Flair(tr=9500, ti=2500, te=125), (1.0, 3.0)),
    noise=(0.015, 0.025),
    coil=Coil(num_elements=8, radius=0.7, shading=0.25),
    gain=(3000.0, 9000.0),
  ),
  *_centre(
    "clinic",
    "3 T in routine use: spoiled gradient echo, 4 mm slices, some shading.",
    field=3.0,
    t1=(SpoiledGradientEcho(tr=9, te=4, flip_angle=10), (1.0, 1.0)),
    t2=(SpinEcho(tr=4500, te=110), (0.9, 4.0)),
    flair=(Flair(tr=11000, ti=2650, te=120), (1.1, 4.0)),
    noise=(0.02, 0.03),
    coil=Coil(num_elements=8, radius=0.7, shading=0.4),
    gain=(150.0, 400.0),
  ),
  *_centre(
    "hospital",
    "1.5 T, spoiled gradient echo, 5 mm slices.",
    field=1.5,
    t1=(SpoiledGradientEcho(tr=20, te=5, flip_angle=25), (1.0, 1.5)),
    t2=(SpinEcho(tr=4000, te=95), (1.0, 5.0)),
    flair=(Flair(tr=8000, ti=2350, te=110), (1.1, 5.0)),
    noise=(0.02, 0.03),
    coil=Coil(num_elements=8, radius=0.8, shading=0.5),
    gain=(800.0, 2000.0),
  ),
  *_centre(
    "memory",
    "1.5 T memory clinic, MP-RAGE of 1.25 mm, 3 mm FLAIR.",
    field=1.5,
    t1=(
      InversionTrain(tr=2400, ti=1000, te=3.5, flip_angle=8, echo_spacing=8, num_echoes=160),
      (1.25, 1.25),
    ),
    t2=(SpinEcho(tr=3000, te=80), (1.0, 3.0)),
    flair=(Flair(tr=10000, ti=2560, te=140), (1.2, 3.0)),
    noise=(0.015, 0.025),
    coil=Coil(num_elements=8, radius=0.7, shading=0.2),
    gain=(300.0, 700.0),
  ),
  *_centre(
    "legacy",
    "1.5 T of the first decade: one volume coil, spin-echo T1, thick slices, noise.",
    field=1.5,
    t1=(SpinEcho(tr=520, te=14), (1.1, 6.0)),
    t2=(SpinEcho(tr=2800, te=90), (1.2, 6.0)),
    flair=(Flair(tr=6000, ti=2000, te=100), (1.3, 6.0)),
    noise=(0.03, 0.05),
    coil=Coil(num_elements=16, distance=1.6, radius=1.4, shading=1.0),
    gain=(60.0, 160.0),
  ),
  *_centre(
    "lowfield",
    "0.55 T, spin-echo T1, 1.4 mm in plane, 5 mm slices, noisy.",
    field=0.55,
    t1=(SpinEcho(tr=400, te=13), (1.4, 5.0)),
    t2=(SpinEcho(tr=5000, te=110), (1.4, 5.0)),
    flair=(Flair(tr=8500, ti=2400, te=110), (1.5, 5.0)),
    noise=(0.04, 0.07),
    coil=Coil(num_elements=6, distance=1.4, radius=0.9, shading=0.7),
    gain=(15.0, 50.0),
  ),
  *_centre(
    "surface",
    "1.5 T with a surface coil behind the head: strong shading, uncorrected.",
    field=1.5,
    t1=(SpoiledGradientEcho(tr=30, te=6, flip_angle=40), (1.0, 1.5)),
    t2=(SpinEcho(tr=3500, te=100), (1.0, 4.0)),
    flair=(Flair(tr=9000, ti=2470, te=115), (1.0, 4.0)),
    noise=(0.02, 0.03),
    coil=Coil(num_elements=1, distance=1.6, radius=2.0, shading=1.0, angle=-90.0),
    gain=(10000.0, 25000.0),
  ),
)

_HOSPITAL: dict[str, Any] = {
  "field": 1.5,
  "t1": (SpoiledGradientEcho(tr=20, te=5, flip_angle=25), (1.0, 1.5)),
  "t2": (SpinEcho(tr=4000, te=95), (1.0, 3.0)),
  "flair": (Flair(tr=8000, ti=2350, te=110), (1.0, 3.0)),
  "noise": (0.01, 0.02),
}

_OUT_OF_FAMILY = (
  *_centre("motion", "1.5 T, the head moves 3 times by some mm.", motion=Motion(), **_HOSPITAL),
  *_centre("ghosting", "1.5 T, every 2nd to 5th line is off.", ghosting=Ghosting(), **_HOSPITAL),
  *_centre("ringing", "1.5 T, half of k-space measured in plane.", ringing=Ringing(), **_HOSPITAL),
  *_centre("curve", "1.5 T, an unknown contrast curve.", curve=IntensityCurve(), **_HOSPITAL),
)

SITES: dict[str, Site] = {site.name: site for site in _IN_FAMILY + _OUT_OF_FAMILY}
"""Name -> site, CENTRE-CONTRAST."""


def find(name: str) -> Site:
  """The site of a name.

  Raises:
    InputError: listing the names, for another one.

  >>> find("lowfield-t2").field
  0.55
  """
  check.one_of("site", name, SITES)
  return SITES[name]


def catalogue(contrast: str | None = None, *, in_family: bool | None = None) -> tuple[Site, ...]:
  """Sites in the order of the catalogue.

  Args:
    contrast: "t1", "t2" or "flair"; None is all.
    in_family: True without, False with an out-of-family effect; None is all.

  >>> [site.name for site in catalogue("flair", in_family=True)][:2]
  ['research-flair', 'trial-flair']
  """
  return tuple(
    site
    for site in SITES.values()
    if contrast in (None, site.contrast) and in_family in (None, not site.out_of_family)
  )
