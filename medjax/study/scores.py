"""Scores of predictions on test cases as rows, one function for each kind of task.

A row is a dict as `metrics.case_table` writes it: first who and where ("arm", "seed", "role",
"case", "subject", "domain"), then figures "metric/structure". The mean of a figure over people is
the score, so that verdicts can pair people. An area under the ROC curve and a balanced accuracy are
not means over cases by themselves; a row holds the part that its person adds to them.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from medjax import check, metrics
from medjax.types import Json


class ShownPlane(NamedTuple):
  """A plane of a case and what was predicted on it.

  Attributes:
    name, site: of the case.
    image: [height, width], or [height, width, 3].
    truth: class ids [height, width], None where they are unknown.
    prediction: class ids [height, width].
    score: of the whole case.
  """

  name: str
  site: str
  image: np.ndarray
  truth: np.ndarray | None
  prediction: np.ndarray
  score: float


class Scored(NamedTuple):
  """One network on test cases.

  Attributes:
    rows: rows of cases.
    pictures: some of them.
    seconds: of prediction, a case; NaN where it was not timed.
    more: arrays that the study wants to keep beside the rows.
  """

  rows: list[dict[str, Json]]
  pictures: Sequence[ShownPlane] = ()
  seconds: float = float("nan")
  more: Mapping[str, np.ndarray] = {}


@runtime_checkable
class ScoredCase(Protocol):
  """What `masks` reads of a case: its name, class ids [*space] and voxel size in mm."""

  @property
  def name(self) -> str: ...
  @property
  def truth(self) -> np.ndarray: ...
  @property
  def spacing(self) -> tuple[float, ...]: ...


def classes(
  logits: np.ndarray,
  labels: np.ndarray,
  *,
  about: Mapping[str, Json],
  subjects: Sequence[Hashable] | None = None,
  site: str = "",
  wanted: Sequence[str] = ("accuracy", "auroc"),
) -> list[dict[str, Json]]:
  """Rows of people whose images have one class each.

  >>> logits = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
  >>> rows = classes(logits, np.array([0, 0, 1]), about={"arm": "ours"}, subjects=["b", "a", "b"])
  >>> [(row["subject"], row["accuracy/all"]) for row in rows]
  [('a', 0.0), ('b', 1.0)]

  Args:
    logits: [n, class]. Two classes are ranked by the difference of their logits, several each by
      its probability against the rest.
    labels: [n] class ids.
    about: goes in front of each row.
    subjects: [n] person of each image; None: each image is a person of its own, in their order.
    site: of all of them.
    wanted: "accuracy": share of a person's images that are right; "balanced": what a person adds to
      the mean over classes of the accuracy within the class; "auroc": what a person adds to the
      area. Their means over people are the scores.
  Returns:
    A row a person, sorted by name, or a row an image.
  """
  check.same_shape("labels", labels.shape, "logits", logits.shape[:1])
  right = (logits.argmax(-1) == labels).astype(np.float64)
  names = list(range(len(labels))) if subjects is None else list(subjects)
  check.require(
    len(names) == len(labels), f"{len(labels)} subjects", f"{len(names)}", "name every image's"
  )
  people, owner = np.unique(np.array(names), return_inverse=True)
  counts = np.bincount(owner)
  own = None if subjects is None else np.array(names)
  figures: dict[str, np.ndarray] = {}
  for name in wanted:
    check.one_of("wanted", name, ("accuracy", "balanced", "auroc"))
    if name == "accuracy":
      figures[name] = np.bincount(owner, weights=right) / counts
    elif name == "balanced":
      # An image of a class of size c adds right / (classes c) to the balanced accuracy; times the
      # number of people the sum over a person's images becomes a part whose mean is the score.
      sizes = np.bincount(labels, minlength=logits.shape[1])
      parts = right / (np.count_nonzero(sizes) * sizes[labels])
      figures[name] = len(people) * np.bincount(owner, weights=parts)
    else:
      figures[name] = metrics.auroc_parts(ranks(logits), labels, subjects=own)
  return [
    {
      **about,
      "case": str(person),
      "subject": str(person) if subjects is not None else int(person),
      "domain": site,
      **{f"{name}/all": float(values[i]) for name, values in figures.items()},
    }
    for i, person in enumerate(people)
  ]


def ranks(logits: np.ndarray) -> np.ndarray:
  """What an area under the ROC curve ranks images by: [n] of two classes, [n, class] of several."""
  if logits.shape[1] == 2:
    return logits[:, 1] - logits[:, 0]
  return np.asarray(jax.nn.softmax(logits))


def findings(
  logits: np.ndarray,
  labels: np.ndarray,
  *,
  about: Mapping[str, Json],
  class_names: Sequence[str],
  subjects: Sequence[str],
  site: str = "",
) -> list[dict[str, Json]]:
  """Rows of people whose images have several findings, each present, absent or unknown.

  Args:
    logits, labels: [n, finding]; labels of 1, 0 and `types.IGNORE`.
    about: goes in front of each row.
    class_names: names of the findings.
    subjects: [n] person of each image.
    site: of all of them.
  Returns:
    A row a person, sorted by name; "auroc/<finding>" is what they add to its area, NaN for a
    finding without both outcomes among the images.
  """
  check.same_shape("labels", labels.shape, "logits", logits.shape)
  people = sorted(set(subjects))
  owners = np.array(subjects)
  parts = np.full((len(people), logits.shape[1]), np.nan)
  for k in range(logits.shape[1]):
    if {0, 1} <= set(labels[:, k].tolist()):
      parts[:, k] = metrics.auroc_parts(logits[:, k], labels[:, k], subjects=owners)
  return [
    {
      **about,
      "case": person,
      "subject": person,
      "domain": site,
      **{f"auroc/{name}": float(part) for name, part in zip(class_names, own, strict=True)},
    }
    for person, own in zip(people, parts, strict=True)
  ]


def masks(
  predictions: Iterable[np.ndarray],
  cases: Sequence[ScoredCase],
  *,
  about: Callable[[Any], Mapping[str, Json]],
  class_names: Sequence[str],
  tolerance_mm: float = 2.0,
) -> list[dict[str, Json]]:
  """Rows of label maps on the grids of their cases: all figures of `metrics.segmentation_report`.

  A structure in one map only has the image's diagonal as its distance, in every arm: a miss is
  never left out of a mean.

  Args:
    predictions: class ids [*space] of each case.
    cases: with truth and voxel size.
    about: `about(case)` goes in front of its row.
    class_names: background first.
    tolerance_mm: tolerance of surface Dice.
  """
  measured = metrics.segmentation_report(
    predictions,
    [case.truth for case in cases],
    num_classes=len(class_names),
    spacing=[case.spacing for case in cases],
    names=[case.name for case in cases],
    class_names=class_names,
    tolerance_mm=tolerance_mm,
    empty="diagonal",
  )
  return [{**about(case), **row} for case, row in zip(cases, measured.rows, strict=True)]
