"""Procedural hearts: anatomy as a cardiologist expects it, vendors as the physics has them."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from medjax.check import InputError
from medjax.data.simulated.cardiac import VENDORS, CardiacAnatomy, heart
from medjax.synth.artefacts import IntensityCurve
from medjax.synth.coils import Coil
from medjax.types import Source

SHAPE, SPACING = (64, 64, 6), (2.5, 2.5, 10.0)
PLAIN = dataclasses.replace(  # quick to compile
  VENDORS["A"], site=dataclasses.replace(VENDORS["A"].site, coil=Coil(num_elements=1))
)


def test_the_wall_closes_around_the_left_cavity():
  """Every face neighbour of LV is LV or MYO: the papillary muscles count as cavity."""
  for patient in range(6):
    for phase in ("ED", "ES"):
      label = heart(0, patient, phase, SHAPE, SPACING).label
      cross = ndimage.generate_binary_structure(2, 1)[..., None]
      around = ndimage.binary_dilation(label == 1, cross) & (label != 1)
      assert (label == 1).any() and (label[around] == 2).all()


def test_systole_empties_the_cavities_and_keeps_the_muscle():
  """The wall thickens by as much as its area asks, slice by slice; outlines are no circles, hence
  the tolerance."""
  for patient in range(6):
    volume = [
      np.bincount(heart(1, patient, phase, SHAPE, SPACING).label.ravel(), minlength=4)
      for phase in ("ED", "ES")
    ]
    diastole, systole = np.array(volume, float)
    ejected = 1 - systole[1] / diastole[1]
    assert 0.3 < ejected < 0.7  # shortening of .6 to .8 of the radius leaves .36 to .64
    assert systole[3] < diastole[3]
    np.testing.assert_allclose(systole[2], diastole[2], rtol=0.15)


def test_the_heart_tapers_and_the_right_ventricle_ends_first():
  label = heart(0, 0, "ED", (64, 64, 10), (2.5, 2.5, 9.0)).label
  areas = np.stack([(label == k).sum((0, 1)) for k in (1, 3)])
  assert (np.diff(areas[0]) <= 2).all()  # a voxel or two of breathing
  assert areas[0, -1] > 0 and areas[1, -1] == 0 and areas[1, 0] > 0


def test_the_anatomy_does_not_know_the_vendor_nor_the_grid():
  coarse = heart(0, 3, "ED", (32, 32, 6), (5.0, 5.0, 10.0)).label
  fine = heart(0, 3, "ED", (96, 96, 6), (5 / 3, 5 / 3, 10.0)).label
  np.testing.assert_array_equal(coarse, fine[1::3, 1::3])  # the same points in space


def test_people_are_the_same_at_every_vendor():
  first = CardiacAnatomy(2, 0, vendor=PLAIN, shape=(16, 16, 3))
  other = dataclasses.replace(PLAIN, name="other", flip_angle=20)
  second = CardiacAnatomy(2, 0, vendor=other, shape=(16, 16, 3))
  assert isinstance(first, Source)
  assert first.subjects == second.subjects and first.phases == ("ED", "ES", "ED", "ES")
  one, two = first[3], second[3]
  np.testing.assert_array_equal(one.label, two.label)
  assert one.image is not None and two.image is not None
  assert one.image.shape == (16, 16, 3, 1) and one.image.min() >= 0
  assert not np.allclose(one.image, two.image)
  assert one.spacing == (10.0, 10.0, 10.0) and one.domain == "A"
  again = CardiacAnatomy(5, 0, vendor=PLAIN, shape=(16, 16, 3))[3]
  np.testing.assert_array_equal(one.image, again.image)  # whatever else there is
  assert first.manifest() != second.manifest()


def test_signals_are_the_limit_of_the_steady_state():
  """Exact bSSFP with on-resonant spins, TR -> 0 (Haacke et al.)."""
  for vendor in VENDORS.values():
    angle, tr = np.deg2rad(vendor.flip_angle), 1e-3
    t1, t2 = (1441.0, 290.0) if vendor.field == 1.5 else (1932.0, 275.0)  # blood
    e1, e2 = np.exp(-tr / t1), np.exp(-tr / t2)
    exact = np.sin(angle) * (1 - e1) / (1 - (e1 - e2) * np.cos(angle) - e1 * e2)
    np.testing.assert_allclose(vendor.signals()[1], 0.95 * exact * np.exp(-1.5 / t2), rtol=1e-4)


def test_blood_outshines_muscle_less_at_small_angles_and_high_field():
  contrast = {name: vendor.signals()[1] / vendor.signals()[2] for name, vendor in VENDORS.items()}
  assert contrast["A"] > contrast["B"] > contrast["C"] > 1.5


def test_only_the_last_vendor_is_out_of_family():
  assert {name for name, v in VENDORS.items() if v.site.out_of_family} == {"D"}
  assert isinstance(VENDORS["D"].site.curve, IntensityCurve)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"vendor": "E"}, "vendor to be one of"),
    ({"shape": (8, 8)}, "shape as"),
    ({"field_of_view_mm": 0}, "field_of_view_mm > 0"),
    ({"slice_mm": 0.0}, "slice_mm > 0"),
  ],
)
def test_bad_input(arguments, message):
  with pytest.raises(InputError, match=message):
    CardiacAnatomy(1, 0, **arguments)
