"""Scenes of surgical instruments over tissue, with the class of every pixel.

Not a rendering of any operation: tissue of one colour with folds, vessels and wet highlights, and
metal shafts that come in from the border and end in the tip of their class. The classes differ in
the tip alone, as on real instruments of one maker, so that colour finds the metal and only shape
tells which it is.
"""

import numpy as np

from medjax import check
from medjax.data.seeds import Seed
from medjax.data.simulated.source import Simulated

INSTRUMENTS = ("grasper", "hook", "scissors")
"""Classes 1, 2 and 3: two short jaws apart, a tip that is bent aside, two long crossing blades."""
Bar = tuple[np.ndarray, np.ndarray, float]
"""Both ends (row, column) and the radius of a bar with round ends, in pixels."""


def instrument_scenes(
  num_scenes: int, side: int, seed: Seed, *, most_instruments: int = 2
) -> Simulated:
  """A Source of scenes [side, side, 3] in [0, 1] with 1 to `most_instruments` instruments.

  >>> scenes = instrument_scenes(2, 32, seed=0)
  >>> scenes[0].image.shape, scenes.class_names
  ((32, 32, 3), ('background', 'grasper', 'hook', 'scissors'))

  Args:
    num_scenes: scenes; each is an operation of its own.
    side: of a picture in pixels, 16 or more.
    seed: any int.
    most_instruments: 1 to 3; the instruments of a scene are of different classes, and later ones
      lie over earlier ones.
  """
  check.require(side >= 16, "side >= 16", f"{side=}", "pass 64")
  check.one_of("most_instruments", most_instruments, (1, 2, 3))

  def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    image, label = tissue(random, side), np.zeros((side, side), np.int32)
    count = int(random.integers(1, most_instruments + 1))
    kinds = random.permutation(len(INSTRUMENTS))[:count]
    first = random.uniform(0, 2 * np.pi)
    for place, kind in enumerate(kinds):
      # Instruments come in from different sides, so that a later one leaves something of a former.
      angle = first + 2 * np.pi * place / count + random.uniform(-0.4, 0.4)
      bars = instrument(random, INSTRUMENTS[kind], side, angle)
      depth = np.max([_depth(bar, side) for bar in bars], axis=0)
      image = _painted(random, image, depth, bars)
      label[depth > 0] = kind + 1
    noisy = image + random.normal(0, 0.02, image.shape)
    return np.clip(noisy, 0, 1).astype(np.float32), label

  return Simulated(
    "simulated instruments", num_scenes, int(seed), draw,
    class_names=("background", *INSTRUMENTS), channel_names=("red", "green", "blue"),
    options={"side": side, "most_instruments": most_instruments},
  )  # fmt: skip


def tissue(random: np.random.Generator, side: int) -> np.ndarray:
  """[side, side, 3]: red tissue with folds, two vessels and a few highlights."""
  y, x = (np.mgrid[:side, :side] + 0.5) / side
  angle, rate = random.uniform(0, np.pi), random.uniform(1.5, 4)
  folds = np.sin(2 * np.pi * rate * (x * np.cos(angle) + y * np.sin(angle)) + 3 * np.sin(4 * y + x))
  light = random.uniform(0.6, 0.8) + 0.12 * folds - 0.25 * np.hypot(x - 0.5, y - 0.5)
  image = light[..., None] * np.array([1.0, random.uniform(0.35, 0.55), random.uniform(0.3, 0.5)])
  for _ in range(2):
    shift, slope = random.uniform(-0.3, 1.3), random.uniform(-1, 1)
    far = np.abs(y - shift - slope * x - 0.05 * np.sin(9 * x + shift)) / np.hypot(1, slope)
    image = image * (1 - 0.45 * np.exp(-((far / 0.012) ** 2)))[..., None]
  for _ in range(int(random.integers(2, 6))):
    row, column, size = random.random(), random.random(), random.uniform(0.005, 0.02)
    image = image + 0.5 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / size**2)[..., None]
  return np.clip(image, 0, 1)


def instrument(random: np.random.Generator, kind: str, side: int, angle: float) -> list[Bar]:
  """Bars of an instrument whose shaft points along `angle` (radians) into the picture.

  Args:
    random: draws place, reach and how far the tip is open.
    kind: of `INSTRUMENTS`.
    side: of the picture in pixels.
    angle: from rows (0) to columns (pi / 2).
  """
  check.one_of("kind", kind, INSTRUMENTS)
  way = np.array([np.cos(angle), np.sin(angle)])
  across = np.array([-way[1], way[0]])
  middle = side / 2 + random.uniform(-0.12, 0.12) * side * across
  wrist = middle + random.uniform(-0.15, 0.1) * side * way
  radius = random.uniform(0.045, 0.06) * side
  shaft = (wrist - 2 * side * way, wrist, radius)  # it begins far outside
  turned = lambda turn: np.cos(turn) * way + np.sin(turn) * across  # noqa: E731
  if kind == "hook":
    bend = wrist + 0.14 * side * way
    aside = bend + random.choice([-1, 1]) * 0.16 * side * across
    return [shaft, (wrist, bend, 0.5 * radius), (bend, aside, 0.5 * radius)]
  opening = random.uniform(0.3, 0.6)
  if kind == "grasper":
    jaws = [wrist + 0.17 * side * turned(sign * opening) for sign in (-1, 1)]
    return [shaft, *((wrist, jaw, 0.6 * radius) for jaw in jaws)]
  joint = wrist + 0.1 * side * way
  blades = [joint + 0.24 * side * turned(sign * 0.7 * opening) for sign in (-1, 1)]
  handles = [wrist + sign * 0.07 * side * across for sign in (1, -1)]
  bars = zip(handles, blades, strict=True)
  return [shaft, *((handle, blade, 0.35 * radius) for handle, blade in bars)]


def _depth(bar: Bar, side: int) -> np.ndarray:
  """[side, side] pixels from the edge of a bar, above 0 inside."""
  start, end, radius = bar
  y, x = np.mgrid[:side, :side].astype(float)
  away = np.stack([y - start[0], x - start[1]], -1)
  along = end - start
  share = np.clip(away @ along / (along @ along), 0, 1)
  return radius - np.linalg.norm(away - share[..., None] * along, axis=-1)


def _painted(
  random: np.random.Generator, image: np.ndarray, depth: np.ndarray, bars: list[Bar]
) -> np.ndarray:
  """The picture with an instrument over it: its shadow, and metal that shines in its middle."""
  shift = tuple(int(n) for n in random.integers(1, 1 + max(1, image.shape[0] // 24), 2))
  shadow = np.roll(depth, shift, (0, 1)) > 0
  image = np.where(shadow[..., None], 0.7 * image, image)
  shine = np.clip(depth / bars[0][2], 0, 1)
  grey = random.uniform(0.3, 0.4) + random.uniform(0.3, 0.45) * shine
  metal = grey[..., None] * np.array([0.95, 1.0, 1.05])
  return np.where((depth > 0)[..., None], metal, image)
