"""Blocks of tissue, cut into layers whose points know where they belong.

Not a study: the data of `serial_sections`.
"""

from typing import Any, NamedTuple

import numpy as np

from medjax.data.seeds import generator


class Block(NamedTuple):
  """A block of tissue, cut into layers.

  Attributes:
    name: of the block.
    layers: [layer, point, 2], as they came from the microscope.
    below: [layer - 1, point, 2], where the points of layer k + 1 belong in the frame of layer k.
    home: [layer - 1, point, 2], where they belong in the frame of layer 0.
  """

  name: str
  layers: np.ndarray
  below: np.ndarray
  home: np.ndarray


def simulated(config: Any, seed: int) -> list[tuple[str, np.ndarray]]:
  """Blocks [layer, point, 2] before they are cut: nests of tumour that wander slowly with height.

  Every layer has its own points, drawn uniformly from the nests, so no point has a counterpart.
  (In one filled body ICP would stay where it starts: inside it every point finds a partner.)
  """
  blocks = []
  for i in range(config.num_blocks):
    random = generator(seed, "block", i)
    ends = random.uniform(-1, 1, (12, 1, 2)) + random.normal(0, 0.1, (12, 2, 2))  # first and last
    radii, layers = random.uniform(0.08, 0.25, 12), []
    for height in np.linspace(0, 1, config.num_layers):
      centres = (1 - height) * ends[:, 0] + height * ends[:, 1]
      drawn = random.uniform(-1.5, 1.5, (60 * config.num_points, 2))  # 1 in 12 or more in a nest
      distance = np.linalg.norm(drawn[:, None] - centres, axis=-1)
      layers.append(drawn[(distance < radii).any(1)][: config.num_points])
    blocks.append((f"block{i}", np.stack(layers)))
  return blocks


def cut(config: Any, name: str, tissue: np.ndarray, paired: bool, seed: int) -> Block:
  """Turns and shifts every layer at random, as on a slide.

  Args:
    config: how far.
    name: of the block.
    tissue: [layer, point, 2].
    paired: whether point i is the same place in all layers (landmarks). Otherwise the layers lie
      right as they are, and a point belongs where it is.
    seed: of the draws.
  """
  random = generator(seed, f"cut {name}")
  extent = diagonal(tissue[0])
  moves = []
  for _ in tissue:
    angle = np.deg2rad(config.angle) * random.normal()
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moves.append((turn, config.shift / 100 * extent * random.normal(size=2)))

  def moved(points: np.ndarray, layer: int) -> np.ndarray:
    centre = tissue[layer].mean(0)
    return (points - centre) @ moves[layer][0].T + centre + moves[layer][1]

  numbers = range(1, len(tissue))
  return Block(
    name,
    np.stack([moved(points, k) for k, points in enumerate(tissue)]),
    np.stack([moved(tissue[k - 1 if paired else k], k - 1) for k in numbers]),
    np.stack([moved(tissue[0 if paired else k], 0) for k in numbers]),
  )


def diagonal(points: np.ndarray) -> float:
  """Length of the diagonal of the box around a layer."""
  return float(np.linalg.norm(np.ptp(points, axis=0)))
