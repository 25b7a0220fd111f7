"""Relaxation times and proton densities of the head, and smoothed tissue maps from labels.

Tabulated at 1.5 and 3 T; between and a little beyond them T1, T2 and T2* follow the power law
through the two values, the form that measurements from 0.2 to 7 T obey (Bottomley et al. 1984;
Rooney et al. 2007). One number a tissue: published means differ by 20 % between methods, so a site
also varies them from person to person.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax import check
from medjax.ops import blur
from medjax.synth import freesurfer, grouping

TISSUES = (*freesurfer.TISSUE_NAMES, "lesion", "fat", "muscle")
"""Background (air, compact bone), CSF, cortical grey, white, deep grey matter, white-matter lesion,
fat (and marrow), muscle (and skin): ids 0 to 7; the first five are those of `freesurfer`."""

MIN_FIELD, MAX_FIELD = 0.5, 3.0  # tesla

# T1: Wright et al. 2008 (MP-RAGE, the same people at both fields; deep grey: mean of putamen and
#   caudate head). CSF: no field dependence (Rooney et al. 2007). Fat: de Bazelaire et al. 2004.
#   Muscle: Stanisz et al. 2005.
# T2: Stanisz et al. 2005; fat de Bazelaire et al. 2004; deep grey between cortex and white matter,
#   shortened by iron (order of Gelman et al. 1999); CSF about 2 s, shorter at 3 T.
# T2*: Peters et al. 2007 for grey and white matter and the putamen and caudate; the others are
#   guesses that matter little at echo times of a few ms.
# PD: water content, 0.70 white and 0.82 grey matter (Neeb et al. 2008), muscle 0.79. Fat 0.9: about
#   as many protons as water, less by chemical shift.
# Lesion: chronic plaque; T1 1.5 times white matter's as in BrainWeb (752 / 500 ms), T2 about twice.
_RELAXATION = {  # (T1, T2, T2*) in ms at 1.5 T, the same at 3 T
  "background": ((1000.0, 1.0, 1.0), (1000.0, 1.0, 1.0)),
  "csf": ((4300.0, 2200.0, 1000.0), (4300.0, 1800.0, 800.0)),
  "cortical_gray_matter": ((1197.0, 95.0, 84.0), (1607.0, 99.0, 66.0)),
  "white_matter": ((646.0, 72.0, 66.0), (838.0, 69.0, 53.0)),
  "deep_gray_matter": ((1097.0, 84.0, 57.0), (1364.0, 80.0, 36.0)),
  "lesion": ((970.0, 150.0, 110.0), (1260.0, 145.0, 90.0)),
  "fat": ((343.0, 58.0, 35.0), (382.0, 68.0, 25.0)),
  "muscle": ((1008.0, 44.0, 35.0), (1412.0, 50.0, 30.0)),
}
_PROTON_DENSITY = {
  "background": 0.0,
  "csf": 1.0,
  "cortical_gray_matter": 0.82,
  "white_matter": 0.70,
  "deep_gray_matter": 0.82,
  "lesion": 0.80,
  "fat": 0.90,
  "muscle": 0.79,
}

# Extra-cerebral values of `freesurfer.NAMES`; what is not listed there has no signal: arteries and
# veins (flow), compact bone and air.
_EXTRACEREBRAL = {
  "muscle": (507, 508, 509, 511),
  "csf": (506,),  # the vitreous body
  "white_matter": (512, 530),  # spinal cord, optic nerve
  "fat": (516,),  # yellow marrow
  "lesion": (25, 57, 77, 80),
}


class Properties(NamedTuple):
  """[tissue] or [*space] each: T1, T2, T2* in ms and proton density (water 1)."""

  t1: Float[Array, "*any"]
  t2: Float[Array, "*any"]
  t2_star: Float[Array, "*any"]
  pd: Float[Array, "*any"]


def properties(field: float | int) -> Properties:
  """Table of all `TISSUES` at a field strength.

  Args:
    field: in tesla, 0.5 to 3; at 0.55 T white and grey matter come out at T1 443 and 782 ms,
      against 493 and 717 ms measured (Campbell-Washburn et al. 2019).
  Returns:
    Properties with float32 arrays [tissue].
  Raises:
    InputError: a field outside the range.

  >>> properties(3.0).t1[TISSUES.index("white_matter")].round().item()
  838.0
  """
  check.in_interval("field", field, MIN_FIELD, MAX_FIELD, "the tables hold for these, in tesla")
  table = np.asarray([_RELAXATION[name] for name in TISSUES])  # [tissue, field, time]
  # A power law in the field, T(B) = T(1.5) (B / 1.5)^p, through the values at 1.5 and 3 T.
  power = np.log2(table[:, 1] / table[:, 0])
  times = table[:, 0] * (field / 1.5) ** power
  density = np.asarray([_PROTON_DENSITY[name] for name in TISSUES], np.float32)
  t1, t2, t2_star = times.T.astype(np.float32)
  return Properties(*(jnp.asarray(column) for column in (t1, t2, t2_star, density)))


def vary(table: Properties, log_factors: Float[Array, "4 tissue"]) -> Properties:
  """Properties times exp(log_factors), rows in the order T1, T2, T2*, PD: one person's."""
  return Properties(*(column * jnp.exp(log_factors[i]) for i, column in enumerate(table)))


