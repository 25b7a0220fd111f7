"""FreeSurfer label values: names, sides, and tissue groups.

Values 0 to 255 are FreeSurfer's aseg, 5xx the extra-cerebral tissues of its CHARM/SAMSEG head atlas
(FreeSurferColorLUT.txt). Together they cover SynthSeg's 54-value training maps and aseg volumes.
"""

from collections.abc import Hashable

from medjax import check
from medjax.synth import grouping

_PAIRS = {  # left value -> (right value, structure)
  2: (41, "cerebral_white_matter"),
  3: (42, "cerebral_cortex"),
  4: (43, "lateral_ventricle"),
  5: (44, "inferior_lateral_ventricle"),
  7: (46, "cerebellum_white_matter"),
  8: (47, "cerebellum_cortex"),
  10: (49, "thalamus"),
  11: (50, "caudate"),
  12: (51, "putamen"),
  13: (52, "pallidum"),
  17: (53, "hippocampus"),
  18: (54, "amygdala"),
  25: (57, "lesion"),
  26: (58, "accumbens"),
  28: (60, "ventral_dc"),
  30: (62, "vessel"),
  31: (63, "choroid_plexus"),
  # Not in the public table. In the maps they line the lateral ventricle and its inferior horn.
  136: (163, "choroid_plexus_of_lateral_ventricle"),
  137: (164, "choroid_plexus_of_inferior_horn"),
}
_MIDLINE = {
  0: "background",
  14: "third_ventricle",
  15: "fourth_ventricle",
  16: "brain_stem",
  24: "csf",
  72: "fifth_ventricle",
  77: "white_matter_hypointensity",
  80: "non_white_matter_hypointensity",
  85: "optic_chiasm",
  251: "corpus_callosum_posterior",
  252: "corpus_callosum_mid_posterior",
  253: "corpus_callosum_central",
  254: "corpus_callosum_mid_anterior",
  255: "corpus_callosum_anterior",
  502: "artery",
  506: "eyeball",
  507: "other_tissue",
  508: "rectus_muscle",
  509: "mucosa",
  511: "skin",
  512: "spinal_cord",
  514: "vein",
  515: "cortical_bone",
  516: "cancellous_bone",
  530: "optic_nerve",
}

SIDES = {left: right for left, (right, _) in _PAIRS.items()}
"""Left value -> right value."""

NAMES = (
  _MIDLINE
  | {left: f"left_{name}" for left, (_, name) in _PAIRS.items()}
  | {right: f"right_{name}" for right, name in _PAIRS.values()}
)
"""Raw value -> structure name."""

_TISSUES = {
  "csf": (4, 5, 14, 15, 24, 31, 72, 136, 137),
  "cortical_gray_matter": (3, 8),
  "white_matter": (2, 7, 16, 25, 77, 80, 85, 251, 252, 253, 254, 255, 28, 30),
  "deep_gray_matter": (10, 11, 12, 13, 17, 18, 26),
}

TISSUE_NAMES = ("background", *_TISSUES)
"""Background, CSF, cortical grey matter, white matter, deep grey matter: ids 0 to 4."""


def without_side(name: str) -> str:
  """Structure name without its side: merges left and right when used as a class name.

  >>> without_side("left_thalamus"), without_side("brain_stem")
  ('thalamus', 'brain_stem')
  """
  return name.removeprefix("left_").removeprefix("right_")


def tissue(value: int) -> str:
  """Tissue group of a label value, one of `TISSUE_NAMES`; extra-cerebral values are background.

  Cerebellar cortex counts as cortical grey matter; brain stem, ventral diencephalon, lesions and
  vessels inside the brain as white matter; choroid plexus as CSF.

  >>> tissue(53), tissue(515)
  ('deep_gray_matter', 'background')
  """
  check.one_of("label value", value, NAMES)
  left = {right: left for left, right in SIDES.items()}.get(value, value)
  return next((name for name, members in _TISSUES.items() if left in members), "background")


def by_tissue(*, is_csf_target: bool = True) -> grouping.Grouping:
  """One intensity per structure (sides share it), tissues as targets.

  Args:
    is_csf_target: False makes value 24 (which in head maps includes all CSF around the brain, in
      aseg volumes hardly any) background.
  Returns:
    Grouping with 5 targets, `TISSUE_NAMES`.
  """
  targets = {value: tissue(value) for value in NAMES}
  if not is_csf_target:
    targets[24] = "background"
  return grouping.build(_intensity_classes(), targets, target_names=TISSUE_NAMES, sides=SIDES)


def by_structure(*, merge_sides: bool = True) -> grouping.Grouping:
  """One intensity per structure (sides share it), brain structures as targets.

  DEVIATION: finer than SynthSeg's list. Lesions, hypointensities, corpus callosum and vessels
  are white matter, choroid plexus its ventricle, the fifth ventricle CSF; extra-cerebral values
  are background.

  Args:
    merge_sides: whether left and right are one target.
  """
  merged = {25: 2, 77: 2, 80: 2, 30: 2, 31: 4, 136: 4, 137: 5, 72: 24}
  merged |= {value: 2 for value in range(251, 256)}
  right_of = {left: right for left, right in SIDES.items()}
  targets = {}
  for value, name in NAMES.items():
    is_right = name.startswith("right_")
    left = {right: left for left, right in SIDES.items()}[value] if is_right else value
    left = merged.get(left, left)
    owner = right_of[left] if is_right else left
    inside = value < 500 and owner != 0
    named = without_side(NAMES[owner]) if merge_sides else NAMES[owner]
    targets[value] = named if inside else "background"
  names = ("background", *dict.fromkeys(targets[v] for v in sorted(targets) if v and v < 500))
  return grouping.build(_intensity_classes(), targets, target_names=names, sides=SIDES)


def _intensity_classes() -> dict[int, Hashable]:
  return {value: without_side(name) for value, name in NAMES.items()}
