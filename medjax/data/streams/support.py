"""Problems for networks that learn from a support: label maps, and one of their classes.

A family is a set of label maps whose classes mean the same in each, such as brains of several
people. A task is a class of a family. Each draw is a problem: a task, and the maps of a query and
of its support, which are different people where the family has enough. Images are made of the maps
on the device (`synth.generate_alike`), so maps serve that have no image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from medjax import check
from medjax.data.seeds import Seed, generator
from medjax.types import Stream


class TaskFamily(NamedTuple):
  """Label maps with common classes.

  Attributes:
    name: for messages.
    maps: [map, *space] class ids, 0 background.
    is_template: False: maps are people, and each map of a problem is another person's. True: each
      map is an anatomy of its own (as `random_shapes` draws them), and all maps of a problem are
      copies of one, which the generator deforms.
  """

  name: str
  maps: np.ndarray
  is_template: bool = False


class SupportTask(NamedTuple):
  """A class of a family, and how many of its maps have it."""

  family: int
  target: int
  num_maps: int


Balance = Callable[[Sequence[SupportTask]], np.ndarray]
"""Tasks -> how often each is drawn, up to a common factor."""


def by_family(tasks: Sequence[SupportTask]) -> np.ndarray:
  """Families alike, and the tasks of a family alike; UniverSeg's sampling over data sets.

  >>> by_family([SupportTask(0, 1, 9), SupportTask(0, 2, 1), SupportTask(1, 1, 90)]).tolist()
  [0.5, 0.5, 1.0]
  """
  families = np.array([task.family for task in tasks])
  return 1 / np.bincount(families)[families]


def by_task(tasks: Sequence[SupportTask]) -> np.ndarray:
  """All tasks alike: a family counts by its number of classes."""
  return np.ones(len(tasks))


def by_map(tasks: Sequence[SupportTask]) -> np.ndarray:
  """Tasks by their number of maps: all that there is counts alike, and large families prevail."""
  return np.array([task.num_maps for task in tasks], np.float64)


def support_problems(
  families: Sequence[TaskFamily],
  num_support: int,
  batch_size: int,
  seed: Seed,
  *,
  balance: Balance = by_family,
  least_voxels: int = 8,
  absent_fraction: float = 0.0,
  name: str = "problems",
) -> Stream:
  """A stream of problems, each a function of (seed, step).

  >>> maps = np.repeat(np.eye(8, dtype=np.int32)[None], 3, 0)
  >>> stream = support_problems([TaskFamily("lines", maps)], 2, batch_size=4, seed=0)
  >>> {key: value.shape for key, value in stream(7).items()}
  {'maps': (4, 3, 8, 8), 'target': (4,), 'index': (4,)}

  Args:
    families: on one grid.
    num_support: pairs of a support; a problem has one map more, the query's, which stands first.
    batch_size: problems a batch.
    seed: any int.
    balance: `by_family`, `by_task`, `by_map`, or your own.
    least_voxels: of the class that a map must have to count as one that has it.
    absent_fraction: probability that a map of a problem is drawn from the whole family, whether it
      has the class or not: a network that is to say "nothing here" has to see that. UniverSeg's
      training is 0. At least one map of the support has the class.
    name: tells streams of one seed apart.
  Returns:
    `stream(step)` -> {"maps" [batch, 1 + num_support, *space] int32, "target" [batch] int32,
    "index" [batch] int32: the number of the problem}.
  Raises:
    InputError: no families, different grids, or no class of enough voxels.
  """
  check.positive("num_support", num_support)
  check.positive("batch_size", batch_size)
  check.in_interval("absent_fraction", absent_fraction, 0.0, 1.0)
  check.require(families, "one family of label maps or more", "none", "see TaskFamily")
  for family in families:
    first = families[0].maps.shape[1:]
    check.same_shape(f"maps of {family.name}", family.maps.shape[1:], families[0].name, first)
  holders: dict[tuple[int, int], np.ndarray] = {}
  for number, family in enumerate(families):
    for target in np.unique(family.maps):
      inside = (family.maps == target).reshape(len(family.maps), -1).sum(1)
      if target > 0 and (inside >= least_voxels).any():
        holders[number, int(target)] = np.flatnonzero(inside >= least_voxels)
  check.require(
    holders,
    f"a class of {least_voxels} voxels or more in some map",
    "none",
    "give maps with class ids above 0, or lower least_voxels",
  )
  tasks = [SupportTask(*task, len(own)) for task, own in holders.items()]
  shares = np.asarray(balance(tasks), np.float64)
  shares = shares / shares.sum()

  def stream(step: int) -> dict[str, np.ndarray]:
    maps, targets = [], []
    numbers = int(step) * batch_size + np.arange(batch_size)
    for number in numbers:
      random = generator(seed, name, int(number % 2**32))
      task = tasks[random.choice(len(tasks), p=shares)]
      family = families[task.family]
      own = holders[task.family, task.target]
      if family.is_template:
        rows = np.repeat(random.choice(own), 1 + num_support)
      else:
        rows = _people(own, 1 + num_support, random)
        is_any = random.random(1 + num_support) < absent_fraction
        is_any[1] = False
        rows = np.where(is_any, random.integers(0, len(family.maps), 1 + num_support), rows)
      maps.append(family.maps[rows])
      targets.append(task.target)
    return {
      "maps": np.stack(maps).astype(np.int32),
      "target": np.array(targets, np.int32),
      "index": (numbers % 2**31).astype(np.int32),
    }

  return stream


def _people(own: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
  """Different ones as long as there are; the query, which comes first, is never its own support."""
  if len(own) >= number:
    return random.choice(own, number, replace=False)
  order = random.permutation(own)
  if len(order) == 1:
    return np.repeat(order, number)
  return np.concatenate([order[:1], random.choice(order[1:], number - 1)])
