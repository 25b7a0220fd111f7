"""Vectors around one centre a class: what a frozen network makes of pictures."""

from collections.abc import Mapping

import numpy as np

from medjax import check
from medjax.data.simulated.source import Simulated


def feature_vectors(
  kind: str,
  num_cases: int,
  seed: int,
  centres: np.ndarray,
  *,
  noise: float | int,
  domain: str = "",
  options: Mapping[str, object] | None = None,
) -> Simulated:
  """People with one vector each, of a class drawn with equal chances: centre + noise N(0, I).

  >>> people = feature_vectors("features", 3, 0, np.eye(2, 4), noise=0)
  >>> people[0].image.shape, int(people[0].image.argmax() - people[0].label)  # its class's centre
  ((1, 1, 4), 0)

  Args:
    kind: what they are, for manifests.
    num_cases: people.
    seed: any int.
    centres: [classes, features], two of each or more.
    noise: standard deviation of every feature around its centre, 0 or more.
    domain: site of all of them; two sites of one seed are different people.
    options: more for the manifest, such as what the centres were made of.
  """
  check.non_negative("noise", noise)
  check.require(
    centres.ndim == 2 and min(centres.shape) >= 2,
    "centres [classes, features], two of each or more",
    f"shape {centres.shape}",
    "give every class a centre",
  )
  classes, features = centres.shape

  def draw(random: np.random.Generator) -> tuple[np.ndarray, int]:
    label = int(random.integers(classes))
    vector = centres[label] + noise * random.normal(size=features)
    return vector.astype(np.float32)[None, None], label

  return Simulated(
    kind,
    num_cases,
    seed,
    draw,
    class_names=[f"class {k}" for k in range(classes)],
    channel_names=[f"feature {k}" for k in range(features)],
    domain=domain,
    options={"noise": noise, **(options or {})},
  )
