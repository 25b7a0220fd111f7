"""Trap sets: pictures of lesions in which an artefact gives the class away, until it misleads.

Not a study: the data of `experiments.test_time_selection`. In a trap set of bias b the artefact
shows the class with probability (1 + b) / 2 in training and (1 - b) / 2 in the test. With b = 0 it
says nothing, with b = 1 it is always right in training and always wrong in the test.
"""

import json
import pathlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from medjax import check, data, tables
from medjax.data.formats import png
from medjax.data.seeds import generator


class Scene(NamedTuple):
  """One lesion, and one artefact that may be put beside it.

  Attributes:
    image: [height, width, channel] without the artefact.
    lesion: [height, width] bool.
    label: 0 or 1.
    trap: [height, width, channel], the same image with the artefact.
    artefact: [height, width] bool, where it is.
  """

  image: np.ndarray
  lesion: np.ndarray
  label: int
  trap: np.ndarray
  artefact: np.ndarray


class TrapSet(NamedTuple):
  """Scenes of people, and a title and manifest."""

  title: str
  scenes: Sequence[Scene]
  subjects: tuple[str, ...]
  manifest: dict

  def who_shows(self, rows: Sequence[int], bias: float, seed: int, *, misleads: bool) -> np.ndarray:
    """Which of the scenes show the artefact, [row] bool.

    Args:
      rows: of the scenes.
      bias: b in [0, 1].
      seed: of the draw; a person's is the same for every bias.
      misleads: the test's side, where the artefact stands beside the other class.
    """
    agrees = 0.5 + (-0.5 if misleads else 0.5) * bias
    is_right = np.array([generator(seed, "trap", int(i)).random() < agrees for i in rows])
    return is_right == np.array([self.scenes[i].label == 1 for i in rows])

  def store(self, rows: Sequence[int], is_trap: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays for `data.batches`: image, label and index; `is_trap` says who shows the artefact."""
    own = [self.scenes[i] for i in rows]
    images = [s.trap if shows else s.image for s, shows in zip(own, is_trap, strict=True)]
    return {
      "image": np.stack(images).astype(np.float32),
      "label": np.array([s.label for s in own], np.int32),
      "index": np.array(rows, np.int32),
    }


class Points(NamedTuple):
  """Points of one image, [point, 2] row and column each.

  Attributes:
    lesion: inside the lesion.
    background: outside of lesion and artefact.
    artefact: on the artefact; where the image shows none, those on the background.
  """

  lesion: np.ndarray
  background: np.ndarray
  artefact: np.ndarray


def points_of(scene: Scene, is_trap: bool, num: int, random: np.random.Generator) -> Points:
  """Points that a person might give, drawn evenly from each region, with repeats if it is small."""

  def within(region: np.ndarray) -> np.ndarray:
    places = np.argwhere(region)
    check.require(
      len(places), "a pixel in each region that points are drawn from", "none", "leave the case out"
    )
    return places[random.integers(len(places), size=num)]

  outside = ~(scene.lesion | scene.artefact)
  background = within(outside)
  artefact = within(scene.artefact) if is_trap else background
  return Points(within(scene.lesion), background, artefact)


def discs(num: int, size: int, seed: int, contrast: float) -> TrapSet:
  """Discs whose class is the course of faint stripes inside; the trap is a square in a corner.

  Args:
    num: scenes, a person each.
    size: side of a picture in pixels.
    seed: of the scenes.
    contrast: height of the stripes, over noise of deviation 0.08. At 0.06 a network of the study
      learns nothing of them beside a square that is always right, at 0.12 a little.
  """
  y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
  side, scenes = max(size // 5, 2), []
  for index in range(num):
    random = generator(seed, "discs", index)
    label = int(random.integers(2))
    radius = random.uniform(0.2, 0.28) * size
    middle = random.uniform(0.42, 0.58, 2) * size
    lesion = np.hypot(y - middle[0], x - middle[1]) <= radius
    stripes = np.sin(2 * np.pi * (y if label else x) / 4 + random.uniform(0, 2 * np.pi))
    image = 0.4 + 0.2 * lesion + contrast * stripes * lesion + random.normal(0, 0.08, (size, size))
    corner = random.integers(2, size=2)
    artefact = np.zeros((size, size), bool)
    rows, columns = (slice(0, side) if c else slice(size - side, size) for c in corner)
    artefact[rows, columns] = True
    artefact &= ~lesion
    trap = np.where(artefact, 0.95, image)
    scenes.append(Scene(image[..., None], lesion, label, trap[..., None], artefact))
  about = {"kind": "discs", "num": num, "size": size, "seed": seed, "contrast": contrast}
  return TrapSet("simulated discs", scenes, tuple(f"simulated_{i:05d}" for i in range(num)), about)


def skin(
  lesions: pathlib.Path, artefacts: pathlib.Path, size: int, kind: str, *, beside: bool = True
) -> TrapSet:
  """Skin lesions that show a real ruler or ink marking, laid over the picture, or do not.

  Args:
    lesions: nnU-Net folder of colour pictures with lesion masks, and diagnosis.csv (case,
      diagnosis); "Common Nevus" is class 0, all other diagnoses class 1.
    artefacts: folder with meta.json and templates/NAME/*_with_*.png and *_without_*.png.
    size: side that pictures are scaled to.
    kind: class of the artefacts, "ruler" or "bubble".
    beside: take for each lesion an artefact part of which lies beside it, so that it can be pointed
      at. A lesion that fills its picture has none.
  Raises:
    InputError: no artefact of that kind, a case without a diagnosis, or an empty mask.
  """
  folder = data.NnUNetFolder(lesions, normalise="eight_bit", cache=True)
  found = {
    line.filled("case"): line.filled("diagnosis")
    for line in tables.read_table(lesions / "diagnosis.csv", ("case", "diagnosis"))
  }
  pairs = artefact_pairs(artefacts, (kind,))
  layers = [_layer(*pair, size) for pair in pairs]
  scenes = []
  for index in range(len(folder)):
    example = folder[index]
    check.require(
      example.name in found, f"a diagnosis of {example.name}", "none", "complete diagnosis.csv"
    )
    assert example.image is not None and example.label is not None
    image, lesion = _scaled(np.asarray(example.image), size), _scaled(example.label > 0, size) > 0.5
    check.require(lesion.any(), f"a lesion in the mask of {example.name}", "none", "leave it out")
    turned = layers[index % len(layers) :] + layers[: index % len(layers)]
    change, artefact = next(
      (own for own in turned if not beside or (own[1] & ~lesion).any()), (None, None)
    )
    if change is None or artefact is None:
      raise check.InputError(
        f"an artefact beside the lesion of {example.name}", "all under it", "leave the case out"
      )
    trap = np.clip(image + change, 0, 1)
    label = int(found[example.name] != "Common Nevus")
    scenes.append(Scene(image, lesion, label, trap, artefact & ~lesion))
  return TrapSet(
    f"skin lesions with and without a {kind}",
    scenes,
    folder.subjects,
    {**folder.manifest(), "artefacts": [pair[0].name for pair in pairs], "size": size},
  )


def artefact_pairs(
  folder: pathlib.Path, kinds: Collection[str]
) -> list[tuple[pathlib.Path, pathlib.Path]]:
  """Files of pictures with an artefact, and of the same without it.

  Args:
    folder: with meta.json and templates/NAME/*_with_*.png and *_without_*.png.
    kinds: classes of artefacts.
  Raises:
    InputError: none of these classes.
  """
  meta = json.loads(check.existing_file(folder / "meta.json").read_text())
  named = sorted({one["name"] for one in meta["artefacts"] if one["class"] in kinds})
  pairs = [
    (path, path.with_name(path.name.replace("_with_", "_without_")))
    for name in named
    for path in sorted((folder / "templates" / name).glob("*_with_*.png"))
    if path.with_name(path.name.replace("_with_", "_without_")).exists()
  ]
  shown = ", ".join(sorted(kinds))
  check.require(pairs, f"artefacts of the class {shown} in {folder}", "none", "look at meta.json")
  return pairs


def _layer(with_: pathlib.Path, without: pathlib.Path, size: int) -> tuple[np.ndarray, np.ndarray]:
  """What an artefact adds to a picture, and where: the difference of the two pictures of a pair."""
  change = artefact_change(with_, without, (size, size))
  return change, np.abs(change).max(-1) > 0.08


def artefact_change(
  with_: pathlib.Path, without: pathlib.Path, shape: tuple[int, int]
) -> np.ndarray:
  """[*shape, 3] what an artefact adds to a picture: the difference of the pictures of a pair."""
  one, other = (png.read_png(path).array.astype(np.float32) / 255 for path in (with_, without))
  return _scaled(one[..., :3] - other[..., :3], *shape)


def _scaled(array: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
  """A picture of `height` and as many columns, or `width`."""
  from scipy import ndimage

  shape = (height, height if width is None else width)
  factors = [n / old for n, old in zip(shape, array.shape, strict=False)]
  factors += [1.0] * (array.ndim - 2)
  scaled = ndimage.zoom(array.astype(np.float32), factors, order=1, mode="nearest", grid_mode=True)
  return scaled
