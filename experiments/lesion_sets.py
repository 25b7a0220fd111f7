"""Pictures of lesions with a class and, where it is known, an outline: drawn, PH2, mitotic figures.

Not a study: what `experiments.prototypes` looks at. Real pictures come as maps of an ImageNet
network that stays as it is.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from experiments import scanner_sets, task_sets
from medjax import check, data, nets, tables
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.types import Json


class LesionSet(NamedTuple):
  """Pictures of people.

  Attributes:
    title: for the page.
    image: [n, height, width, channel] what the networks are given: pictures, or maps of a backbone.
    label: [n] positions in `class_names`; the last class is the rare one.
    mask: [n, height, width] where the lesion is, bool; None if unknown.
    subjects: [n] people.
    class_names: names.
    manifest: what a run that goes on must find unchanged.
  """

  title: str
  image: np.ndarray
  label: np.ndarray
  mask: np.ndarray | None
  subjects: tuple[str, ...]
  class_names: tuple[str, ...]
  manifest: dict[str, Json]


def drawn(num: int, size: int, seed: int) -> LesionSet:
  """Dark discs on skin; the class is a pattern inside: even, stripes, or a net (the rare one).

  The discs lie anywhere, so that a map which always points at the middle is found out; hairs cross
  the skin in all classes.
  """
  y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
  images, masks, labels = [], [], []
  for index in range(num):
    random = generator(seed, "drawn lesion", index)
    label = index % 3
    radius = random.uniform(0.17, 0.25) * size
    middle = random.uniform(radius, size - radius, 2)
    mask = np.hypot(y - middle[0], x - middle[1]) <= radius
    phase = random.uniform(0, 2 * np.pi, 2)
    stripes = np.sin(2 * np.pi * y / 4 + phase[0])
    crossed = np.sin(2 * np.pi * x / 4 + phase[1])
    pattern = (0.0, 1.0, 0.7)[label] * stripes + (0.0, 0.0, 0.7)[label] * crossed
    image = 0.7 - 0.25 * mask + 0.1 * mask * pattern
    for _ in range(2):  # hairs
      angle, offset = random.uniform(0, np.pi), random.uniform(-0.4, 0.4) * size
      line = (y - size / 2) * np.cos(angle) - (x - size / 2) * np.sin(angle) - offset
      image -= 0.2 * np.exp(-(line**2))
    images.append(image + random.normal(0, 0.06, (size, size)))
    masks.append(mask)
    labels.append(label)
  image = np.clip(np.stack(images), 0, 1).astype(np.float32)[..., None]
  about: dict[str, Json] = {"kind": "drawn lesions", "num": num, "size": size, "seed": seed}
  return LesionSet(
    "drawn lesions",
    image,
    np.array(labels, np.int32),
    np.stack(masks),
    tuple(f"drawn_{i:05d}" for i in range(num)),
    ("even", "striped", "net"),
    about,
  )


def skin(
  path: pathlib.Path, weights: pathlib.Path, size: int, *, folder: str | os.PathLike | None = None
) -> LesionSet:
  """An nnU-Net folder of dermoscopy with lesion masks and diagnosis.csv: nevus or melanoma.

  Args:
    path: the folder; common and atypical nevi are one class.
    weights: of EfficientNet-Lite0, see `nets.imagenet_features`.
    size: side that pictures and masks are scaled to.
    folder: where maps are kept, None for nowhere.
  Raises:
    InputError: a case without a diagnosis.
  """
  pictures, masks, names, about = pictures_of(path, size)
  found = diagnoses(path, names)
  return LesionSet(
    f"skin lesions of {path.resolve().name}",
    _maps(pictures, weights, folder),
    np.array(["melanoma" in own.lower() for own in found], np.int32),
    masks,
    names,
    ("nevus", "melanoma"),
    {**about, "size": size, "weights": manifest.file_digests(weights.parent, [weights])},
  )


def embedded(path: pathlib.Path, weights: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """What Lite0 makes of the pictures of such a folder, [n, 1280], and which are melanomas, [n]."""
  pictures, _, names, _ = pictures_of(path, 160)
  kinds = ["melanoma" in own.lower() for own in diagnoses(path, names)]
  return nets.imagenet_features(pictures, weights), np.array(kinds, int)


def pictures_of(
  path: pathlib.Path, size: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], dict[str, Json]]:
  """Pictures [n, size, size, 3] in [0, 1], masks, names and manifest of an nnU-Net folder."""
  source = data.NnUNetFolder(path, normalise="eight_bit")
  images, masks = [], []
  for example in (source[i] for i in range(len(source))):
    assert example.image is not None and example.label is not None
    images.append(task_sets.resized(np.asarray(example.image), size))
    masks.append(task_sets.resized(np.asarray(example.label) > 0, size) > 0.5)
  return np.clip(np.stack(images), 0, 1), np.stack(masks), source.subjects, source.manifest()


def diagnoses(path: pathlib.Path, names: tuple[str, ...]) -> list[str]:
  """The diagnosis of each case in diagnosis.csv."""
  lines = tables.read_table(path / "diagnosis.csv", ("case", "diagnosis"))
  found = {line.filled("case"): line.filled("diagnosis") for line in lines}
  missing = [name for name in names if name not in found]
  check.require(not missing, "a diagnosis of every case", f"none of {missing[:3]}", "add a line")
  return [found[name] for name in names]


class Figures(NamedTuple):
  """Mitotic figures: pictures [n, size, size, 3] in [0, 1], 1 for an atypical one, and slides."""

  image: np.ndarray
  label: np.ndarray
  subjects: tuple[str, ...]
  names: tuple[str, ...]
  manifest: dict[str, Json]


def mitoses(path: pathlib.Path, size: int) -> Figures:
  """Folders SCANNER/CLASS/*.png with patches.csv.

  Args:
    path: folder of the scanners' folders; figures of one slide are one subject.
    size: side that pictures are scaled to.
  Raises:
    InputError: no scanner, classes that differ between them, or a picture without a line.
  """
  scanners = sorted(own for own in check.existing_folder(path).iterdir() if own.is_dir())
  check.require(scanners, f"a folder for each scanner in {path}", "none", "check the path")
  images, labels, subjects = [], [], []
  names: tuple[str, ...] = ()
  about: dict[str, Json] = {"size": size}
  for scanner in scanners:
    source = scanner_sets.folder(scanner, size, "patches.csv")
    names = names or tuple(source.class_names)
    check.require(
      names == tuple(source.class_names), f"{names} in {scanner}", f"{source.class_names}", "rename"
    )
    held = data.stack(source, range(len(source)))
    images.append(np.clip(held.image, 0, 1))
    labels.append(held.label)
    subjects += list(source.subjects)
    about[scanner.name] = source.manifest()
  rare = names.index("atypical") if "atypical" in names else len(names) - 1
  label = (np.concatenate(labels) == rare).astype(np.int32)
  shown = ("other", names[rare])
  return Figures(np.concatenate(images), label, tuple(subjects), shown, about)


def mitosis(
  path: pathlib.Path, weights: pathlib.Path, size: int, *, folder: str | os.PathLike | None = None
) -> LesionSet:
  """`mitoses` as maps of a backbone; weights, size, folder: as for `skin`."""
  held = mitoses(path, size)
  return LesionSet(
    "mitotic figures",
    _maps(held.image, weights, folder),
    held.label,
    None,
    held.subjects,
    held.names,
    {**held.manifest, "weights": manifest.file_digests(weights.parent, [weights])},
  )


def _maps(
  images: np.ndarray, weights: pathlib.Path, folder: str | os.PathLike | None
) -> np.ndarray:
  """Maps of Lite0's eleventh block: 112 channels at a sixteenth of the size."""
  return nets.imagenet_features(images, weights, layer="block10", folder=folder)


def standardised(image: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Channels less their mean over the training pictures, over their deviation there."""
  own = image[train]
  spread = own.std((0, 1, 2))
  found = (image - own.mean((0, 1, 2))) / np.where(spread > 0, spread, 1)
  return found.astype(np.float32)


def thinned(label: np.ndarray, train: np.ndarray, imbalance: float, seed: int) -> np.ndarray:
  """Training positions with the last class thinned to one in `imbalance` of the most frequent one.

  Raises:
    InputError: nothing of the class left, or too few of it to begin with.
  """
  if not imbalance:
    return train
  own = label[train]
  rare, counts = int(label.max()), np.bincount(own)
  wanted = round(counts.max() / imbalance)
  check.require(
    1 <= wanted <= counts[rare],
    f"1 to {counts[rare]} of the rare class",
    f"{wanted} at an imbalance of {imbalance:g}",
    "change --imbalance",
  )
  random = generator(seed, "thinned class")
  kept = random.choice(train[own == rare], wanted, replace=False)
  return np.sort(np.concatenate([train[own != rare], kept]))
