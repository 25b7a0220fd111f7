"""Joint embeddings of images and phrases: planted ones, and the reader's own .npz file.

Not a study: what the study of visual concepts looks at. A file has the arrays

  image      [n, d]   embeddings of labelled images
  label      [n]      class ids 0, 1, ...
  text       [m, d]   embeddings of phrases, by the text encoder of the same model
  owner      [m]      class id that each phrase was written for
  phrase     [m]      the phrases
and may have
  subject    [n]      the person of each image; without it each different vector is a person
  class_names [class]
  unlabelled [u, d]   embeddings of further images, of any kind
"""

import os
import pathlib
import zipfile
from collections import Counter
from typing import NamedTuple

import numpy as np

from medjax import check
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.types import Json


class ConceptSet(NamedTuple):
  """Embeddings and what is known of them.

  Attributes:
    image: [n, d] float32.
    label: [n] class ids.
    subjects: [n] person of each image.
    text: [m, d] float32.
    owner: [m] class of each phrase.
    phrases: [m].
    class_names: of the classes.
    unlabelled: name -> [u, d]: images that no label is known of; {} if none are given.
    is_visual: [m] bool, whether a phrase names something that is to be seen; None if unknown.
  """

  image: np.ndarray
  label: np.ndarray
  subjects: tuple[str, ...]
  text: np.ndarray
  owner: np.ndarray
  phrases: tuple[str, ...]
  class_names: tuple[str, ...]
  unlabelled: dict[str, np.ndarray]
  is_visual: np.ndarray | None = None

  def manifest(self) -> dict[str, Json]:
    """What a run that goes on must find unchanged."""
    arrays = {"image": self.image, "label": self.label, "text": self.text, **self.unlabelled}
    digests = {name: manifest.array_digest(array) for name, array in arrays.items()}
    return {
      "kind": "joint embeddings",
      "classes": list(self.class_names),
      "phrases": len(self.phrases),
    } | digests


def checked(given: ConceptSet) -> ConceptSet:
  """The set, refused where a choice among its phrases would be of something else.

  Raises:
    InputError: shapes that do not fit, vectors that are not finite, a class id out of range, a
      class without images, and a phrase that stands twice in the list of a class: it would be
      chosen twice, and its score counted twice.
  """
  num_classes, (n, d) = len(given.class_names), given.image.shape
  for name, array, shape in (
    ("label", given.label, (n,)),
    ("text", given.text, (len(given.phrases), d)),
    ("owner", given.owner, (len(given.phrases),)),
  ):
    check.same_shape(name, array.shape, "what image and phrase ask for", shape)
  for name, array in (("image", given.image), ("text", given.text), *given.unlabelled.items()):
    check.require(
      np.isfinite(array).all() and (np.linalg.norm(array, axis=1) > 0).all(),
      f"vectors {name} that are finite and not 0",
      f"row {int(np.argmin(np.isfinite(array).all(1) & (abs(array).sum(1) > 0)))}",
      "leave it out",
    )
  for name, ids in (("label", given.label), ("owner", given.owner)):
    check.require(
      set(ids.tolist()) == set(range(num_classes)),
      f"{name} to hold each of 0 to {num_classes - 1}",
      f"{sorted(set(ids.tolist()))}",
      "number the classes from 0",
    )
  counts = Counter(zip(given.owner.tolist(), given.phrases, strict=True))
  (owner, phrase), often = counts.most_common(1)[0]
  check.require(
    often == 1,
    "different phrases in the list of a class",
    f"{phrase!r} {often} times for {given.class_names[owner]}",
    "keep one of them",
  )
  return given


