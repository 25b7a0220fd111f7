"""How far features lie from a domain: an ensemble of groupings, a Mahalanobis distance in each.

Not a study: what `continual_gen` asks of a picture or of a set of pictures. Bayasi et al. 2023
group the features of a domain in several ways, by class and by mixtures of Gaussians, keep mean and
covariance of every cluster, and average the distances over the groupings (their ESS). Here a score
is a distance, and a small one means the same domain: the paper's text says both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import classical
from medjax import check


class DomainGroups(NamedTuple):
  """What is kept of a domain: no picture, the means and variances of clusters.

  Attributes:
    means, variances: a grouping each: [cluster, feature].
    typical: mean distance of the domain's own pictures.
  """

  means: tuple[np.ndarray, ...]
  variances: tuple[np.ndarray, ...]
  typical: float


def distances(
  means: Sequence[np.ndarray], variances: Sequence[np.ndarray], z: np.ndarray
) -> np.ndarray:
  """[n] mean over groupings of the distance to the nearest cluster, in deviations a feature.

  >>> distances([np.zeros((1, 2))], [np.ones((1, 2))], np.array([[3.0, 3.0]])).tolist()
  [3.0]
  """
  found = []
  for mean, variance in zip(means, variances, strict=True):
    square = ((z[:, None] - mean[None]) ** 2 / variance[None]).mean(-1)
    found.append(np.sqrt(square.min(1)))
  return np.mean(found, 0)


def grouped(
  z: np.ndarray,
  labels: np.ndarray,
  *,
  sizes: Sequence[int],
  seed: int,
  kind: str = "mixture",
  shrink: float = 0.3,
) -> DomainGroups:
  """The groupings of a domain: by class, and one of each number of clusters.

  Args:
    z: [n, feature].
    labels: [n] class ids.
    sizes: numbers of clusters; the paper has 1, 3, 5, 7, 10, 15 and 20.
    seed: of the clusterings.
    kind: "mixture" of Gaussians or k-"means".
    shrink: share of the variance over all clusters in that of each. DEVIATION: variances alone, no
      covariances, which for 68 clusters of 2,048 features would take a gigabyte.
  Raises:
    InputError: fewer pictures than clusters.
  """
  check.require(
    len(z) > max(sizes, default=0), f"more pictures than clusters, {max(sizes, default=0)}",
    f"{len(z)}", "pass smaller sizes"
  )  # fmt: skip
  whole = z.var(0) + 1e-3
  means, variances = [], []
  ways = [labels] + [classical.clusters(z, k, seed, kind=kind) if k > 1 else np.zeros(len(z), int)
                     for k in sizes]  # fmt: skip
  for way in ways:
    members = [z[way == k] for k in np.unique(way)]
    means.append(np.stack([own.mean(0) for own in members]))
    own = np.stack([own.var(0) for own in members])
    variances.append((1 - shrink) * own + shrink * whole[None])
  return DomainGroups(tuple(means), tuple(variances), float(distances(means, variances, z).mean()))
