"""Whether probabilities mean what they say: ECE per class, reliability bins, proper scores.

  ECE_k = sum_b n_bk / N |frequency_bk - confidence_bk|,   class-wise ECE = mean_k ECE_k
  top-label ECE: the same sum over the probability of the predicted class
  Brier = mean sum_k (p_k - [label = k])^2,   NLL = mean -log p_label

with b the bins of predicted probability, n_bk the count of voxels whose p_k falls into bin b, and
frequency and confidence their share of class k and mean p_k (Naeini et al., AAAI 2015; class-wise:
Nixon et al., CVPR workshops 2019; Kumar et al., NeurIPS 2019, who show that binning hides error: an
ECE is a lower bound and depends on its bins). Voxels labelled `types.IGNORE` count nowhere.

Everything is a ratio of sums over voxels. `calibration_sums` takes one case under jit, `merge` adds
cases on the host, so no set of volumes is held at once.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from medjax import check, labels
from medjax.tree import at_least_float32

_ROW = 256  # float32 sums are taken in rows of this length, rows in rows, ...: exact to about 1e-6


class Bins(NamedTuple):
  """Sums over the voxels of each bin of predicted probability.

  Attributes:
    count: voxels, [*class, bin] integer.
    confidence: sum of their predicted probability, [*class, bin].
    hits: voxels where the class is the true one, [*class, bin] integer.
  """

  count: jax.Array
  confidence: jax.Array
  hits: jax.Array


class CalibrationSums(NamedTuple):
  """What one case adds; `merge` adds cases.

  Attributes:
    classwise: bins of every class, [class, bin].
    top_label: bins of the predicted class, [bin].
    voxels: known voxels.
    brier, nll, entropy: sums over them.
  """

  classwise: Bins
  top_label: Bins
  voxels: jax.Array
  brier: jax.Array
  nll: jax.Array
  entropy: jax.Array


class Calibration(NamedTuple):
  """Figures of a set of voxels; NaN if it is empty.

  Attributes:
    classwise_ece: in [0, 1], mean of `ece_by_class`.
    ece_by_class: [class].
    top_label_ece: in [0, 1].
    brier: in [0, 2]; 1 - 1 / K for a uniform guess.
    nll: nats a voxel, >= 0.
    entropy: mean entropy of the prediction in nats; a calibrated forecast has entropy = nll.
  """

  classwise_ece: float
  ece_by_class: np.ndarray
  top_label_ece: float
  brier: float
  nll: float
  entropy: float


def calibration_sums(
  probability: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  *,
  num_bins: int = 15,
  edges: ArrayLike | None = None,
) -> CalibrationSums:
  """Sums of one case (or of a batch); jittable, and additive over voxels.

  Args:
    probability: [*space, class], at least 2 classes, sums to 1.
    label: [*space] class ids below K, or `IGNORE`.
    num_bins: equal-width bins [i / num_bins, (i + 1) / num_bins), the last one closed.
    edges: inner edges in their place, ascending: [bin - 1] for all, or [class + 1, bin - 1] with
      the predicted class last, as `equal_mass_edges` gives them.
  Raises:
    InputError: fewer than 2 classes or 1 bin, a label of another shape or that is no class (NaN in
      the sums under jit).
  """
  num_classes = probability.shape[-1]
  check.require(num_classes >= 2, "at least 2 classes", f"{num_classes}", "give one per class")
  check.positive("num_bins", num_bins)
  inner = jnp.linspace(0.0, 1.0, num_bins + 1)[1:-1] if edges is None else jnp.asarray(edges)
  inner = jnp.broadcast_to(inner, (num_classes + 1, inner.shape[-1]))
  truth = labels.of_classes(
    "label", label, num_classes, shape=probability.shape[:-1], other="probability without classes"
  )
  label, known = truth.ids.reshape(-1), truth.is_known.reshape(-1)
  probability = at_least_float32(probability.reshape(-1, num_classes))
  is_class = jax.nn.one_hot(label, num_classes, dtype=bool)
  classwise = jax.vmap(_bins, in_axes=(1, 1, None, 0))(probability, is_class, known, inner[:-1])
  hit = probability.argmax(-1) == label
  top_label = _bins(probability.max(-1), hit, known, inner[-1])
  return CalibrationSums(
    classwise,
    top_label,
    known.sum(),
    *truth.checked(
      (
        _sum(jnp.where(known, _brier(probability, is_class), 0.0)),
        _sum(jnp.where(known, _nll(probability, is_class), 0.0)),
        _sum(jnp.where(known, predictive_entropy(probability), 0.0)),
      )
    ),
  )


def merge(sums: Iterable[CalibrationSums]) -> CalibrationSums:
  """The sums of all cases together, in float64 and int64 on the host."""

  def add(*leaves):
    arrays = [np.asarray(leaf) for leaf in leaves]
    wide = np.float64 if arrays[0].dtype.kind == "f" else np.int64
    return np.sum([array.astype(wide) for array in arrays], axis=0)

  cases = list(sums)
  check.require(cases, "at least one case to merge", "none", "pass the sums of every case")
  return jax.tree.map(add, *cases)


def calibration_summary(sums: CalibrationSums) -> Calibration:
  """The figures of merged sums (or of one case).

  >>> probability, label = jnp.array([[0.75, 0.25]] * 4), jnp.array([0, 0, 0, 1])
  >>> figures = calibration_summary(calibration_sums(probability, label))
  >>> float(figures.classwise_ece), round(float(figures.brier), 3)  # 2 (3 / 4) / 4
  (0.0, 0.375)
  """
  voxels = float(sums.voxels)
  by_class = expected_calibration_error(sums.classwise)
  means = [float(total) / voxels if voxels else np.nan for total in sums[3:]]
  top_label = float(expected_calibration_error(sums.top_label))
  return Calibration(float(by_class.mean()), by_class, top_label, *means)


def expected_calibration_error(bins: Bins) -> np.ndarray:
  """sum_b n_b / N |frequency_b - confidence_b| in [0, 1], [*class], on the host; NaN if empty."""
  gap = np.abs(np.asarray(bins.hits, np.float64) - np.asarray(bins.confidence, np.float64)).sum(-1)
  total = np.asarray(bins.count, np.float64).sum(-1)
  return np.divide(gap, total, out=np.full_like(gap, np.nan), where=total > 0)


def equal_mass_edges(
  probability: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  *,
  num_bins: int = 15,
) -> Float[np.ndarray, "classes_and_top edges"]:
  """Inner edges [class + 1, num_bins - 1] that put equally many known voxels into each bin.

  Take them from one set (say source validation) and use them for all, or sums do not merge. Where
  many voxels share one value, as saturated background does, some bins stay empty.
  """
  check.positive("num_bins", num_bins)
  num_classes, shape = probability.shape[-1], probability.shape[:-1]
  truth = labels.of_classes(
    "label", label, num_classes, shape=shape, other="probability without classes"
  )
  known = np.asarray(truth.is_known)
  values = np.asarray(probability, np.float32)[known]
  check.require(len(values), "a voxel with a label", "none", "pass labelled voxels")
  values = np.concatenate([values, values.max(-1, keepdims=True)], axis=-1)
  return np.quantile(values, np.arange(1, num_bins) / num_bins, axis=0).T.astype(np.float32)


def reliability(bins: Bins) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Table of a reliability picture: (count, mean confidence, frequency), each [*class, bin].

  An empty bin has count 0 and NaN. On the host.
  """
  count = np.asarray(bins.count)
  ratios = []
  for total in (bins.confidence, bins.hits):
    numerator = np.asarray(total, np.float64)
    ratio = np.full_like(numerator, np.nan)
    ratios.append(np.divide(numerator, count, out=ratio, where=count > 0))
  return count, ratios[0], ratios[1]


