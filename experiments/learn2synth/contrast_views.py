"""Test scans as other scanners would have shown them: other contrasts, more noise, motion.

A view of a scan moves it a little (all scans of the templates lie on one grid, and a network that
has learnt where things are would not be found out) and then changes what it looks like:

  flip 3 ... flip 30   a spoiled gradient echo at that flip angle, made anew from smoothed tissue
                       maps by the signal equation: 3 and 5 degrees show proton density, 20 and 30
                       T1 as in training. That the last two are simulated as well is the control: a
                       network that fails on them fails on simulated pictures, not on the contrast.
  noisy                the real picture, with noise and a bias field of the kind that a synthesiser
                       of `synth.ParametricAugmentation` can make
  motion               the real picture after motion of the head, which no generator here makes

Unlabelled tissue has signal in a real scan. Its clusters of intensity, dark to bright, are taken
for fluid, muscle and fat, which is their order under T1 weighting.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medjax import data, rng, synth
from medjax.synth import sequences, tissues
from medjax.types import Batch, Key

FLIP_ANGLES = (3, 5, 20, 30)
"""In degrees."""
UNLABELLED = ("csf", "muscle", "fat")
"""What clusters of unlabelled tissue are taken for, dark to bright."""
_NOISE, _EXPONENTS = 0.1, (0.5, 0.5, 0.5)

View = Callable[[Key, Key, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""`view(scan_key, slice_key, image, label)` -> image and label: [height, width, 1] and [height,
width], of one slice. What all slices of a scan share is drawn from `scan_key`."""

_MOVE = data.augmentation.Spatial(
  rotation_degrees=10.0,
  rotation_probability=1.0,
  scaling=(0.9, 1.1),
  scaling_probability=1.0,
  mirror_axes=(),
  label_outside=0,
)


def views(class_names: Sequence[str], spacing: tuple[float, ...]) -> dict[str, View]:
  """The views by name.

  Args:
    class_names: of the labels, each one of `tissues.TISSUES`, background first; the values after
      them are the clusters of `UNLABELLED`.
    spacing: pixel size in mm, one an axis.
  """
  named = dict(enumerate((*class_names, *UNLABELLED)))
  table = tissues.by_name({value: name for value, name in named.items() if value})
  found: dict[str, View] = {
    f"flip {angle}": _contrast(_spoiled_echo(angle), table, spacing) for angle in FLIP_ANGLES
  }
  return found | {"noisy": _noisy, "motion": _rescanned(synth.sites.find("motion-t1"), spacing)}


def shown(view: View, key: Key, cases: Batch, scans: np.ndarray) -> Batch:
  """The test slices as a view shows them, intensities normalised scan by scan.

  Args:
    view: of `views`.
    key: of all that is random about it.
    cases: slices with their labels; values outside the picture (`IGNORE`) count as background.
    scans: [slice] number of the scan that each belongs to.
  """
  one = jax.jit(jax.vmap(lambda s, k, x, y: view(s, k, *_moved(s, x, y))))
  each = jax.vmap(lambda i: jax.random.fold_in(key, i))
  scan_keys = each(jnp.asarray(scans))
  slice_keys = jax.vmap(lambda k, i: rng.stream(jax.random.fold_in(k, i), "slice"))(
    scan_keys, jnp.asarray(cases.index)
  )
  labels = np.maximum(cases.label, 0)
  image, label = (np.array(x) for x in one(scan_keys, slice_keys, cases.image, labels))
  for scan in np.unique(scans):
    image[scans == scan] = data.normalise(image[scans == scan], "percentile")
  return cases.replace(image=image, label=label)


def _moved(key: Key, image: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
  shape = label.shape
  movement = _MOVE.draw(rng.stream(key, "movement"), shape)
  image, moved = _MOVE.apply(movement, image, label, shape)
  assert moved is not None
  return image, moved


def _spoiled_echo(angle: float) -> synth.Site:
  return synth.Site(
    name=f"flip-{angle:g}",
    description="spoiled gradient echo at 1.5 T",
    contrast="t1",
    field=1.5,
    sequence=sequences.SpoiledGradientEcho(tr=20, te=5, flip_angle=angle),
    voxel_mm=(1.0, 1.0),
  )


def _contrast(site: synth.Site, table: synth.Grouping, spacing: tuple[float, ...]) -> View:
  def view(scan_key: Key, slice_key: Key, image: jax.Array, label: jax.Array):
    maps = tissues.tissue_fractions(table, label, spacing=spacing, sigma_mm=max(spacing) / 2)
    parameters = _scan(site, scan_key, slice_key, image.shape)
    made = site.contrast_image(parameters, maps)
    return site.apply(parameters, made, spacing=spacing), label

  return view


def _rescanned(site: synth.Site, spacing: tuple[float, ...]) -> View:
  def view(scan_key: Key, slice_key: Key, image: jax.Array, label: jax.Array):
    parameters = _scan(site, scan_key, slice_key, image.shape)
    return site.apply(parameters, image, spacing=spacing), label

  return view


def _scan(site: synth.Site, scan_key: Key, slice_key: Key, shape: tuple[int, ...]):
  """One person in one scanner for all slices; each slice has noise of its own."""
  noise = site.draw(slice_key, shape)["noise"]
  return site.draw(rng.stream(scan_key, "site"), shape) | {"noise": noise}


def _noisy(scan_key: Key, slice_key: Key, image: jax.Array, label: jax.Array):
  augmentation = synth.ParametricAugmentation()
  theta = augmentation.init(sigma=_NOISE, exponents=_EXPONENTS)
  draws = augmentation.draw(rng.stream(scan_key, "field"), image.shape)
  draws = draws._replace(eps=jax.random.normal(slice_key, image.shape))
  return augmentation.apply(theta, draws, image), label
