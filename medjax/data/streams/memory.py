"""Which cases of earlier centres are kept: a memory of indices with a hard bound.

A memory holds positions in a source, never copies. Policies choose among the cases of a centre:

  random      uniformly, without looking at the cases
  reservoir   every case seen so far kept with equal probability (Vitter 1985, Algorithm R)
  herding     greedily the cases whose mean features stay closest to the mean of all (Welling 2009)
  diverse     greedily the case whose gradient points least where those kept point (GSS, Aljundi et
              al. 2019: the set of smallest sum of cosines)

Herding and diverse look at the cases: under privacy their choice is a release of its own.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence

import numpy as np

from medjax import check
from medjax.data.seeds import Seed, generator
from medjax.types import Indices


@dataclasses.dataclass(frozen=True)
class Memory:
  """At most `per_centre` cases of each centre, fixed once stored.

  >>> memory = Memory(per_centre=2).store("a", [4, 7]).store("b", [9])
  >>> memory.indices
  (4, 7, 9)

  Attributes:
    per_centre: the bound, 1 or more; the MS replay paper keeps 20.
    kept: centre -> positions, in the order of storing.
  """

  per_centre: int
  kept: Mapping[str, tuple[int, ...]] = dataclasses.field(
    default_factory=lambda: types.MappingProxyType({})
  )

  def __post_init__(self):
    check.positive("per_centre", self.per_centre)

  @property
  def indices(self) -> tuple[int, ...]:
    return tuple(i for held in self.kept.values() for i in held)

  def store(self, centre: str, chosen: Indices) -> "Memory":
    """A memory with these cases of one more centre.

    Raises:
      InputError: more cases than the bound, a case that is there already, or a centre that is.
    """
    chosen = tuple(int(i) for i in chosen)
    check.require(
      len(chosen) <= self.per_centre,
      f"at most {self.per_centre} cases of {centre}",
      f"{len(chosen)}",
      "let a policy choose",
    )
    check.require(
      centre not in self.kept, "a centre that is not stored", centre, "what is drawn stays"
    )
    twice = len(set(chosen)) < len(chosen) or set(chosen) & set(self.indices)
    check.require(not twice, "cases that are not stored", f"{chosen}", "store each case once")
    return dataclasses.replace(self, kept=types.MappingProxyType({**self.kept, centre: chosen}))


@dataclasses.dataclass(frozen=True)
class Reservoir:
  """A uniform sample of at most `capacity` of all cases offered, whatever their centre.

  Attributes:
    capacity: the bound, 1 or more.
    seed: the same offers in the same order give the same sample.
    items: what is kept.
    num_seen: cases offered so far.
  """

  capacity: int
  seed: Seed
  items: tuple[int, ...] = ()
  num_seen: int = 0

  def __post_init__(self):
    check.positive("capacity", self.capacity)

  def offer(self, cases: Indices) -> "Reservoir":
    """The reservoir after these cases, in their order."""
    items, seen = list(self.items), self.num_seen
    for case in cases:
      place = seen
      if seen >= self.capacity:
        place = int(generator(self.seed, "reservoir", seen).integers(seen + 1))
      if place < self.capacity:
        items[place : place + 1] = [int(case)]
      seen += 1
    return dataclasses.replace(self, items=tuple(items), num_seen=seen)


def random(num: int, size: int, seed: Seed, *, name: str = "") -> tuple[int, ...]:
  """`size` of the positions 0..num - 1, all of them if there are no more, ascending."""
  order = generator(seed, f"{name} memory").permutation(num)
  return tuple(sorted(int(i) for i in order[:size]))


def redrawn(
  centres: Mapping[str, Sequence[int]], size: int, seed: Seed, turn: int
) -> tuple[int, ...]:
  """A buffer drawn anew at every turn, as in the released code of the MS replay paper.

  It is no bounded memory: over the turns more than `size` cases of a centre are seen, and all of
  them have to be kept for it.
  """
  chosen = []
  for centre, cases in centres.items():
    places = random(len(cases), size, seed, name=f"{centre} turn {turn}")
    chosen += [int(cases[i]) for i in places]
  return tuple(chosen)


def herding(features: np.ndarray, size: int) -> tuple[int, ...]:
  """Positions whose running mean follows the mean of all features, in the order of choice.

  Args:
    features: [case, feature], finite.
    size: how many; all if there are no more.
  Guarantees: the i-th choice minimises |mean of all - mean of the first i|; ties go to the first.
  """
  features = _table("features", features)
  mean, total = features.mean(0), np.zeros(features.shape[1])
  chosen: list[int] = []
  for count in range(1, min(size, len(features)) + 1):
    distance = np.linalg.norm(mean - (total + features) / count, axis=1)
    distance[chosen] = np.inf
    chosen.append(_first_smallest(distance))
    total = total + features[chosen[-1]]
  return tuple(chosen)


def diverse(gradients: np.ndarray, size: int) -> tuple[int, ...]:
  """Positions whose gradients point apart, in the order of choice.

  Args:
    gradients: [case, coordinate] gradients or sketches of them; a zero gradient has cosine 0.
    size: how many; all if there are no more.
  Guarantees: the first is the one of smallest summed cosine to all others; each further one has the
    smallest summed cosine to those chosen; ties go to the first.
  """
  gradients = _table("gradients", gradients)
  norm = np.linalg.norm(gradients, axis=1, keepdims=True)
  unit = np.divide(gradients, norm, out=np.zeros_like(gradients), where=norm > 0)
  cosine = unit @ unit.T
  np.fill_diagonal(cosine, 0.0)
  chosen = [_first_smallest(cosine.sum(1))]
  cost = np.zeros(len(gradients))
  while len(chosen) < min(size, len(gradients)):
    cost += cosine[chosen[-1]]
    cost[chosen[-1]] = np.inf
    chosen.append(_first_smallest(cost))
  return tuple(chosen[:size])


def _first_smallest(values: np.ndarray) -> int:
  """Position of the smallest value, the first of those that differ by rounding alone.

  Sums and products differ in their last bits between processors, and equal candidates must not be
  chosen by them.
  """
  finite = values[np.isfinite(values)]
  tolerance = 1e-9 * float(np.abs(finite).max(initial=0.0))
  return int(np.flatnonzero(values <= values.min() + tolerance)[0])


def _table(name: str, values: np.ndarray) -> np.ndarray:
  values = np.asarray(values, np.float64)
  check.require(
    values.ndim == 2 and len(values) and bool(np.isfinite(values).all()),
    f"finite {name} [case, coordinate] of at least one case",
    f"shape {list(values.shape)}",
    "one row a case",
  )
  return values
