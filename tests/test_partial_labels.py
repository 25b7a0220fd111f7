"""The losses of partly labelled sets against their formulas in NumPy, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from medjax import losses
from medjax.check import InputError

# Background, liver, liver tumour, spleen, kidney, kidney tumour; one set labels the liver.
CLASSES, KNOWN, GROUPS = 6, (1, 2), ((0,), (1, 2), (3,), (4, 5))
LABELLED = losses.labelled_classes([KNOWN, (3, 4, 5)], CLASSES)[0]
SPACE = (4, 5)


def drawn():
  random = np.random.default_rng(0)
  logits, teacher = (2 * random.normal(size=(*SPACE, 6)).astype(np.float32) for _ in range(2))
  label = random.integers(3, size=SPACE).astype(np.int32)
  return logits, teacher, label


def test_merged_logits_are_logits_of_summed_probabilities():
  logits, _, label = drawn()
  p = scipy.special.softmax(logits, -1)
  expected = np.zeros_like(p)
  expected[..., 0] = p[..., [0, 3, 4, 5]].sum(-1)
  expected[..., list(KNOWN)] = p[..., list(KNOWN)]
  label[0, :2] = -1
  merged, same = jax.jit(losses.merge_unlabelled)(logits, label, LABELLED)  # a traced mask
  np.testing.assert_allclose(jax.nn.softmax(merged), expected, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(same, label)
  chosen = np.take_along_axis(expected, np.maximum(label, 0)[..., None], -1)[..., 0]
  value = losses.cross_entropy(merged, same)
  np.testing.assert_allclose(value, -np.log(chosen[label >= 0]).mean(), rtol=1e-5)


def test_with_every_class_labelled_nothing_changes():
  logits, _, label = map(jnp.asarray, drawn())
  merged, same = losses.merge_unlabelled(logits, label, np.arange(CLASSES) > 0)
  np.testing.assert_array_equal(merged, logits)
  np.testing.assert_array_equal(same, label)


def test_dice_counts_the_classes_that_are_labelled():
  logits, _, label = drawn()
  p, r = scipy.special.softmax(logits, -1), np.eye(CLASSES)[label]
  each = 1 - (2 * (p * r).sum((0, 1)) + 1) / (p.sum((0, 1)) + r.sum((0, 1)) + 1)
  of = jax.jit(
    lambda counted: losses.soft_dice(jnp.asarray(logits), jnp.asarray(label), counted=counted)
  )
  np.testing.assert_allclose(of(LABELLED), each[list(KNOWN)].mean(), rtol=1e-5)
  np.testing.assert_allclose(of(np.ones(CLASSES, bool)), each.mean(), rtol=1e-5)
  assert of(np.zeros(CLASSES, bool)) == 0
  # After merging, the slope of the marginal Dice is finite and sums to 0 over the classes.
  slope = jax.grad(lambda x: losses.soft_dice(*losses.merge_unlabelled(x, label, LABELLED)))(logits)
  assert np.isfinite(slope).all() and np.abs(slope.sum(-1)).max() < 1e-6


def by_hand(logits, teacher, label, temperature):
  mine, theirs = (scipy.special.softmax(x / temperature, -1) for x in (logits, teacher))
  mask = ~np.isin(label, KNOWN) & ~np.isin(teacher.argmax(-1), KNOWN)
  scores = []
  for group in ((0,), (3,), (4, 5)):
    a, b = (
      mask * x[..., list(group)].sum(-1) / (1 - x[..., list(KNOWN)].sum(-1)) for x in (mine, theirs)
    )
    scores.append((2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5))
  return 1 - np.mean(scores)


def distilled(logits, teacher, label, labelled=LABELLED, **options):
  return losses.conditional_distillation(
    *map(jnp.asarray, (logits, teacher, label)), labelled=labelled, groups=GROUPS, **options
  )


@pytest.mark.parametrize("temperature", (0.5, 2.0))
def test_conditional_distillation_is_the_papers(temperature):
  logits, teacher, label = drawn()
  found = distilled(logits, teacher, label, temperature=temperature)
  expected = by_hand(*(x.astype(np.float64) for x in (logits, teacher)), label, temperature)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_student_and_teacher_may_change_places_where_neither_sees_foreground():
  logits, teacher, _ = drawn()
  for one in (logits, teacher):
    one[..., list(KNOWN)] -= 20
  label = np.zeros(SPACE, np.int32)
  ours, theirs = distilled(logits, teacher, label), distilled(teacher, logits, label)
  np.testing.assert_allclose(ours, theirs, rtol=1e-6)
  # A set that labels everything has one group left, of probability 1: nothing to distil.
  assert distilled(logits, teacher, label, np.arange(CLASSES) > 0) == 0


def test_foreground_of_label_and_teacher_is_left_alone():
  logits, teacher, label = map(jnp.asarray, drawn())

  def loss(logits, teacher):
    return distilled(logits, teacher, label)

  slope, of_teacher = jax.grad(loss, (0, 1))(logits, teacher)
  out = np.isin(label, KNOWN) | np.isin(np.asarray(teacher).argmax(-1), KNOWN)
  assert (np.asarray(slope)[out] == 0).all() and (np.asarray(slope)[~out] != 0).any()
  assert (np.asarray(of_teacher) == 0).all()
  # Given background, foreground logits do not matter.
  np.testing.assert_allclose(np.asarray(slope)[..., list(KNOWN)], 0, atol=1e-7)


def test_agreeing_on_certain_groups_costs_nothing():
  label = jnp.zeros(SPACE, jnp.int32)
  kinds = jnp.array([0, 3, 4, 5])[jnp.arange(20).reshape(SPACE) % 4]
  sure = 60 * jax.nn.one_hot(kinds, CLASSES)
  value, slope = jax.value_and_grad(lambda x: distilled(x, sure, label))(sure)
  assert abs(value) < 1e-5 and np.abs(slope).max() < 1e-6


def test_full_label_maps_are_cut_to_what_a_set_labels():
  label = np.array([[0, 1, 2, 5, -1, 3]])
  kept = losses.keep_labelled(label, LABELLED)
  assert kept.tolist() == [[0, 1, 2, 0, -1, 0]]
  logits = jnp.zeros((1, 6, CLASSES))
  losses.merge_unlabelled(logits, kept, LABELLED)
  with pytest.raises(InputError, match=r"0 and the labelled classes \[1, 2\], got classes \[-1"):
    losses.merge_unlabelled(logits, label, LABELLED)
  traced = jax.jit(losses.merge_unlabelled)(logits, label, LABELLED)[0]
  assert np.isnan(traced).all()


@pytest.mark.parametrize(
  ("call", "message"),
  (
    (lambda: losses.labelled_classes([(1,), ()], 2), r"labelled by set 1, got \(\)"),
    (lambda: losses.labelled_classes([(0,)], 2), r"different classes in 1..1 labelled by set 0"),
    (lambda: losses.labelled_classes([(1, 1)], 2), "different classes in 1..1"),
    (lambda: losses.labelled_classes([(1,)], 3), r"got classes \[2\] labelled by none"),
    (lambda: distilled(*drawn(), temperature=0.0), "temperature > 0, got temperature=0.0"),
    (lambda: distilled(*drawn(), labelled=LABELLED[:4]), r"labelled"),
    (
      lambda: losses.conditional_distillation(
        *map(jnp.asarray, drawn()), labelled=LABELLED, groups=((0,), (3,))
      ),
      r"each of the classes 0..5 once, got \[\[0\], \[3\]\]",
    ),
  ),
)
def test_bad_input_is_one_clear_line(call, message):
  with pytest.raises(InputError, match=message):
    call()
