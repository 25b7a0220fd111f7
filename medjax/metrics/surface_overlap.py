"""Surface Dice: which share of two surfaces lies within a tolerance of the other.

  NSD = (|{p : D_p <= tolerance}| + |{t : D_t <= tolerance}|) / (|S_p| + |S_t|)

with |.| the number of voxels (Seidlitz et al., Medical Image Analysis 2022) or the area of surfels
(Nikolov et al., J Med Internet Res 2021), and D_p, D_t as in `surface_distance`. A distance that
equals the tolerance counts, also where float32 rounds it up.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check
from medjax.metrics.surfaces import EMPTY, LabelMap, Surfaces, per_class
from medjax.types import Number, Numbers

VARIANTS = ("voxel", "surfel")
_ROUNDING = 1e-6


def surface_dice(
  prediction: LabelMap,
  target: LabelMap,
  *,
  num_classes: int,
  spacing: Numbers,
  tolerance_mm: Number,
  variant: str = "voxel",
  empty: str = "nan",
  include_background: bool = False,
) -> Float[Array, " classes"]:
  """Surface Dice in [0, 1] of each class, [num_classes - 1] (background first if included).

  >>> a, b = jnp.zeros((2, 8, 8), int).at[0, 2, 2].set(1).at[1, 2, 3].set(1)
  >>> surface_dice(a, b, num_classes=2, spacing=(1.0, 1.0), tolerance_mm=1.0)
  Array([1.], dtype=float32)

  Args:
    prediction, target, num_classes, spacing, include_background: as in `hausdorff`.
    tolerance_mm: 0 or more; the same for every class.
    variant: what is counted, voxels or area; "surfel" takes 2 or 3 axes.
    empty: accepted so that all surface metrics are called alike; a class in only one of the maps
      scores 0, one in neither is NaN.
  Raises:
    InputError: as `hausdorff`, and a negative tolerance.
  """
  check.one_of("variant", variant, VARIANTS)
  check.one_of("empty", empty, EMPTY)
  if not isinstance(tolerance_mm, jax.core.Tracer):
    check.non_negative("tolerance_mm", float(tolerance_mm))
  return per_class(
    surface_dice_of,
    jnp.float32(tolerance_mm),
    prediction=prediction,
    target=target,
    num_classes=num_classes,
    spacing=spacing,
    kind="surfel" if variant == "surfel" else "voxel",
    include_background=include_background,
  )


def surface_dice_of(surfaces: Surfaces, tolerance_mm: Number) -> jax.Array:
  """Of surfaces at hand."""
  limit = tolerance_mm * (1 + _ROUNDING)
  near = sum(jnp.where(side.distance <= limit, side.weight, 0).sum() for side in surfaces)
  total = sum(side.weight.sum() for side in surfaces)
  return jnp.where(total > 0, near / total, jnp.nan).astype(jnp.float32)
