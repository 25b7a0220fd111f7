"""Simulated abdomens of four hospitals: what the studies of federations segment.

Not a study. A hospital has its own scanner, and names the organ that it is known for.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from medjax import data, metrics
from medjax.types import Json, Source

CLASSES = ("background", "kidney", "kidney tumour", "liver", "liver tumour", "pancreas")
CLASSES += ("pancreas tumour", "spleen")
LABELS = {"kidney": (1, 2), "liver": (3, 4), "pancreas": (5, 6), "spleen": (7,)}  # by hospital
_ORGANS = {  # place and radii as shares of half the picture, brightness, whether there is a tumour
  1: ((0.5, 0.4), (0.25, 0.18), 0.8, True),
  3: ((-0.2, -0.4), (0.45, 0.35), 0.6, True),
  5: ((0.15, 0.2), (0.15, 0.4), 0.45, True),
  7: ((-0.35, 0.55), (0.28, 0.2), 0.55, False),
}
_SCANNERS = {"kidney": (1, 0), "liver": (0.9, 0.05), "pancreas": (1.1, -0.05), "spleen": (1, 0.1)}


def hospitals(num_people: int, shape: tuple[int, ...], seed: int) -> Source:
  """All four as one source, so many people each."""
  return data.concat({name: abdomen(num_people, shape, seed, name) for name in LABELS})


def abdomen(num: int, shape: tuple[int, ...], seed: int, hospital: str) -> Source:
  """Ellipsoids of four organs at places that vary, three with a tumour, under one scanner."""
  gain, offset = _SCANNERS[hospital]
  axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")

  def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros(shape, np.int32)
    image = np.full(shape, 0.3)
    for k, (centre, radii, bright, has_tumour) in _ORGANS.items():
      depth = len(shape) - 2
      place = np.array([0.0] * depth + list(centre)) + random.uniform(-0.08, 0.08, len(shape))
      size = np.array([0.6] * depth + list(radii)) * random.uniform(0.85, 1.15, len(shape))
      inside = _distance(axes, place, size) <= 1
      label[inside], image[inside] = k, bright
      if has_tumour:
        at = place + random.uniform(-0.4, 0.4, len(shape)) * size
        spot = inside & (_distance(axes, at, 0.55 * size.min() * np.ones(len(shape))) <= 1)
        label[spot], image[spot] = k + 1, bright - 0.25
    seen = gain * (image + random.normal(0, 0.06, shape)) + offset
    return seen.astype(np.float32)[..., None], label

  return data.Simulated(
    "simulated abdomens",
    num,
    seed,
    draw,
    class_names=CLASSES,
    domain=hospital,
    spacing=(1.0,) * len(shape),
    options={"shape": shape, "hospital": hospital},
  )


def _distance(axes: Sequence[np.ndarray], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
  parts = [((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)]
  return np.sqrt(sum(parts))


def scored(
  prediction: np.ndarray, truth: np.ndarray, subjects: Sequence[str], about: Mapping[str, Json]
) -> list[dict[str, Any]]:
  """A row a person with the Dice of every structure."""
  dice = jax.vmap(functools.partial(metrics.dice, num_classes=len(CLASSES)))(prediction, truth)
  return [
    {
      **about,
      "case": subject,
      "subject": subject,
      "domain": subject.partition("/")[0],
      **{f"dice/{name}": float(x) for name, x in zip(CLASSES[1:], own, strict=True)},
    }
    for subject, own in zip(subjects, np.asarray(dice), strict=True)
  ]


def structures(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
  """Arm -> role -> structure -> mean Dice over people and seeds."""
  found: dict[str, dict[str, dict[str, float]]] = {}
  for arm, role in dict.fromkeys((row["arm"], row["role"]) for row in rows):
    own = [row for row in rows if (row["arm"], row["role"]) == (arm, role)]
    means = {name: float(np.nanmean([row[f"dice/{name}"] for row in own])) for name in CLASSES[1:]}
    found.setdefault(arm, {})[role] = means
  return found
