"""Chest radiographs with what a reader wrote and where they looked, on drawn or on real lungs.

Not a study: what a study of reports and gaze needs, since the paper's data ask for credentials. A
film shows a normal chest, heart failure (a wide heart, haze around the hila) or pneumonia (a focus
in one lung), each from hardly visible to plain, with an electrode as a distractor. Three texts come
with it: the indication, written before the film was read; the findings, which name what is seen
and where; the report, which adds the diagnosis, and with it the label.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medjax import check
from medjax.data import manifest
from medjax.data.formats import png
from medjax.data.seeds import generator

CLASSES = ("normal", "heart failure", "pneumonia")
PNEUMONIA = 2
_ASKED = (  # what is asked of each class, where the indication says anything
  "routine check before surgery",
  "breathless at night swollen legs",
  "fever and cough",
)
_SAYS_NOTHING = ("chest pain", "please evaluate", "follow up")
_DIAGNOSIS = ("no acute disease", "cardiac failure", "pneumonia")
_NUM_WORDS = 24  # of the longest text


@dataclasses.dataclass(frozen=True)
class Films:
  """Radiographs with texts and gaze.

  Attributes:
    title: for the page.
    image: [n, size, size, 1], mean 0 and variance 1 each.
    label: [n] int32 in `CLASSES`.
    gaze: [n, size, size], where the reader looked; sums to 1.
    box: [n, size, size] bool, around the focus of pneumonia; empty for other classes.
    texts: "indication", "findings" or "report" -> [n, word] numbers of words, -1 after the end.
    vectors: [word, width] of the vocabulary.
    subjects: [n] people.
    manifest: what the run directory records.
  """

  title: str
  image: np.ndarray
  label: np.ndarray
  gaze: np.ndarray
  box: np.ndarray
  texts: Mapping[str, np.ndarray]
  vectors: np.ndarray
  subjects: tuple[str, ...]
  manifest: dict[str, Any]


def drawn(num: int, size: int, seed: int) -> Films:
  """Films of `num` people whose lungs are ellipses."""

  def lungs(index: int, random: np.random.Generator) -> np.ndarray:
    del index
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    middle, height, width = random.uniform((0.48, 0.3, 0.14), (0.54, 0.37, 0.18))
    found = np.zeros((size, size), int)
    for number, centre in ((1, 0.5 - 0.22), (2, 0.5 + 0.22)):
      found[((y - middle) / height) ** 2 + ((x - centre) / width) ** 2 < 1] = number
    return found

  names = [f"drawn_{index:05d}" for index in range(num)]
  about = {"kind": "drawn radiographs", "num": num, "size": size, "seed": seed}
  return _films("drawn lungs", names, lungs, size, seed, about)


def on_shapes(root: pathlib.Path, size: int, seed: int) -> Films:
  """Films on real lungs: a folder labels/*.png of 1 (right lung) and 2 (left lung)."""
  paths = sorted((check.existing_folder(root) / "labels").glob("*.png"))
  check.require(paths, f"label maps labels/*.png in {root}", "none", "check the path")

  def lungs(index: int, random: np.random.Generator) -> np.ndarray:
    del random
    values = png.read_labels(paths[index]).array
    rows, columns = ((np.arange(size) * n // size) for n in values.shape[:2])
    return values[np.ix_(rows, columns)].reshape(size, size)

  about = {**manifest.file_digests(root, paths), "size": size, "seed": seed}
  return _films(
    f"lungs of {root.resolve().name}", [p.stem for p in paths], lungs, size, seed, about
  )


def _films(
  title: str,
  names: Sequence[str],
  lungs: Callable[[int, np.random.Generator], np.ndarray],
  size: int,
  seed: int,
  about: dict[str, Any],
) -> Films:
  """All films; case `index` depends on the seed and the index alone."""
  images, gazes, boxes, labels, said = [], [], [], [], []
  for index in range(len(names)):
    random = generator(seed, "radiograph", index)
    kind = int(random.integers(3))
    image, gaze, box, signs = _film(lungs(index, random), kind, random)
    images.append(image)
    gazes.append(gaze)
    boxes.append(box)
    labels.append(kind)
    said.append(_texts(kind, signs, random))
  others = [_corpus_text(generator(seed, "reports of others", i)) for i in range(1000)]
  words = sorted({word for text in others for word in text.split()})
  numbers = {word: number for number, word in enumerate(words)}

  def coded(text: str) -> np.ndarray:
    known = [numbers.get(word, len(words)) for word in text.split()]
    return np.pad(np.array(known, np.int32), (0, _NUM_WORDS - len(known)), constant_values=-1)

  texts = {name: np.stack([coded(own[name]) for own in said]) for name in said[0]}
  vectors = word_vectors([[numbers[word] for word in text.split()] for text in others], len(words))
  return Films(
    title,
    np.stack(images),
    np.array(labels, np.int32),
    np.stack(gazes),
    np.stack(boxes),
    texts,
    vectors,
    tuple(names),
    about,
  )


def _film(
  lungs: np.ndarray, kind: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
  """Picture [size, size, 1], gaze, box, and the signs that a reader could name."""
  size = len(lungs)
  y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
  rows, columns = np.nonzero(np.isin(lungs, (1, 2)))
  top, bottom, left, right = (
    float(edge) / size for edge in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
  )
  middle, high, wide = (left + right) / 2, bottom - top, right - left

  def hill(cy: float, cx: float, ry: float, rx: float) -> np.ndarray:
    return np.exp(-0.5 * (((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2))

  air = np.isin(lungs, (1, 2)).astype(float)
  ratio = random.uniform(0.46, 0.62) if kind == 1 else random.uniform(0.38, 0.54)
  heart_y = top + 0.75 * high
  heart = ((y - heart_y) / (0.2 * high)) ** 2 + ((x - middle) / (ratio * wide / 2)) ** 2 < 1
  image = 0.8 - 0.5 * air + 0.05 * air * np.sin(2 * np.pi * 7 * (y - 0.3 * np.abs(x - middle)))
  image = np.where(heart, np.maximum(image, 0.75), image)
  hila = hill(top + 0.55 * high, middle - 0.2 * wide, 0.14, 0.1) + hill(
    top + 0.55 * high, middle + 0.2 * wide, 0.14, 0.1
  )
  haze = random.uniform(0.02, 0.25) if kind == 1 else 0.0
  image = image + haze * air * hila
  place = int(random.integers(len(rows)))
  focus_y, focus_x = (rows[place] + 0.5) / size, (columns[place] + 0.5) / size
  radius, strength = random.uniform(0.04, 0.08), random.uniform(0.05, 0.45)
  focus = hill(focus_y, focus_x, radius, radius)
  box = np.zeros((size, size), bool)
  if kind == PNEUMONIA:
    image = image + strength * focus
    box = np.maximum(np.abs(y - focus_y), np.abs(x - focus_x)) < 2 * radius
  if random.random() < 0.7:  # an electrode, which says nothing
    spot_y, spot_x = random.uniform(0.1, 0.9, 2)
    image = np.where(np.hypot(y - spot_y, x - spot_x) < 0.03, 1.1, image)
  image = image + random.normal(0, 0.08, image.shape)
  image = ((image - image.mean()) / image.std()).astype(np.float32)[..., None]

  sweep = air / air.sum()
  seen = {0: sweep, 1: 0.5 * _whole(hila) + 0.5 * _whole(heart), PNEUMONIA: _whole(focus)}[kind]
  gaze = _whole(0.4 * sweep + 0.6 * seen).astype(np.float32)
  signs = {
    "is wide": ratio > 0.5,
    "is hazy": haze > 0.08,
    "has focus": kind == PNEUMONIA and strength > 0.15,
    "side": "right" if lungs[rows[place], columns[place]] == 1 else "left",
    "field": "upper" if focus_y < top + high / 2 else "lower",
  }
  return image, gaze, box, signs


def _whole(values: np.ndarray) -> np.ndarray:
  return values / values.sum()


# --- what a reader writes


def _texts(kind: int, signs: Mapping[str, Any], random: np.random.Generator) -> dict[str, str]:
  """The three texts; a sign is missed one time in ten, and one in ten is seen that is not there."""

  def notes(sign: str) -> bool:
    return bool(signs[sign]) != (random.random() < 0.1)

  asked = _ASKED[kind] if random.random() < 0.6 else _SAYS_NOTHING[int(random.integers(3))]
  heart = "the heart is enlarged" if notes("is wide") else "the heart is of normal size"
  lungs = "the lungs are clear"
  if notes("has focus"):
    lungs = f"opacity in the {signs['side']} {signs['field']} field"
  elif notes("is hazy"):
    lungs = "haze around both hila"
  findings = f"{asked} {heart} {lungs}"
  return {
    "indication": asked,
    "findings": findings,
    "report": f"{findings} impression {_DIAGNOSIS[kind]}",
  }


def _corpus_text(random: np.random.Generator) -> str:
  """A report of somebody who is in no film."""
  kind = int(random.integers(3))
  signs = {
    "is wide": random.random() < (0.8 if kind == 1 else 0.2),
    "is hazy": kind == 1 and random.random() < 0.7,
    "has focus": kind == PNEUMONIA and random.random() < 0.8,
    "side": ("right", "left")[int(random.integers(2))],
    "field": ("upper", "lower")[int(random.integers(2))],
  }
  return _texts(kind, signs, random)["report"]


def word_vectors(
  texts: Sequence[Sequence[int]], num_words: int, *, width: int = 12, window: int = 2
) -> np.ndarray:
  """Vectors of words by the company that they keep, [num_words + 1, width] float32.

    PMI_ij = log(n_ij n / (n_i n_j)),   vectors = U sqrt(S)   of   max(PMI, 0) = U S V^T

  Skip-gram with negative samples, which the paper trains, factorises the same matrix up to a
  constant (Levy & Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", 2014). The
  last row is the mean of all vectors: it stands for words that no text has, as in the paper.

  Args:
    texts: numbers of words in 0 .. num_words - 1.
    num_words: size of the vocabulary, `width` or more.
    width: entries of a vector; the paper has 150.
    window: words to either side that count as company.
  """
  counts = np.zeros((num_words, num_words))
  for text in texts:
    for place, word in enumerate(text):
      for other in text[place + 1 : place + 1 + window]:
        counts[word, other] += 1
        counts[other, word] += 1
  own = counts.sum(1, keepdims=True)
  expected = own * own.T / max(counts.sum(), 1)
  with np.errstate(divide="ignore", invalid="ignore"):
    pmi = np.where(counts > 0, np.log(counts / np.where(expected > 0, expected, 1)), 0.0)
  u, s, _ = np.linalg.svd(np.maximum(pmi, 0))
  found = u[:, :width] * np.sqrt(s[:width])
  found = found / found.std()
  return np.concatenate([found, found.mean(0, keepdims=True)]).astype(np.float32)