def reliability_series(
  bins: Bins, names: Sequence[str] = ("top label",)
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Series for `train.Report.curves`: name -> (mean confidence, frequency), and the diagonal.

  Args:
    bins: of one kind [bin], or of every class [class, bin].
    names: one a class; classes without voxels have no line.
  """
  _, confidence, frequency = reliability(bins)
  lines = zip(names, np.atleast_2d(confidence), np.atleast_2d(frequency), strict=True)
  series = {name: (x[~np.isnan(x)], y[~np.isnan(x)]) for name, x, y in lines}
  series = {name: line for name, line in series.items() if len(line[0])}
  return series | {"perfect": (np.array([0.0, 1.0]), np.array([0.0, 1.0]))}


def predictive_entropy(
  probability: Float[Array, "*space classes"],
) -> Float[Array, "*space"]:
  """-sum_k p_k log p_k in nats, in [0, log K]; of each voxel."""
  probability = at_least_float32(probability)
  return -jax.scipy.special.xlogy(probability, probability).sum(-1)


class EnsembleEntropy(NamedTuple):
  """In nats, [*space]: total = expected + mutual_information.

  Attributes:
    total: entropy of the members' mean prediction.
    expected: mean entropy of the members, what no further member can take away (aleatoric).
    mutual_information: how far the members disagree (epistemic); 0 where they agree.
  """

  total: jax.Array
  expected: jax.Array
  mutual_information: jax.Array


def ensemble_entropy(probability: Float[Array, "member *space classes"]) -> EnsembleEntropy:
  """Splits an ensemble's uncertainty (Depeweg et al., ICML 2018, Eq. 6); per voxel."""
  total = predictive_entropy(at_least_float32(probability).mean(0))
  expected = predictive_entropy(probability).mean(0)
  # Jensen's inequality makes the difference >= 0; rounding does not know that.
  return EnsembleEntropy(total, expected, jnp.maximum(total - expected, 0.0))


def _bins(value, hit, known, edges) -> Bins:
  """Sums of one class over flat voxels."""
  bin_of = jnp.searchsorted(edges, value, side="right")
  num_bins, rows = edges.shape[0] + 1, -(-value.shape[0] // _ROW)
  segment = jnp.arange(value.shape[0]) // _ROW * num_bins + bin_of

  def total(what):
    flat = jax.ops.segment_sum(what, segment, num_segments=rows * num_bins)
    return _sum(flat.reshape(rows, num_bins))

  return Bins(
    total(known.astype(jnp.int32)),
    total(jnp.where(known, value, 0.0)),
    total(hit.astype(jnp.int32)),  # IGNORE is no class: never hit
  )


def _sum(values):
  """Sum over the first axis; a plain float32 scan over millions of voxels loses three digits."""
  while values.shape[0] > _ROW:
    rest = [(0, 0)] * (values.ndim - 1)
    padded = jnp.pad(values, [(0, -values.shape[0] % _ROW), *rest])
    values = padded.reshape(-1, _ROW, *values.shape[1:]).sum(1)
  return values.sum(0)


def _brier(probability, truth):
  return ((probability - truth) ** 2).sum(-1)


def _nll(probability, truth):
  # A probability that underflowed counts as the smallest normal number: 87.3 nats in float32.
  smallest = jnp.finfo(probability.dtype).tiny
  return -jnp.log(jnp.maximum((probability * truth).sum(-1), smallest))
