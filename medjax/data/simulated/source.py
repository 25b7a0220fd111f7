"""Sources that a function draws: case `index` depends on (seed, index) and on nothing else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import check
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.types import Example, Json

Draw = Callable[[np.random.Generator], tuple[np.ndarray | None, Any]]
"""`draw(random) -> (image [*space, channel] float32 or None, label)` of one case."""


class Simulated:
  """A Source of people, each of whom is drawn when asked for and the same each time.

  >>> noise = Simulated("noise", 2, 0, lambda r: (r.random((4, 4, 1), np.float32), 0))
  >>> noise[1].name, noise[1].image.shape, bool((noise[1].image == noise[1].image).all())
  ('simulated_0_00001', (4, 4, 1), True)
  """

  def __init__(
    self,
    kind: str,
    num_cases: int,
    seed: int,
    draw: Draw,
    *,
    class_names: Sequence[str] = ("background", "structure"),
    channel_names: Sequence[str] = ("grey",),
    domain: str = "",
    spacing: Sequence[float] = (1.0, 1.0),
    options: Mapping[str, object] | None = None,
    stream: str = "",
  ):
    """Describes the cases.

    Args:
      kind: what they are, for manifests.
      num_cases: each case is a person of its own.
      seed: any int.
      draw: draws one case; it must not use any other randomness.
      class_names, channel_names: as for every Source.
      domain: site of all cases; two sites of one seed show different people.
      spacing: voxel size in mm.
      options: what `draw` closes over, for the manifest.
      stream: tells the draws of one seed apart; "": the kind and the domain do.
    """
    check.positive("num_cases", num_cases)
    self._kind, self._draw, self._seed = kind, draw, seed
    self._stream = stream or f"{kind} {domain}".rstrip()
    self.class_names, self.channel_names = tuple(class_names), tuple(channel_names)
    self.subjects = tuple(f"simulated_{seed}_{i:05d}" for i in range(num_cases))
    self.domains = (domain,) * num_cases
    self._spacing, self._options = tuple(spacing), {**(options or {}), "seed": seed}

  def __len__(self) -> int:
    return len(self.subjects)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    name = self.subjects[index]
    image, label = self._draw(generator(self._seed, self._stream, index))
    label = np.asarray(label, np.int32)
    return Example(name, name, index, image, label, self._spacing, domain=self.domains[index])

  def manifest(self) -> dict[str, Json]:
    return manifest.describe(
      self._kind,
      class_names=self.class_names,
      channel_names=self.channel_names,
      subjects=self.subjects,
      options=self._options,
    )
