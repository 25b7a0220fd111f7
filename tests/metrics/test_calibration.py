"""Calibration against NumPy loops, closed forms, and labels drawn from the predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics import calibration as cal
from medjax.train import Report
from medjax.types import IGNORE

sums = jax.jit(cal.calibration_sums, static_argnames="num_bins")


def predictions(random, shape, *, classes=3, scale=1.5):
  """Probabilities and labels drawn from them: calibrated by construction."""
  logits = scale * random.normal(size=(*shape, classes))
  probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  label = (random.random((*shape, 1)) > probability.cumsum(-1)[..., :-1]).sum(-1)
  return jnp.asarray(probability, jnp.float32), jnp.asarray(label, jnp.int32)


def ece_by_loops(confidence, hit, num_bins):
  edges = np.arange(1, num_bins) / num_bins
  bin_of = np.digitize(confidence, edges)
  return sum(
    (bin_of == b).mean() * abs(hit[bin_of == b].mean() - confidence[bin_of == b].mean())
    for b in np.unique(bin_of)
  )


def test_figures_equal_numpy_and_ignore_what_is_unknown():
  random = np.random.default_rng(0)
  probability, label = predictions(random, (9, 11, 5))
  probability = probability[..., jnp.array([1, 0, 2])]  # wrong on purpose
  label = label.at[0, :, 2:].set(IGNORE)
  found = cal.calibration_summary(sums(probability, label, num_bins=7))
  known = np.asarray(label) != IGNORE
  p, t = np.asarray(probability, np.float64)[known], np.asarray(label)[known]
  truth = np.eye(3)[t]
  by_class = [ece_by_loops(p[:, k], truth[:, k], 7) for k in range(3)]
  np.testing.assert_allclose(found.ece_by_class, by_class, rtol=1e-5)
  np.testing.assert_allclose(found.classwise_ece, np.mean(by_class), rtol=1e-5)
  top = ece_by_loops(p.max(-1), p.argmax(-1) == t, 7)
  np.testing.assert_allclose(found.top_label_ece, top, rtol=1e-5)
  np.testing.assert_allclose(found.brier, ((p - truth) ** 2).sum(-1).mean(), rtol=1e-6)
  np.testing.assert_allclose(found.nll, -np.log((p * truth).sum(-1)).mean(), rtol=1e-6)
  np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1).mean(), rtol=1e-6)


def test_two_bins_in_closed_form():
  # Class 1 at .2 (6 voxels, 1 hit) and at .9 (4 voxels, 2 hits); class 0 is its mirror image.
  p = np.array([0.2] * 6 + [0.9] * 4)
  label = jnp.array([1, 0, 0, 0, 0, 0, 1, 1, 0, 0], jnp.int32)
  found = cal.calibration_summary(sums(jnp.stack([1 - p, p], axis=-1), label, num_bins=2))
  np.testing.assert_allclose(found.ece_by_class, 0.6 * (0.2 - 1 / 6) + 0.4 * 0.4, rtol=1e-5)
  np.testing.assert_allclose(found.top_label_ece, abs(8.4 - 7) / 10, rtol=1e-5)  # one bin of both


def test_a_probability_on_an_edge_is_in_the_upper_bin_and_1_in_the_last():
  p = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
  found = sums(jnp.stack([1 - p, p], axis=-1), jnp.ones(5, jnp.int32), num_bins=4)
  assert found.classwise.count[1].tolist() == [1, 1, 1, 2]
  assert found.classwise.hits[1].tolist() == [1, 1, 1, 2]


def test_error_of_calibrated_predictions_falls_as_one_over_root_n():
  """Each bin's gap is a sum of p (1 - p) variances: E ECE = sum_b sqrt(2 v_b / pi) / N."""
  random = np.random.default_rng(1)
  for n in (1_000, 16_000):
    found, expected = [], []
    for _ in range(20):
      probability, label = predictions(random, (n,))
      found.append(cal.calibration_summary(sums(probability, label)).classwise_ece)
      p = np.asarray(probability, np.float64)
      bin_of = np.digitize(p, np.arange(1, 15) / 15)
      variance = [
        np.bincount(bin_of[:, k], p[:, k] * (1 - p[:, k]), minlength=15) for k in range(3)
      ]
      expected.append(np.sqrt(2 * np.array(variance) / np.pi).sum(1).mean() / n)
    np.testing.assert_allclose(np.mean(found), np.mean(expected), rtol=0.08)  # 900 gaps
  figures = cal.calibration_summary(sums(probability, label))
  np.testing.assert_allclose(figures.nll, figures.entropy, atol=4 / np.sqrt(16_000))


def test_cases_add_up():
  probability, label = predictions(np.random.default_rng(2), (6, 500))
  whole = sums(probability, label)
  parts = jax.jit(jax.vmap(cal.calibration_sums))(probability, label)
  merged = cal.merge(jax.tree.map(lambda leaf, i=i: leaf[i], parts) for i in range(6))
  for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
    assert a.dtype in (np.int64, np.float64)
  assert cal.calibration_summary(merged).brier == pytest.approx(
    cal.calibration_summary(whole).brier, rel=1e-6
  )