def by_name(tissue_of: Mapping[int, str]) -> grouping.Grouping:
  """Grouping whose targets are `TISSUES`, from label value -> tissue name; 0 is background.

  Raises:
    InputError: a name outside `TISSUES`, or a negative value.

  >>> by_name({1: "csf", 2: "white_matter"}).to_target(jnp.array([0, 1, 2])).tolist()
  [0, 1, 3]
  """
  complete = {0: "background", **tissue_of}
  return grouping.build({value: value for value in complete}, complete, target_names=TISSUES)


def by_freesurfer() -> grouping.Grouping:
  """Grouping of FreeSurfer values (aseg, and the head atlas with extra-cerebral values)."""
  tissue_of = {value: freesurfer.tissue(value) for value in freesurfer.NAMES}
  tissue_of |= {value: name for name, values in _EXTRACEREBRAL.items() for value in values}
  return by_name(tissue_of)


def tissue_fractions(
  table: grouping.Grouping,
  label: Int[Array, "*space"],
  *,
  spacing: tuple[float | int, ...],
  sigma_mm: float | int = 0.7,
) -> Float[Array, "*space tissue"]:
  """Smoothed tissue maps: how much of every voxel is which tissue.

  Smoothing hides the exact border of the labels from whoever sees the image, and makes the partial
  volume that a real voxel has.

  Args:
    table: grouping with `TISSUES` as targets: `by_name`, `by_freesurfer`.
    label: [*space] raw values that `table.check_label` accepts.
    spacing: voxel size in mm, one per axis.
    sigma_mm: standard deviation of the Gaussian in mm, 0 or more; 0 gives one-hot maps.
  Returns:
    [*space, len(TISSUES)] in [0, 1], sum 1.
  """
  check.require(
    tuple(table.target_names) == TISSUES,
    f"a grouping with the targets {TISSUES}",
    f"{table.target_names}",
    "make it with tissues.by_name or tissues.by_freesurfer",
  )
  check.same_shape("axes of spacing", (len(spacing),), "axes of label", (label.ndim,))
  check.non_negative("sigma_mm", sigma_mm)
  one_hot = jax.nn.one_hot(table.to_target(label), len(TISSUES))
  if sigma_mm == 0:
    return one_hot
  sigma = jnp.asarray([sigma_mm / size for size in spacing])
  # One map at a time: as 8 channels of one image the same products take twice as long on CPU.
  return jax.vmap(
    lambda one: blur.gaussian_blur(one[..., None], sigma)[..., 0], in_axes=-1, out_axes=-1
  )(one_hot)
