"""Pictures of tissue under several scanners: simulated, or folders of your own.

Not a study: what the studies of scanners share. Each scanner is a Source whose domain it is.
"""

import pathlib
from collections.abc import Callable

import numpy as np

from medjax import check, data, tables
from medjax.data.sets import class_folders
from medjax.types import Source

SCANNERS = {  # gain and offset of red, green and blue, and gamma
  "XR": ((1.1, 0.8, 1.0), (0.0, 0.0, 0.0), 1.0),
  "S360": ((0.8, 0.9, 0.7), (0.1, 0.0, 0.2), 0.7),
  "CS": ((0.7, 1.0, 1.2), (0.2, 0.1, -0.1), 1.6),
}


def tissue(num: int, size: int, seed: int, scanner: str) -> Source:
  """Pictures of twelve small nuclei (class 0) or three large ones (class 1), of one total area.

  The scanner changes colours alone, so a network that looks at shapes knows every scanner.
  """
  gain, offset, gamma = (np.array(x, np.float32) for x in SCANNERS[scanner])
  y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")

  def draw(random: np.random.Generator) -> tuple[np.ndarray, bool]:
    is_large = bool(random.random() < 0.5)
    count, radius = (3, 0.16) if is_large else (12, 0.08)
    stain = np.zeros((size, size))
    for cy, cx in random.uniform(0, size, (count, 2)):
      distance = np.hypot(y - cy, x - cx) / (radius * size * random.uniform(0.85, 1.15))
      stain = np.maximum(stain, random.uniform(0.5, 1.0) / (1 + np.exp(8 * (distance - 1))))
    pink = np.array([0.9, 0.7, 0.85]) - stain[..., None] * np.array([0.5, 0.5, 0.3])
    seen = np.clip(pink + random.normal(0, 0.06, pink.shape), 0, 1)
    return (gain * seen**gamma + offset).astype(np.float32), is_large

  return data.Simulated(
    "simulated tissue",
    num,
    seed,
    draw,
    class_names=("small nuclei", "large nuclei"),
    channel_names=("red", "green", "blue"),
    domain=scanner,
    options={"size": size, "scanner": scanner},
  )


def folder(path: pathlib.Path, size: int, table: str = "") -> Source:
  """The pictures of one scanner, CLASS/*.png.

  Args:
    path: folder named like the scanner.
    size: side to which pictures are scaled.
    table: CSV beside the folder with the columns scanner, label, file and slide: pictures of one
      slide then stay together. "": each picture is on its own, unless it is there twice.
  Raises:
    InputError: a picture without a line in the table.
  """
  return data.ClassFolders(
    path, size=(size, size), colour=True, identify=_slides(path, table) if table else None
  )


def _slides(path: pathlib.Path, table: str) -> Callable[..., class_folders.Identity]:
  lines = tables.read_table(path.parent / table, ("scanner", "label", "file", "slide"))
  slides = {
    (line.filled("label"), line.filled("file").rpartition(".")[0]): line.filled("slide")
    for line in lines
    if line.filled("scanner") == path.name
  }

  def identify(identity: class_folders.Identity, stem: str) -> class_folders.Identity:
    slide = slides.get((identity.class_name, stem))
    check.require(
      slide is not None,
      f"a line of {table} for every picture of {path.name}",
      f"none for {identity.class_name}/{stem}",
      "complete the table",
    )
    return identity._replace(subject=f"{path.name} {slide}")

  return identify
