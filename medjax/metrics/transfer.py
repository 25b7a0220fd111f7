"""What a model knows of every centre after every centre: summaries of the matrix R.

R[i, j] is the score on centre j after training through centre i, higher is better (Lopez-Paz &
Ranzato 2017; Diaz-Rodriguez et al. 2018). Axes before the last two (seeds, orders) are kept.

  ACC = mean_j R[K, j]                          BWT = sum_{j<K} (R[K, j] - R[j, j]) / (K - 1)
  FWT = sum_{j>1} (R[j-1, j] - b_j) / (K - 1)   forgetting = mean_{j<K} max_{l<K} R[l, j] - R[K, j]
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from medjax import check


class Transfer(NamedTuple):
  """Summaries of R; arrays [*runs] unless said otherwise, scores in the unit of R.

  Attributes:
    acc: mean over centres after the last one.
    bwt: backward transfer; below 0, earlier centres were forgotten.
    fwt: forward transfer against a baseline; NaN without one.
    forgetting: mean loss against the best score a centre had before the end; may be below 0.
    bwt_of_centre: [*runs, K - 1], R[K, j] - R[j, j].
    mean_all_centres: [*runs, K], mean of row i over all centres, seen or not. The MS replay paper
      plots it under the name of zero-shot transfer.
    zero_shot: [*runs, K - 1], mean of row i over the centres not seen by then.
  """

  acc: np.ndarray
  bwt: np.ndarray
  fwt: np.ndarray
  forgetting: np.ndarray
  bwt_of_centre: np.ndarray
  mean_all_centres: np.ndarray
  zero_shot: np.ndarray


def transfer_summary(
  r: npt.ArrayLike,
  *,
  baseline: npt.ArrayLike | None = None,
  divide_by: Literal["k-1", "k"] = "k-1",
) -> Transfer:
  """Summaries of a matrix of scores.

  >>> r = [[0.8, 0.2, 0.1], [0.7, 0.9, 0.3], [0.6, 0.8, 0.7]]
  >>> [round(float(x), 3) for x in transfer_summary(r, baseline=[0.1, 0.1, 0.1])[:4]]
  [0.7, -0.15, 0.15, 0.15]

  Args:
    r: [*runs, K, K] trained through, tested on, centres in the order of training on both axes;
      K >= 2. NaN where nothing was tested makes NaN of what needs it.
    baseline: [*runs or fewer, K], scores of an untrained network, or of networks trained on one
      centre alone: two different forward transfers, say which.
    divide_by: "k" divides BWT and FWT by K, as the released code of the MS replay paper does, which
      makes both smaller; its text says K - 1.
  Raises:
    InputError: no square matrix of two centres or more, a baseline of another length.
  """
  r = np.asarray(r, float)
  num = r.shape[-1] if r.ndim >= 2 else 0
  check.require(
    num >= 2 and r.shape[-2] == num,
    "scores [*runs, K, K] with K >= 2 centres",
    f"shape {list(r.shape)}",
    "rows: trained through, columns: tested on",
  )
  check.one_of("divide_by", divide_by, ("k-1", "k"))
  parts = num - 1 if divide_by == "k-1" else num
  diagonal, last = np.diagonal(r, axis1=-2, axis2=-1), r[..., -1, :]
  bwt_of_centre = (last - diagonal)[..., :-1]
  fwt = np.full(r.shape[:-2], np.nan)
  if baseline is not None:
    baseline = np.asarray(baseline, float)
    check.require(
      baseline.ndim >= 1 and baseline.shape[-1] == num,
      f"a baseline score for each of {num} centres",
      f"shape {list(baseline.shape)}",
      "give them in the order of training",
    )
    ahead = np.diagonal(r, offset=1, axis1=-2, axis2=-1)  # R[j - 1, j]
    fwt = (ahead - baseline[..., 1:]).sum(-1) / parts
  return Transfer(
    acc=last.mean(-1),
    bwt=bwt_of_centre.sum(-1) / parts,
    fwt=fwt,
    forgetting=(r[..., :-1, :-1].max(-2) - last[..., :-1]).mean(-1),
    bwt_of_centre=bwt_of_centre,
    mean_all_centres=r.mean(-1),
    zero_shot=np.stack([r[..., i, i + 1 :].mean(-1) for i in range(num - 1)], -1),
  )
