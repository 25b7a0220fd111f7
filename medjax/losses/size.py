"""Penalties on the size of a prediction: what labelled people say of one whose label is unknown.

Silva-Rodriguez, Dolz & Ben Ayed, "Towards Foundation Models and Few-Shot Parameter-Efficient
Fine-Tuning for Volumetric Organ Segmentation" (2023). S is the mean size of an organ in labelled
volumes, s = sum_x p(x) the predicted one in a new volume, g the margin:

  printed (Eq. 2):  (1 - g) S - s  below (1 - g) S,  s - (1 + g) S  above (1 + g) S,  0 between
  released code:    e - g where e > g,  |e| + g where e < -g,  else 0,  with e = (S - s) / max(S, s)

The second jumps by 2 g where e falls below -g. Its gradient is that of |e|, and only this is used.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from medjax import check
from medjax.types import Numbers


def size_penalty(
  size: Float[Array, ""], wanted: float | Array, *, margin: float | Array = 0.1
) -> Float[Array, ""]:
  """How far a size lies outside (1 - margin, 1 + margin) times the wanted one; Eq. 2.

  >>> [round(float(size_penalty(jnp.float32(s), 100.0)), 4) for s in (80, 95, 120)]
  [10.0, 0.0, 10.0]

  Args:
    size: sum of the probabilities, in the unit of `wanted`: voxels, or shares of something.
    wanted: S, above 0. Divide both sizes by it for a penalty beside a Dice loss: in voxels it would
      be thousands of times as large.
    margin: g, 0 or more; see `size_margin`.
  """
  below, above = (1 - margin) * wanted - size, size - (1 + margin) * wanted
  return jnp.maximum(below, 0) + jnp.maximum(above, 0)


def released_size_penalty(
  size: Float[Array, ""], wanted: float | Array, *, margin: float | Array = 0.3
) -> Float[Array, ""]:
  """The penalty of the released code, relative to the larger of the two sizes; see above.

  >>> [round(float(released_size_penalty(jnp.float32(s), 100.0)), 4) for s in (50, 95, 200)]
  [0.2, 0.0, 0.8]

  Args:
    size, wanted: as for `size_penalty`; only their ratio counts.
    margin: g.
  """
  error = (wanted - size) / jnp.maximum(wanted, size)
  return jnp.where(error > margin, error - margin, jnp.where(error < -margin, margin - error, 0.0))


def size_margin(sizes: Numbers, *, alone: float | int = 0.3) -> float:
  """The margin by labelled people alone: how far each lies from the mean of the others, at most.

  The paper chooses it on test organs, which nobody has.

  >>> size_margin([80.0, 100.0, 120.0])
  0.3333333333333333

  Args:
    sizes: of the organ in each labelled volume, above 0.
    alone: what is taken where there is one labelled volume, which cannot say.
  Raises:
    InputError: no volume, or one in which the organ is absent.
  """
  known = np.asarray(sizes, np.float64).ravel()
  check.require(len(known) > 0, "one labelled volume or more", "none", "label one")
  check.require(
    bool((known > 0).all()),
    "an organ that every labelled volume shows",
    f"sizes {known.tolist()}",
    "label it there, or leave these volumes out",
  )
  if len(known) == 1:
    return float(alone)
  others = (known.sum() - known) / (len(known) - 1)
  return float(np.max(np.abs(known - others) / others))
