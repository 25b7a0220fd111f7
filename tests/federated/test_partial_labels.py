"""ConDistFL's losses against their formulas in NumPy, and what they must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from medjax import losses
from medjax.check import InputError
from medjax.federated import conditional_distillation, merged_label, merged_logits

# Background, liver, liver tumour, spleen, kidney, kidney tumour; the client labels the liver.
KNOWN, GROUPS = (1, 2), ((0,), (3,), (4, 5))
SPACE = (4, 5)


def drawn():
  random = np.random.default_rng(0)
  logits, teacher = (2 * random.normal(size=(*SPACE, 6)).astype(np.float32) for _ in range(2))
  label = random.integers(3, size=SPACE).astype(np.int32)
  return logits, teacher, label


def test_merged_logits_are_logits_of_summed_probabilities():
  logits, _, label = drawn()
  p = scipy.special.softmax(logits, -1)
  expected = np.stack([p[..., [0, 3, 4, 5]].sum(-1), p[..., 1], p[..., 2]], -1)
  merged = merged_logits(jnp.asarray(logits), KNOWN)
  np.testing.assert_allclose(jax.nn.softmax(merged), expected, rtol=1e-5, atol=1e-7)
  # Cross-entropy of the merged probabilities, whose labels name positions in them.
  names = merged_label(jnp.array([[0, 1, 2, 5, -1]]), KNOWN)
  assert names.tolist() == [[0, 1, 2, 0, -1]]
  value = losses.cross_entropy(merged, merged_label(jnp.asarray(label), KNOWN))
  position = np.take_along_axis(expected, label[..., None], -1)  # labels 0, 1, 2 are positions
  np.testing.assert_allclose(value, -np.log(position).mean(), rtol=1e-5)


def by_hand(logits, teacher, label, temperature):
  mine, theirs = (scipy.special.softmax(x / temperature, -1) for x in (logits, teacher))
  mask = ~np.isin(label, KNOWN) & ~np.isin(teacher.argmax(-1), KNOWN)
  scores = []
  for group in GROUPS:
    a, b = (
      mask * x[..., list(group)].sum(-1) / (1 - x[..., list(KNOWN)].sum(-1)) for x in (mine, theirs)
    )
    scores.append((2 * (a * b).sum() + 1e-5) / (a.sum() + b.sum() + 1e-5))
  return 1 - np.mean(scores)


@pytest.mark.parametrize("temperature", (0.5, 2.0))
def test_conditional_distillation_is_the_papers(temperature):
  logits, teacher, label = drawn()
  found = conditional_distillation(
    *map(jnp.asarray, (logits, teacher, label)), known=KNOWN, groups=GROUPS, temperature=temperature
  )
  expected = by_hand(*(x.astype(np.float64) for x in (logits, teacher)), label, temperature)
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_foreground_of_label_and_teacher_is_left_alone():
  logits, teacher, label = map(jnp.asarray, drawn())

  def loss(logits, teacher):
    return conditional_distillation(logits, teacher, label, known=KNOWN, groups=GROUPS)

  slope, of_teacher = jax.grad(loss, (0, 1))(logits, teacher)
  out = np.isin(label, KNOWN) | np.isin(np.asarray(teacher).argmax(-1), KNOWN)
  assert (np.asarray(slope)[out] == 0).all() and (np.asarray(slope)[~out] != 0).any()
  assert (np.asarray(of_teacher) == 0).all()
  # Given background, foreground logits do not matter.
  np.testing.assert_allclose(np.asarray(slope)[..., list(KNOWN)], 0, atol=1e-7)


def test_agreeing_on_certain_groups_costs_nothing():
  label = jnp.zeros(SPACE, jnp.int32)
  sure = (
    60 * jax.nn.one_hot(jnp.arange(20).reshape(SPACE) % 4, 6)[..., jnp.array([0, 4, 5, 1, 2, 3])]
  )

  def loss(x):
    return conditional_distillation(x, sure, label, known=KNOWN, groups=GROUPS)

  value, slope = jax.value_and_grad(loss)(sure)
  assert abs(value) < 1e-5 and np.abs(slope).max() < 1e-6


@pytest.mark.parametrize(
  ("known", "groups", "message"),
  (
    ((0,), GROUPS, r"different foreground classes in 1..5, got \(0,\)"),
    ((1, 1), GROUPS, "different foreground classes"),
    (KNOWN, ((0,), (3,)), r"each of the classes \[0, 3, 4, 5\] once, got \[\[0\], \[3\]\]"),
  ),
)
def test_bad_input_is_one_clear_line(known, groups, message):
  logits, teacher, label = map(jnp.asarray, drawn())
  with pytest.raises(InputError, match=message):
    conditional_distillation(logits, teacher, label, known=known, groups=groups)
