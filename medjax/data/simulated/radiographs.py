"""Simulated chest radiographs, clear or with opacities in a lung."""

import numpy as np

from medjax.data.simulated.source import Simulated


def radiographs(num_cases: int, size: int, seed: int) -> Simulated:
  """People with one radiograph each: class 0 "clear", 1 "opacity", with equal chances.

  >>> people = radiographs(3, 16, seed=0)
  >>> people.class_names, people[0].image.shape
  (('clear', 'opacity'), (16, 16, 1))

  Args:
    num_cases: people.
    size: side of a picture in pixels.
    seed: any int.
  """

  def draw(random: np.random.Generator) -> tuple[np.ndarray, bool]:
    is_ill = bool(random.random() < 0.5)
    return radiograph(random, size, is_ill=is_ill)[..., None], is_ill

  return Simulated(
    "procedural radiographs",
    num_cases,
    seed,
    draw,
    class_names=("clear", "opacity"),
    options={"size": size},
    stream="radiograph",
  )


def radiograph(random: np.random.Generator, size: int, *, is_ill: bool) -> np.ndarray:
  """Two lungs, ribs and a heart, [size, size] float32 in [0, 1]; bright where rays are absorbed.

  The ill have one to three opacities in a lung.
  """
  y, x = np.meshgrid(*2 * [(np.arange(size) + 0.5) / size * 2 - 1], indexing="ij")
  y, x = y - random.normal(0, 0.05), x - random.normal(0, 0.05)

  def blob(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
    return 1 / (1 + np.exp(8 * (np.hypot((y - cy) / ry, (x - cx) / rx) - 1)))

  height, width = random.uniform(0.55, 0.7), random.uniform(0.25, 0.34)
  left, right = (blob(0.0, side * 0.42, height, width) for side in (-1, 1))
  lungs = np.maximum(left, right)
  ribs = 0.5 + 0.5 * np.sin(2 * np.pi * (4 * y + 0.8 * np.abs(x) + random.random()))
  image = 0.75 - 0.5 * lungs + 0.1 * lungs * ribs + 0.35 * blob(0.3, 0.08, 0.38, 0.22)
  if is_ill:
    for _ in range(random.integers(1, 4)):
      side, depth = random.choice([-1, 1]), random.uniform(0.18, 0.35)
      cy, cx = random.uniform(-0.35, 0.4), side * random.uniform(0.32, 0.52)
      image += depth * lungs * blob(cy, cx, random.uniform(0.12, 0.25), random.uniform(0.1, 0.2))
  image = random.uniform(0.8, 1.2) * (image - 0.5) + 0.5 + random.normal(0, 0.05)
  return np.clip(image + random.normal(0, 0.04, image.shape), 0, 1).astype(np.float32)
