"""The catalogue of scanners: contrasts as radiologists know them, and what each site promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.synth import acquisition, coils, sites, tissues

CSF, GREY, WHITE = (
  tissues.TISSUES.index(n) for n in ("csf", "cortical_gray_matter", "white_matter")
)


_UNCOILED = dataclasses.replace(sites.find("research-t1").coil, shading=0.0)


def signals(site):
  """Magnitude of every tissue at the table's values."""
  return np.abs(np.asarray(site.sequence.signal(tissues.properties(site.field))))


@pytest.mark.parametrize("site", sites.catalogue(), ids=lambda s: s.name)
def test_contrast_is_what_its_name_says(site):
  values = signals(site)
  if site.contrast == "t1":
    assert values[WHITE] > values[GREY] > values[CSF]
  elif site.contrast == "t2":
    assert values[CSF] > values[GREY] > values[WHITE]
  else:
    assert values[GREY] > values[WHITE] > 3 * values[CSF]


def test_at_least_eight_scanners_in_the_family_and_some_beyond():
  for contrast in ("t1", "t2", "flair"):
    assert len(sites.catalogue(contrast, in_family=True)) >= 8
    beyond = sites.catalogue(contrast, in_family=False)
    assert {effect for site in beyond for effect in site.out_of_family} >= {
      "motion",
      "ghosting",
      "ringing",
      "curve",
    }
  assert len({site.name for site in sites.catalogue()}) == len(sites.SITES)


def phantom(*shape):
  """White matter in grey in CSF in air, as FreeSurfer values."""
  distance = np.sqrt(sum(((np.indices(shape)[a] - n / 2) / n) ** 2 for a, n in enumerate(shape)))
  return jnp.asarray(np.select([distance < 0.2, distance < 0.3, distance < 0.4], [2, 3, 24], 0))


@pytest.mark.parametrize(
  "name, shape",
  [
    ("research-t1", (16, 18)),
    pytest.param("hospital-flair", (12, 10, 8), marks=pytest.mark.slow),
    pytest.param("motion-t2", (12, 10, 8), marks=pytest.mark.slow),
  ],
)
def test_one_scan_alone_in_jit_and_in_a_batch_is_the_same(name, shape):
  site, spacing = sites.find(name), (1.0,) * len(shape)
  maps = tissues.tissue_fractions(tissues.by_freesurfer(), phantom(*shape), spacing=spacing)

  def scan(key):
    return acquisition.acquire(site, key, maps, spacing=spacing)

  keys = jax.random.split(jax.random.key(0), 2)
  batch = jax.jit(jax.vmap(scan))(keys)
  alone = jax.jit(scan)(keys[1])
  assert alone.shape == (*shape, 1)
  assert bool(jnp.isfinite(alone).all())
  np.testing.assert_allclose(batch[1], alone, rtol=1e-4, atol=1e-3 * float(alone.max()))
  assert float(jnp.abs(batch[0] - batch[1]).max()) > 0


def test_the_white_level_is_the_gain():
  """Without noise, coil and curve the 99th percentile of the scan is what was drawn."""
  site = dataclasses.replace(
    sites.find("research-t1"),
    noise=(0.0, 0.0),
    coil=_UNCOILED,
  )
  x = jnp.asarray(np.random.default_rng(0).uniform(0.2, 1, (24, 24, 1)), jnp.float32)
  parameters = site.draw(jax.random.key(3), x.shape)
  got = site.apply(parameters, x, spacing=(2.0, 2.0))
  want = parameters["gain"] * x / jnp.quantile(x, 0.99)
  np.testing.assert_allclose(got, want, rtol=1e-4)


def test_noise_is_rician_with_the_drawn_fraction_of_the_white_level():
  """Second moment x^2 + 2 sigma^2 (Gudbjartsson & Patz 1995) at white level 1, coil uncorrected."""
  site = dataclasses.replace(
    sites.find("research-t1"),
    noise=(0.2, 0.2),
    coil=dataclasses.replace(sites.find("research-t1").coil, shading=1.0),
  )
  shape, spacing = (96, 96), (1.0, 1.0)
  x = jnp.ones((*shape, 1))
  parameters = site.draw(jax.random.key(0), (*shape, 1))
  got = site.apply(parameters, x, spacing=spacing) / parameters["gain"]
  profile = site.coil.profile(parameters["coil"], shape)
  excess = jnp.square(got) - jnp.square(profile)
  # Its variance is at most 4 S^2 sigma^2 + 4 sigma^4 = 0.17 at S = 1; four standard errors.
  spread = float(jnp.std(excess)) / 96
  np.testing.assert_allclose(excess.mean(), 2 * 0.2**2, atol=4 * spread)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_slices_are_thick_along_their_axis_only(slice_axis):
  """A plane across the slices is spread over them; planes along them stay as sharp as they were."""
  flat = coils.Coil(radius=1e3)
  site = dataclasses.replace(sites.find("hospital-t2"), noise=(0.0, 0.0), coil=flat)
  scan = jax.jit(
    lambda x: site.apply(
      site.draw(jax.random.key(0), x.shape), x, spacing=(1.0,) * 3, slice_axis=slice_axis
    )
  )
  for axis in range(3):
    x = jnp.zeros((12, 12, 12)).at[(slice(None),) * axis + (5,)].set(1.0)[..., None]
    got = scan(x)
    if axis == slice_axis:  # at best the weight of the middle voxel, 1 / sqrt(2 pi (0.75 * 5)^2)
      assert float(got.max()) < 0.2 * site.gain[1]
      assert float(got.min()) > 0
    else:
      np.testing.assert_allclose(got, got.max() * x, atol=1e-4 * float(got.max()))


def test_tissue_fractions_are_fractions_and_mix_at_borders():
  label = phantom(20, 20)
  table = tissues.by_freesurfer()
  sharp = tissues.tissue_fractions(table, label, spacing=(1.0, 1.0), sigma_mm=0)
  smooth = tissues.tissue_fractions(table, label, spacing=(1.0, 1.0))
  np.testing.assert_array_equal(sharp.sum(-1), 1)
  np.testing.assert_allclose(smooth.sum(-1), 1, rtol=1e-5)
  np.testing.assert_allclose(smooth.sum((0, 1)), sharp.sum((0, 1)), rtol=0.05)
  assert set(np.unique(np.asarray(sharp))) == {0.0, 1.0}
  assert float(smooth.max(-1).min()) < 0.7


def test_field_strength_interpolates_between_the_tables():
  low, middle, high = (tissues.properties(f).t1[WHITE] for f in (1.5, 2.1, 3.0))
  assert low < middle < high
  np.testing.assert_allclose([low, high], [646, 838], rtol=1e-5)
  with pytest.raises(InputError, match="field"):
    tissues.properties(7.0)


def test_strangers_are_refused():
  with pytest.raises(InputError, match="research-t1"):
    sites.find("siemens")
  with pytest.raises(InputError):
    tissues.by_name({1: "bone"})
