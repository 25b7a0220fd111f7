"""Sets of pictures in several domains, which come one after the other.

Not a study: the data of `experiments.continual_gen`, all as rows of numbers for a perceptron.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import classical, scanner_sets, trap_sets
from medjax import check, data, nets, study
from medjax.data.seeds import generator
from medjax.types import Json

FRACTIONS = {"train": 0.6, "test": 0.4}
DIGITS = ("plain", "inverted", "turned", "permuted", "noisy")
ARTEFACTS = ("ruler", "bubble")


class DomainSet(NamedTuple):
  """Domains in the order in which they come.

  Attributes:
    title: for the page.
    names: of the domains.
    num_classes: the same in every domain.
    parts: part ("train", "test") -> a store for each domain: image [n, feature], label, weight.
    people: part -> the person of each row, for each domain.
    same: a domain -> the domain whose pictures it shows once more.
    manifest: what is known of the pictures.
  """

  title: str
  names: tuple[str, ...]
  num_classes: int
  parts: Mapping[str, Sequence[Mapping[str, np.ndarray]]]
  people: Mapping[str, Sequence[Sequence[str]]]
  same: Mapping[str, str]
  manifest: dict[str, Json]


def digits(seed: int) -> DomainSet:
  """Written digits in five domains, the same people in each; the last is the first with noise."""
  source: Any = classical.Digits()
  rows = study.parted(source.subjects, FRACTIONS, seed)
  parts, people = {}, {}
  for part, own in rows.items():
    cases = data.stack(source, own)
    parts[part] = [_store(shown(cases.image, name, seed), cases.label) for name in DIGITS]
    people[part] = [[source.subjects[i] for i in own]] * len(DIGITS)
  return DomainSet(
    "written digits", DIGITS, 10, parts, people, {"noisy": "plain"}, source.manifest()
  )


def shown(image: np.ndarray, domain: str, seed: int) -> np.ndarray:
  """[n, 64] digits as a domain shows them."""
  random = generator(seed, "domains", DIGITS.index(domain))
  flat = image.reshape(len(image), -1)
  if domain == "inverted":
    return 1 - flat
  if domain == "turned":
    return np.rot90(image, axes=(1, 2)).reshape(len(image), -1).copy()
  if domain == "permuted":
    return flat[:, random.permutation(flat.shape[1])]
  if domain == "noisy":
    return (flat + random.normal(0, 0.1, flat.shape)).astype(np.float32)
  return flat


def scanners(
  paths: Sequence[pathlib.Path], table: str, weights: str, folder: str, seed: int
) -> DomainSet:
  """Mitotic figures by scanner, as features of a network that ImageNet trained.

  Args:
    paths: a folder CLASS/*.png for each scanner, in the order of the course.
    table: CSV beside the folders that says which slide a picture is of; slides are parted.
    weights: checkpoint of EfficientNet-Lite0.
    folder: where features are kept, "" keeps none.
    seed: of the parts.
  Raises:
    InputError: a single scanner, or classes that differ.
  """
  check.require(len(paths) > 1, "two scanners or more", f"{len(paths)}", "pass --data twice")
  sources: list[Any] = [scanner_sets.folder(path, 64, table) for path in paths]
  parts: dict[str, list[Any]] = {part: [] for part in FRACTIONS}
  people: dict[str, list[Any]] = {part: [] for part in FRACTIONS}
  for source in sources:
    check.require(
      source.class_names == sources[0].class_names,
      f"the classes {sources[0].class_names} in every domain",
      f"{source.class_names}",
      "bring folders of the same classes",
    )
    cases = data.stack(source)
    found = nets.imagenet_features(cases.image, weights, size=160, folder=folder or None)
    for part, own in study.parted(source.subjects, FRACTIONS, seed).items():
      parts[part].append(_store(found[list(own)], np.asarray(cases.label)[list(own)]))
      people[part].append([source.subjects[i] for i in own])
  manifest = {path.name: source.manifest() for path, source in zip(paths, sources, strict=True)}
  names = tuple(path.name for path in paths)
  classes = len(sources[0].class_names)
  return DomainSet("mitotic figures by scanner", names, classes, parts, people, {}, manifest)


def lesions(
  skin: pathlib.Path,
  artefacts: pathlib.Path,
  weights: str,
  folder: str,
  seed: int,
  size: int = 160,
) -> DomainSet:
  """Skin lesions, clean, with two kinds of real artefacts, and mirrored, which is clean once more.

  The same people stand in each domain.

  Args:
    skin, artefacts: as for `trap_sets.skin`; nevi are told from all else.
    weights, folder, seed: as for `scanners`.
    size: side to which pictures are scaled.
  """
  sets = [trap_sets.skin(skin, artefacts, size, kind, beside=False) for kind in ARTEFACTS]
  pictures = [[scene.image for scene in sets[0].scenes]]
  pictures += [[scene.trap for scene in own.scenes] for own in sets]
  pictures += [[image[:, ::-1] for image in pictures[0]]]
  found = [
    nets.imagenet_features(np.clip(np.stack(own), 0, 1), weights, folder=folder or None)
    for own in pictures
  ]
  label = np.array([scene.label for scene in sets[0].scenes], np.int32)
  rows = study.parted(sets[0].subjects, FRACTIONS, seed)
  return DomainSet(
    "skin lesions with artefacts",
    ("clean", *ARTEFACTS, "mirrored"),
    2,
    {part: [_store(x[list(own)], label[list(own)]) for x in found] for part, own in rows.items()},
    {part: [[sets[0].subjects[i] for i in own]] * len(found) for part, own in rows.items()},
    {"mirrored": "clean"},
    {kind: own.manifest for kind, own in zip(ARTEFACTS, sets, strict=True)},
  )


def _store(image: np.ndarray, label: np.ndarray) -> dict[str, np.ndarray]:
  weight = np.ones(len(image), np.float32)
  return {"image": np.asarray(image, np.float32), "label": np.asarray(label), "weight": weight}