def test_sums_of_a_large_volume_keep_their_digits():
  """A running float32 sum of 2^21 confidences is off by 1e-3 and worse."""
  n, p = 2**21, 0.7003
  probability = jnp.broadcast_to(jnp.array([p, 1 - p], jnp.float32), (n, 2))
  found = sums(probability, jnp.zeros(n, jnp.int32))
  figures = cal.calibration_summary(found)
  np.testing.assert_allclose(found.classwise.confidence.sum(1), [n * p, n * (1 - p)], rtol=1e-5)
  np.testing.assert_allclose(figures.classwise_ece, 1 - p, rtol=1e-5)
  np.testing.assert_allclose(figures.brier, 2 * (1 - p) ** 2, rtol=1e-5)
  np.testing.assert_allclose(figures.nll, -np.log(p), rtol=1e-5)


def test_ranges_of_the_scores():
  label = jnp.zeros(4, jnp.int32)
  wrong = jnp.broadcast_to(jnp.array([0.0, 1.0]), (4, 2))
  figures = cal.calibration_summary(sums(wrong, label))
  assert figures.brier == 2.0 and figures.top_label_ece == figures.classwise_ece == 1.0
  np.testing.assert_allclose(figures.nll, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)
  uniform = cal.calibration_summary(sums(jnp.full((4, 2), 0.5), label))
  assert uniform.brier == pytest.approx(0.5) and uniform.nll == pytest.approx(np.log(2))


def test_one_classified_image_and_no_voxel_at_all():
  one = cal.calibration_summary(sums(jnp.array([0.25, 0.75]), jnp.int32(1)))
  assert one.top_label_ece == 0.25 and one.brier == pytest.approx(0.125)
  none = cal.calibration_summary(sums(jnp.full((3, 2), 0.5), jnp.full(3, IGNORE)))
  assert np.isnan(none[0]) and np.isnan(none.top_label_ece) and np.isnan(none.nll)


def test_equal_mass_bins_hold_equally_many():
  probability, label = predictions(np.random.default_rng(3), (3000,))
  label = label.at[:1000].set(IGNORE)
  edges = cal.equal_mass_edges(probability, label, num_bins=10)
  found = sums(probability, label, edges=edges)
  np.testing.assert_allclose(found.classwise.count, 200, atol=1)
  np.testing.assert_allclose(found.top_label.count, 200, atol=1)


def test_edges_of_equal_width_are_the_default():
  probability, label = predictions(np.random.default_rng(4), (400,))
  inner = jnp.linspace(0.0, 1.0, 16)[1:-1]
  for edges in (inner, jnp.broadcast_to(inner, (4, 14))):
    jax.tree.map(
      np.testing.assert_array_equal, sums(probability, label, edges=edges), sums(probability, label)
    )


def test_reliability_table_and_series_for_the_report():
  p = np.array([0.1, 0.1, 0.1, 0.1, 0.8])
  label = jnp.array([0, 0, 0, 1, 1], jnp.int32)
  found = sums(jnp.stack([1 - p, p], axis=-1), label, num_bins=4)
  count, confidence, frequency = cal.reliability(found.classwise)
  assert count[1].tolist() == [4, 0, 0, 1]
  np.testing.assert_allclose(confidence[1], [0.1, np.nan, np.nan, 0.8], rtol=1e-6)
  np.testing.assert_allclose(frequency[1], [0.25, np.nan, np.nan, 1.0])
  series = cal.reliability_series(found.classwise, ("background", "organ"))
  assert list(series) == ["background", "organ", "perfect"]
  np.testing.assert_allclose(series["organ"], [[0.1, 0.8], [0.25, 1.0]], rtol=1e-6)
  assert list(cal.reliability_series(found.top_label)) == ["top label", "perfect"]
  assert "organ" in Report("t").curves(series, "confidence", "frequency").html()


def test_entropy_of_an_ensemble_splits_into_expected_and_disagreement():
  random = np.random.default_rng(5)
  members = jnp.stack([predictions(random, (4, 5))[0] for _ in range(3)])
  split = jax.jit(cal.ensemble_entropy)(members)
  np.testing.assert_allclose(split.total, split.expected + split.mutual_information, rtol=1e-6)
  assert (split.mutual_information > 0).all() and (split.total <= np.log(3) + 1e-6).all()
  p = np.asarray(members, np.float64)
  divergence = (p * np.log(p / p.mean(0))).sum(-1).mean(0)  # mean KL of a member to the mean
  np.testing.assert_allclose(split.mutual_information, divergence, atol=1e-6)


def test_equal_members_agree_and_opposite_members_disagree_by_log_2():
  p = predictions(np.random.default_rng(6), (20,))[0]
  entropy = jax.jit(cal.ensemble_entropy)
  same = entropy(jnp.stack([p, p, p]))
  np.testing.assert_allclose(same.mutual_information, 0, atol=1e-6)
  np.testing.assert_allclose(same.total, jax.jit(cal.predictive_entropy)(p), rtol=1e-6)
  opposite = entropy(jnp.eye(2)[:, None])
  np.testing.assert_allclose(opposite.mutual_information, np.log(2), rtol=1e-6)
  np.testing.assert_array_equal(opposite.expected, 0)


def test_bad_arguments_are_named():
  with pytest.raises(InputError, match="2 classes"):
    cal.calibration_sums(jnp.ones((4, 1)), jnp.zeros(4, jnp.int32))
  with pytest.raises(InputError, match="num_bins"):
    cal.calibration_sums(jnp.ones((4, 2)), jnp.zeros(4, jnp.int32), num_bins=0)
  with pytest.raises(InputError, match="at least one case"):
    cal.merge([])
  with pytest.raises(InputError, match="a voxel with a label"):
    cal.equal_mass_edges(jnp.ones((4, 2)), jnp.full(4, IGNORE))
