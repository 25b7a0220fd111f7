"""Agreement of numbered objects, such as nuclei and glands; on the host.

An object is the set of pixels that carry one number, 0 is outside of all. Numbers of the two maps
need not correspond: each measure pairs the objects by their overlap.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from medjax import check


def aji(
  prediction: Integer[np.ndarray, "*space"], target: Integer[np.ndarray, "*target_space"]
) -> float:
  """Aggregated Jaccard index (Kumar et al., IEEE TMI 2017, Algorithm 1), in [0, 1].

    AJI = sum_i |T_i & P_j(i)| / (sum_i |T_i | P_j(i)| + sum of |P_j| over j that no i has taken)

  where j(i) has the largest Jaccard index with T_i. A true object that no prediction touches adds
  its own size to the denominator.

  >>> truth = np.array([1, 1, 1, 0, 2, 2])
  >>> aji(np.array([7, 7, 0, 0, 5, 5]), truth)  # (2 + 2) / (3 + 2)
  0.8
  >>> aji(np.array([7, 7, 0, 9, 5, 5]), truth)  # the object 9 is too much
  0.6666666666666666

  As printed, one prediction may be taken by several true objects, each of which then adds its whole
  union: objects that are merged are paid for more than once.

  Args:
    prediction, target: [*space] numbers of objects, 0 outside.
  Returns:
    NaN where neither map has an object, 0 where only one has.
  Raises:
    InputError: other shapes, or a number below 0.
  """
  both, found, true = _overlaps(prediction, target)
  if not len(found) or not len(true):
    return 0.0 if len(found) or len(true) else float("nan")
  union = true[:, None] + found[None] - both
  best = (both / union).argmax(1)
  rows = np.arange(len(true))
  is_met = both[rows, best] > 0
  free = np.setdiff1d(np.arange(len(found)), best[is_met])
  total = np.where(is_met, union[rows, best], true).sum() + found[free].sum()
  return float(both[rows, best].sum() / total)


class ObjectRates(NamedTuple):
  """How many objects were found.

  Attributes:
    precision, recall, f1: in [0, 1]; a rate without a denominator is NaN.
  """

  precision: float
  recall: float
  f1: float


def object_rates(
  prediction: Integer[np.ndarray, "*space"],
  target: Integer[np.ndarray, "*target_space"],
  *,
  overlap: float = 0.5,
) -> ObjectRates:
  """Precision, recall and F of objects; a pair is right if its Jaccard index is above `overlap`.

  >>> rates = object_rates(np.array([7, 7, 0, 9, 5, 5]), np.array([1, 1, 1, 0, 2, 2]))
  >>> (round(rates.precision, 3), rates.recall, rates.f1)  # of three objects two are right
  (0.667, 1.0, 0.8)

  Above 1/2 an object can be right for one other only, so that the pairs need no assignment.

  Args:
    prediction, target: [*space] numbers of objects, 0 outside.
    overlap: in [0.5, 1).
  Raises:
    InputError: other shapes, a number below 0, or an overlap below 1/2.
  """
  check.require(
    0.5 <= overlap < 1, "overlap in [0.5, 1)", f"{overlap}", "below, pairs are no pairs"
  )
  both, found, true = _overlaps(prediction, target)
  right = float((both / (true[:, None] + found[None] - both) > overlap).sum())
  share = lambda count: right / count if count else float("nan")  # noqa: E731
  return ObjectRates(share(len(found)), share(len(true)), share((len(found) + len(true)) / 2))


def object_dice(
  prediction: Integer[np.ndarray, "*space"], target: Integer[np.ndarray, "*target_space"]
) -> float:
  """Dice of objects, weighted by size (Sirinukunwattana et al., MedIA 2017, Eq. 7), in [0, 1].

  The mean of two sums: each true object has the Dice with the prediction that covers most of it,
  and each predicted one that with the true object that it covers most; both are weighted by the
  object's share of all objects of its map. An object without a partner has the Dice 0.

  >>> object_dice(np.array([7, 7, 0, 0]), np.array([1, 1, 1, 1]))  # 2 * 2 / (2 + 4)
  0.6666666666666666

  Args:
    prediction, target: [*space] numbers of objects, 0 outside.
  Returns:
    NaN where neither map has an object, 0 where only one has.
  Raises:
    InputError: other shapes, or a number below 0.
  """
  both, found, true = _overlaps(prediction, target)
  if not len(found) or not len(true):
    return 0.0 if len(found) or len(true) else float("nan")
  dice = 2 * both / (true[:, None] + found[None])
  of_true = dice[np.arange(len(true)), both.argmax(1)] @ true / true.sum()
  of_found = dice[both.argmax(0), np.arange(len(found))] @ found / found.sum()
  return float((of_true + of_found) / 2)


def _overlaps(
  prediction: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """[true, predicted] shared pixels, and the sizes of predicted and of true objects."""
  prediction, target = np.asarray(prediction), np.asarray(target)
  check.same_shape("prediction", prediction.shape, "target", target.shape)
  for name, numbers in (("prediction", prediction), ("target", target)):
    check.require(
      numbers.dtype.kind in "iu" and (not numbers.size or numbers.min() >= 0),
      f"numbers of objects from 0 as {name}", f"{numbers.dtype}, least {numbers.min(initial=0)}",
      "number the objects 1, 2, ... and the outside 0",
    )  # fmt: skip
  found_names, found = np.unique(prediction, return_inverse=True)
  true_names, true = np.unique(target, return_inverse=True)
  pairs = true.ravel() * len(found_names) + found.ravel()
  shape = len(true_names), len(found_names)
  table = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
  is_true, is_found = true_names > 0, found_names > 0
  return table[is_true][:, is_found], table.sum(0)[is_found], table.sum(1)[is_true]