def from_file(path: str | os.PathLike) -> ConceptSet:
  """Reads the reader's own embeddings; see the top of the file.

  Raises:
    InputError: naming the file and what it lacks.
  """
  path = check.existing_file(path)
  try:
    with np.load(path) as held:
      found = {name: held[name] for name in held.files}
  except (ValueError, OSError, zipfile.BadZipFile) as error:
    raise check.InputError(f"an .npz file {path}", f"an error ({error})", "save it again") from None
  for name in ("image", "label", "text", "owner", "phrase"):
    check.require(
      name in found, f"the array {name} in {path}", ", ".join(found), "see experiments.concept_sets"
    )
  image = found["image"].astype(np.float32)
  check.require(image.ndim == 2, "image [n, d]", f"{image.shape}", "save one vector an image")
  # Without names the same vector is the same picture: it must not stand on two sides of a split.
  subjects = found.get("subject", [manifest.array_digest(own) for own in image])
  check.require(len(subjects) == len(image), f"{len(image)} subjects", f"{len(subjects)}", "see n")
  label, owner = (found[name].astype(np.int64) for name in ("label", "owner"))
  names = found.get("class_names", [f"class {k}" for k in range(int(label.max()) + 1)])
  more = {"other": found["unlabelled"].astype(np.float32)} if "unlabelled" in found else {}
  return checked(
    ConceptSet(
      image,
      label,
      tuple(str(own) for own in subjects),
      found["text"].astype(np.float32),
      owner,
      tuple(str(own) for own in found["phrase"]),
      tuple(str(own) for own in names),
      more,
    )
  )


def title_of(path: str | os.PathLike) -> str:
  """Name of a file, for the page."""
  return pathlib.Path(path).stem


def planted(
  num_images: int,
  *,
  num_classes: int = 7,
  num_visual: int = 40,
  num_other: int = 60,
  size: int = 64,
  seed: int = 0,
) -> ConceptSet:
  """Images that have attributes, phrases of which some name one and others name nothing seen.

  An image is 3 u + sum_j a_j e_j + noise, with a_j of 0 or 1 at the rate of its class, u the
  direction that all vectors of a joint embedding share, and e_j 20 directions at right angles. A
  visual phrase is 2 u + 1.5 e_j, its attribute drawn by the rates of its class. A phrase of another
  kind is 2 u + 1.5 f_t with one of 20 topics f_t that lie outside the attributes: images meet them
  by their noise alone. The length of a phrase's vector is drawn and means nothing; phrases that are
  not visual have longer ones, so that a score which grows with it is found out.

  "other" holds images of another kind: the same attributes at rates that belong to no class.
  "noise" holds images without any attribute.

  Args:
    num_images: of each class.
    num_classes, num_visual, num_other: classes, and phrases of each kind a class.
    size: numbers of an embedding, 41 or more.
    seed: of all draws.
  """
  random = generator(seed, "planted concepts")
  num_kinds = 20
  basis = np.linalg.qr(random.normal(size=(size, size)))[0].T
  shared, attributes, topics = basis[0], basis[1 : 1 + num_kinds], basis[21 : 21 + num_kinds]
  rates = random.beta(0.6, 1.2, (num_classes, num_kinds))
  labels = np.repeat(np.arange(num_classes), num_images)

  def images(rate: np.ndarray) -> np.ndarray:
    has = random.uniform(size=rate.shape) < rate
    noise = random.normal(0, 0.4, (len(rate), size))
    return (3 * shared + has @ attributes + noise).astype(np.float32)

  owner, kinds, is_visual = [], [], []
  for k in range(num_classes):
    shares = rates[k] / rates[k].sum()
    named = random.choice(num_kinds, num_visual, p=shares)
    kinds += [attributes[named], topics[random.integers(0, num_kinds, num_other)]]
    owner += [k] * (num_visual + num_other)
    is_visual += [True] * num_visual + [False] * num_other
  visual = np.array(is_visual)
  text = 2 * shared + 1.5 * np.concatenate(kinds) + random.normal(0, 0.1, (len(owner), size))
  text = text * np.exp(random.normal(0, 0.2, (len(owner), 1)) + np.where(visual, 0, 1.0)[:, None])
  count = 10 * num_images
  return checked(
    ConceptSet(
      images(rates[labels]),
      labels,
      tuple(f"person_{i:05d}" for i in range(len(labels))),
      text.astype(np.float32),
      np.array(owner),
      tuple(f"{'seen' if v else 'unseen'} phrase {i}" for i, v in enumerate(is_visual)),
      tuple(f"class {k}" for k in range(num_classes)),
      {
        "other": images(np.broadcast_to(random.beta(0.6, 1.2, num_kinds), (count, num_kinds))),
        "noise": images(np.zeros((count, num_kinds))),
      },
      visual,
    )
  )
