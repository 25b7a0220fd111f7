"""A scanner as a named set of parameters: tissue maps to image, or image to image.

`acquire` makes the contrast from smoothed tissue maps by the signal equation of the site's sequence
at its field strength; `rescan` keeps the contrast of a given image, because no label-free operation
can exchange it. Both go on alike, in the order of the physics:

  contrast -> coil profile -> motion, ghosting, ringing -> resolution -> Rician noise -> magnitude
  -> coil correction -> intensity curve -> gain

Intensities are relative to the white level, the 99th percentile of the image before all this.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medjax import check, rng
from medjax.ops import blur
from medjax.synth import tissues
from medjax.synth.artefacts import Ghosting, IntensityCurve, Motion, Ringing
from medjax.synth.coils import Coil
from medjax.synth.noise import Noise
from medjax.synth.resolution import acquisition_matrix
from medjax.synth.sequences import Sequence
from medjax.transforms import Fixed, Pipeline, pipeline
from medjax.types import Key, PyTree

_MAX_SAMPLES = 2**14  # voxels that the white level is taken over


@dataclasses.dataclass(frozen=True)
class Site:
  """One scanner with one sequence; `medjax.synth.sites` lists a catalogue.

  Attributes:
    name: as on the command line.
    description: what such a scanner is like, one sentence.
    contrast: "t1", "t2" or "flair".
    field: in tesla, 0.5 to 3.
    sequence: with its settings.
    voxel_mm: acquired voxel in mm: in plane, and from slice to slice. Finer than the grid of the
      image, it changes nothing.
    noise: standard deviation of each Rician part ~ U(low, high), as a fraction of the white level.
    coil: receive profile.
    gain: white level of the result, log-uniform in (low, high), arbitrary scanner units.
    variation: standard deviation of log T1, T2, T2* and PD, per tissue and person.
    motion, ghosting, ringing, curve: out-of-family effects; None is off.
  """

  name: str
  description: str
  contrast: str
  field: float | int
  sequence: Sequence
  voxel_mm: tuple[float, float]
  noise: tuple[float, float] = (0.01, 0.02)
  coil: Coil = Coil()
  gain: tuple[float, float] = (500.0, 1500.0)
  variation: float | int = 0.05
  motion: Motion | None = None
  ghosting: Ghosting | None = None
  ringing: Ringing | None = None
  curve: IntensityCurve | None = None

  def __post_init__(self):
    check.one_of("contrast", self.contrast, ("t1", "t2", "flair"))
    check.in_interval("field", self.field, tissues.MIN_FIELD, tissues.MAX_FIELD)
    for size in self.voxel_mm:
      check.positive("voxel_mm", size)
    check.ordered("gain", self.gain, above=0)
    check.non_negative("variation", self.variation)

  @property
  def out_of_family(self) -> tuple[str, ...]:
    """Names of the effects that no generator of `medjax.synth` trains on; () for in-family."""
    names = ("motion", "ghosting", "ringing", "curve")
    return tuple(name for name in names if getattr(self, name) is not None)

  def draw(self, key: Key, shape: tuple[int, ...]) -> dict[str, PyTree]:
    """Everything random about one scan, for an image of `shape` = [*space, 1], 2D or 3D.

    Returns:
      Parameters by name; effects that are off are missing, and switching one on or off leaves the
      numbers of the others as they are. "log_factors" [4, tissue] are the logarithms of this
      person's T1, T2, T2* and PD over the table's, "gain" [] is the white level of the result.
    """
    low, high = np.log(self.gain).tolist()
    normal = jax.random.normal(rng.stream(key, "log_factors"), (4, len(tissues.TISSUES)))
    return {
      "log_factors": self.variation * normal,
      "coil": self.coil.draw(rng.stream(key, "coil"), shape),
      "gain": jnp.exp(jax.random.uniform(rng.stream(key, "gain"), minval=low, maxval=high)),
      **self._effects((1.0,) * (len(shape) - 1), None).draw(key, shape),
      **pipeline(curve=self.curve).draw(key, shape),
    }

  def contrast_image(
    self, parameters: dict[str, PyTree], fractions: Float[Array, "*space tissue"]
  ) -> Float[Array, "*space 1"]:
    """Magnitude of the signed signals of the tissues in every voxel, in units of proton density.

    Args:
      parameters: what `draw` gave; only "log_factors" matters.
      fractions: [*space, tissue] as `tissues.tissue_fractions` makes them.
    """
    table = tissues.vary(tissues.properties(self.field), parameters["log_factors"])
    signals = self.sequence.signal(table)
    check.same_shape("tissues of fractions", fractions.shape[-1:], "signals", signals.shape)
    highest = jax.lax.Precision.HIGHEST
    return jnp.abs(jnp.matmul(fractions, signals[:, None], precision=highest))

  def apply(
    self,
    parameters: dict[str, PyTree],
    image: Float[Array, "*space 1"],
    *,
    spacing: tuple[float | int, ...],
    slice_axis: int | None = None,
  ) -> Float[Array, "*space 1"]:
    """All but the contrast: what this scanner does to an image, on the image's own grid.

    Args:
      parameters: what `draw` gave for this shape, or any change of it.
      image: [*space, 1], 0 or more, any scale.
      spacing: voxel size in mm, one per axis, static.
      slice_axis: axis across the slices of a volume; None is the last. An image in 2D is one slice,
        and slice thickness then means nothing.
    Returns:
      Image with its white level at the drawn gain (before noise and curve), 0 or more.
    """
    space = image.shape[:-1]
    check.same_shape("axes of spacing", (len(spacing),), "axes of image", (len(space),))
    check.one_of("number of spatial axes", len(space), (2, 3))
    if len(space) == 2:
      slice_axis = None
    else:
      slice_axis = range(3)[-1 if slice_axis is None else slice_axis]
    x = image / white_level(image)
    profile = self.coil.profile(parameters["coil"], space, slice_axis=slice_axis)
    x = self._effects(spacing, slice_axis).apply(parameters, x * profile)
    x = x * profile ** (self.coil.shading - 1)  # what the scanner divides out, see `Coil`
    x = pipeline(curve=self.curve).apply(parameters, x)
    return parameters["gain"] * x

  def _effects(self, spacing: tuple[float | int, ...], slice_axis: int | None) -> Pipeline:
    """From the shaded image to the measured one; phase is encoded along the first in-plane axis."""
    in_plane = tuple(axis for axis in range(len(spacing)) if axis != slice_axis)
    motion, ghosting, ringing = self.motion, self.ghosting, self.ringing
    return pipeline(
      motion=motion and dataclasses.replace(motion, spacing=spacing, axis=in_plane[0]),
      ghosting=ghosting and dataclasses.replace(ghosting, axis=in_plane[0]),
      ringing=ringing and dataclasses.replace(ringing, axes=in_plane),
      resolution=Fixed(
        lambda x: blur.apply_separable(x, self._resolution(x.shape[:-1], spacing, slice_axis))
      ),
      noise=Noise(self.noise, rician_probability=1.0),
    )

  def _resolution(
    self, space: tuple[int, ...], spacing: tuple[float | int, ...], slice_axis: int | None
  ) -> tuple[Array, ...]:
    """One matrix per axis; the identity where the grid is no finer than the acquired voxel."""
    matrices = []
    for axis, (size, voxel) in enumerate(zip(space, spacing, strict=True)):
      ratio = self.voxel_mm[1 if axis == slice_axis else 0] / voxel
      ratio_array = jnp.asarray(ratio, jnp.float32)
      matrices.append(
        acquisition_matrix(size, ratio_array, ratio_array) if ratio > 1.01 else jnp.eye(size)
      )
    return tuple(matrices)


def acquire(
  site: Site,
  key: Key,
  fractions: Float[Array, "*space tissue"],
  *,
  spacing: tuple[float | int, ...],
  slice_axis: int | None = None,
) -> Float[Array, "*space 1"]:
  """One scan of a person given as smoothed tissue maps, contrast by physics; see `Site.apply`.

  >>> from medjax.synth import sites, tissues
  >>> label = jnp.zeros((12, 12), jnp.int32).at[2:10, 2:10].set(3)
  >>> table = tissues.by_freesurfer()
  >>> maps = tissues.tissue_fractions(table, label, spacing=(1.0, 1.0))
  >>> site = sites.find("hospital-flair")
  >>> jax.jit(lambda key: acquire(site, key, maps, spacing=(1.0, 1.0)))(jax.random.key(0)).shape
  (12, 12, 1)
  """
  parameters = site.draw(key, (*fractions.shape[:-1], 1))
  image = site.contrast_image(parameters, fractions)
  return site.apply(parameters, image, spacing=spacing, slice_axis=slice_axis)


def rescan(
  site: Site,
  key: Key,
  image: Float[Array, "*space 1"],
  *,
  spacing: tuple[float | int, ...],
  slice_axis: int | None = None,
) -> Float[Array, "*space 1"]:
  """The image as if this scanner had taken it with its own contrast; needs no labels.

  >>> from medjax.synth import sites
  >>> image = jnp.ones((12, 12, 1))
  >>> site = sites.find("motion-t1")
  >>> jax.jit(lambda key: rescan(site, key, image, spacing=(1.0, 1.0)))(jax.random.key(0)).shape
  (12, 12, 1)
  """
  parameters = site.draw(key, image.shape)
  return site.apply(parameters, image, spacing=spacing, slice_axis=slice_axis)


def white_level(image: Float[Array, "*any"]) -> Float[Array, ""]:
  """99th percentile over at most 2^14 evenly spaced voxels; 1 for an image that is 0 there."""
  flat = image.reshape(-1)
  stride = -(-flat.size // _MAX_SAMPLES) | 1  # odd, or it would visit few columns only
  level = jnp.quantile(flat[::stride], 0.99)
  return jnp.where(level > 0, level, 1.0)
