"""Classifiers of scikit-learn as references for studies; the one file that imports it.

Not a study. Each takes known features and labels and gives a score a class for new features; extra
`classical`.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from medjax import check
from medjax.data import manifest
from medjax.types import Example, Json

Classifier = Callable[[np.ndarray, np.ndarray, np.ndarray, int, int], np.ndarray]
"""`classify(known [n, feature], labels [n], new [m, feature], num_classes, seed) -> [m, class]`."""


def _library(name: str) -> Any:
  try:
    return importlib.import_module(f"sklearn.{name}")
  except ImportError as error:
    raise check.InputError("scikit-learn", "none", "pip install 'medjax[classical]'") from error


class Digits:
  """1,797 written digits of 8 x 8, a Source; they come with scikit-learn."""

  class_names: tuple[str, ...] = tuple("0123456789")
  channel_names: tuple[str, ...] = ("grey",)

  def __init__(self):
    found = _library("datasets").load_digits()
    self._image = (found.images[..., None] / 16).astype(np.float32)
    self._label = found.target.astype(np.int32)
    self.subjects: tuple[str, ...] = tuple(f"digit_{i:04d}" for i in range(len(self._label)))
    self.domains: tuple[str, ...] = ("",) * len(self._label)

  def __len__(self) -> int:
    return len(self._label)

  def __getitem__(self, index: int) -> Example:
    name = self.subjects[range(len(self))[index]]
    return Example(
      name, name, index, self._image[index], np.asarray(self._label[index]), (1.0, 1.0)
    )

  def manifest(self) -> dict[str, Json]:
    return {
      "kind": "digits of scikit-learn",
      "digest": manifest.array_digest(self._image),
      "class_names": list(self.class_names),
    }


def logistic(
  known: np.ndarray, labels: np.ndarray, new: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
  """Logistic regression, the strength of its penalty as the library has it."""
  model = _library("linear_model").LogisticRegression(max_iter=1000)
  return _spread(model.fit(known, labels), new, num_classes)


def support_vectors(
  known: np.ndarray, labels: np.ndarray, new: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
  """Support vectors with a Gaussian kernel; a vote, 1 for the class that is chosen."""
  model = _library("svm").SVC()
  return np.eye(num_classes)[model.fit(known, labels).predict(new)]


def nearest(
  known: np.ndarray, labels: np.ndarray, new: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
  """Shares of the classes among the five nearest known samples."""
  model = _library("neighbors").KNeighborsClassifier(min(5, len(known)))
  return _spread(model.fit(known, labels), new, num_classes)


def underbagged_nearest(
  known: np.ndarray, labels: np.ndarray, new: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
  """Mean of `nearest` over 20 draws of as many samples a class as the rarest class has.

  Hido et al., "Roughly balanced bagging for imbalanced data" (2009), with equal numbers.
  """
  random = np.random.default_rng(seed)
  groups = [np.flatnonzero(labels == name) for name in np.unique(labels)]
  size = min(len(group) for group in groups)
  total = np.zeros((len(new), num_classes))
  for _ in range(20):
    bag = np.concatenate([random.choice(group, size, replace=False) for group in groups])
    total += nearest(known[bag], labels[bag], new, num_classes, seed)
  return total / 20


def forest(
  known: np.ndarray, labels: np.ndarray, new: np.ndarray, num_classes: int, seed: int
) -> np.ndarray:
  """A random forest of 100 trees whose leaves hold 5 samples or more."""
  model = _library("ensemble").RandomForestClassifier(100, min_samples_leaf=5, random_state=seed)
  return _spread(model.fit(known, labels), new, num_classes)


def breast_cells() -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Features of nuclei of 569 breast masses, whether each is malignant, and the features' names.

  The Wisconsin set (Street, Wolberg and Mangasarian 1993), which comes with scikit-learn.
  """
  found = _library("datasets").load_breast_cancer()
  return found.data.astype(np.float32), 1 - found.target, tuple(map(str, found.feature_names))


def clusters(features: np.ndarray, number: int, seed: int, *, kind: str = "mixture") -> np.ndarray:
  """Cluster of each row [n] int, by k-means ("means") or a mixture of diagonal Gaussians."""
  check.one_of("kind", kind, ("means", "mixture"))
  if kind == "means":
    model = _library("cluster").KMeans(number, n_init=4, random_state=seed)
  else:
    model = _library("mixture").GaussianMixture(
      number, covariance_type="diag", reg_covar=1e-3, random_state=seed
    )
  return np.asarray(model.fit_predict(np.asarray(features, np.float64)))


def _spread(model: Any, new: np.ndarray, num_classes: int) -> np.ndarray:
  """Probabilities at their class ids; a class without a known sample has 0."""
  found = np.zeros((len(new), num_classes))
  found[:, model.classes_] = model.predict_proba(new)
  return found
