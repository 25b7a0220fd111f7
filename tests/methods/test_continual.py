"""EWC, A-GEM and losses that are held to a teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, methods
from medjax.check import InputError
from medjax.data.streams.replay import replayed
from medjax.data.streams.volume_pool import cut_patches, volume_pool
from medjax.methods.agem import agem, projected
from medjax.methods.distillation import held_to_teacher, with_teacher
from medjax.methods.ewc import Anchor, ewc, fisher_anchor, merged_anchors

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
START = {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([0.5])}
BATCH = {
  "x": RANDOM.normal(size=(6, 3)).astype(np.float32),
  "y": RANDOM.normal(size=6).astype(np.float32),
  "weight": np.array([1, 2, 1, 0, 1, 1], np.float32),
}
OTHER = {**BATCH, "x": -BATCH["x"], "y": BATCH["y"] + 1}
# Residuals of the start are turned around, but not exactly: the gradient points back.
OPPOSED = {
  **BATCH,
  "y": 2 * (BATCH["x"] @ START["w"] + START["b"]) - BATCH["y"] + np.sin(np.arange(6.0)),
}
OPPOSED = {k: np.asarray(v, np.float32) for k, v in OPPOSED.items()}


def output(params, example, key):
  del key
  return params["w"] @ example["x"] + params["b"]


def label_loss(out, example):
  return ((out - example["y"]) ** 2).sum()


def loss(params, example, key):
  return label_loss(output(params, example, key), example)


def run(step, stream, num_steps, params=START):
  state, update = step.init(params, KEY), jax.jit(step.update)
  for t in range(num_steps):
    state, metrics = update(state, stream(t), jax.random.fold_in(KEY, t))
  return state, metrics


def assert_close(a, b, rtol=1e-5, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_the_fisher_information_is_the_mean_of_squared_gradients():
  found = jax.jit(lambda p, b, k: fisher_anchor(loss, p, b, k))(START, BATCH, KEY)
  each = [jax.grad(loss)(START, {k: v[i] for k, v in BATCH.items()}, KEY) for i in range(6)]
  share = BATCH["weight"] / 6  # they sum to 6
  for name in START:
    want = sum(share[i] * np.asarray(each[i][name]) ** 2 for i in range(6))
    np.testing.assert_allclose(found.fisher[name], want, rtol=1e-5)
  assert_close(found.params, START)


def test_a_padding_row_without_numbers_leaves_the_anchor_alone():
  padded = {**BATCH, "x": np.where(BATCH["weight"][:, None] > 0, BATCH["x"], np.nan)}
  found = fisher_anchor(loss, START, {k: np.float32(v) for k, v in padded.items()}, KEY)
  assert_close(found.fisher, fisher_anchor(loss, START, BATCH, KEY).fisher)


def test_ewc_without_strength_is_fine_tuning_bit_for_bit():
  anchor = fisher_anchor(loss, START, OTHER, KEY)
  tx = optax.adam(0.05)
  plain, _ = run(methods.supervised(loss, tx), lambda t: BATCH, 5)
  for step in (ewc(loss, tx, anchor, strength=0), ewc(loss, tx)):
    held, _ = run(step, lambda t: BATCH, 5)
    jax.tree.map(np.testing.assert_array_equal, held.params, plain.params)


def test_ewc_descends_the_penalised_loss():
  anchor = Anchor(
    jax.tree.map(lambda p: p + 1, START), {"w": jnp.array([1.0, 0.0, 3.0]), "b": jnp.array([2.0])}
  )

  def penalised(params, example, key):
    far = sum((anchor.fisher[k] * (params[k] - anchor.params[k]) ** 2).sum() for k in params)
    return loss(params, example, key) + 0.35 * far

  tx = optax.sgd(0.02)
  found, _ = run(ewc(loss, tx, anchor, strength=0.7), lambda t: BATCH, 6)
  want, _ = run(methods.supervised(penalised, tx), lambda t: BATCH, 6)
  assert_close(found.params, want.params)


def test_a_merged_anchor_pulls_as_both():
  parts = []
  for batch, shift in ((BATCH, 0.0), (OTHER, 1.0)):
    at = jax.tree.map(lambda p, s=shift: p + s, START)
    parts.append(fisher_anchor(loss, at, batch, KEY))
  first, second = parts
  second = second._replace(fisher={**second.fisher, "b": jnp.zeros(1)})
  first = first._replace(fisher={**first.fisher, "b": jnp.zeros(1)})
  both = merged_anchors(merged_anchors(None, first), second)

  def pull(anchor, at):
    return jax.tree.map(lambda p, p0, f: f * (p - p0), at, anchor.params, anchor.fisher)

  at = jax.tree.map(lambda p: 3 * p - 1, START)
  assert_close(pull(both, at), jax.tree.map(jnp.add, pull(first, at), pull(second, at)))


def test_agem_leaves_the_memory_in_peace():
  def gradient(batch):
    return jax.grad(lambda p: grads.batch_mean(lambda e, k: loss(p, e, k), batch, KEY))(START)

  g, reference = gradient(BATCH), gradient(OPPOSED)
  assert optax.tree.vdot(g, reference) < 0  # the case that matters
  turned, is_turned = projected(g, reference)
  assert is_turned
  np.testing.assert_allclose(optax.tree.vdot(turned, reference), 0, atol=1e-3)
  removed = jax.tree.map(jnp.subtract, g, turned)  # what was taken away is along the reference
  size = optax.tree.norm(removed) * optax.tree.norm(reference)
  np.testing.assert_allclose(abs(optax.tree.vdot(removed, reference)), size, rtol=1e-5)
  state, metrics = run(
    agem(loss, optax.sgd(0.1)), lambda t: {"current": BATCH, "memory": OPPOSED}, 1
  )
  moved = jax.tree.map(lambda p, s: (s - p) / 0.1, state.params, START)
  assert_close(moved, turned, rtol=1e-3, atol=1e-3)
  assert metrics["projected"] == 1


def test_agem_is_fine_tuning_where_nothing_opposes():
  plain, _ = run(methods.supervised(loss, optax.adam(0.05)), lambda t: BATCH, 5)
  nothing = {**OTHER, "weight": np.zeros(6, np.float32)}
  for memory in (BATCH, nothing):
    state, metrics = run(
      agem(loss, optax.adam(0.05)), lambda t, m=memory: {"current": BATCH, "memory": m}, 5
    )
    jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)
    assert metrics["projected"] == 0


def held(teacher, label_weight, teacher_weight):
  one = np.ones(6, np.float32)
  return {
    **BATCH,
    "teacher": teacher,
    "label_weight": label_weight * one,
    "teacher_weight": teacher_weight * one,
  }


HELD_LOSS = held_to_teacher(output, label_loss)


def test_der_without_stored_outputs_is_replay():
  plain, _ = run(methods.supervised(loss, optax.adam(0.05)), lambda t: BATCH, 5)
  unknown = np.full((6, 1), np.nan, np.float32)
  found, _ = run(methods.supervised(HELD_LOSS, optax.adam(0.05)), lambda t: held(unknown, 1, 0), 5)
  jax.tree.map(np.testing.assert_array_equal, found.params, plain.params)


def test_der_with_outputs_alone_returns_to_their_network():
  def teach(params):
    return jax.vmap(lambda x: params["w"] @ x + params["b"])(BATCH["x"])

  away = jax.tree.map(lambda p: p + 0.5, START)
  step = methods.supervised(HELD_LOSS, optax.sgd(0.15))
  target = np.asarray(teach(START))
  found, _ = run(step, lambda t: held(target, 0, 1), 600, away)
  assert_close(found.params, START, rtol=1e-2, atol=1e-2)  # six examples fix four parameters


def test_lwf_at_the_old_network_is_fine_tuning_for_one_step():
  teach = jax.jit(lambda b: jax.vmap(lambda x: START["w"] @ x + START["b"])(b["x"]))
  stream = with_teacher(lambda t: BATCH, teach, 3.0)
  assert set(stream(0)) == {*BATCH, "teacher", "label_weight", "teacher_weight"}
  found, _ = run(methods.supervised(HELD_LOSS, optax.sgd(0.1)), stream, 1)
  plain, _ = run(methods.supervised(loss, optax.sgd(0.1)), lambda t: BATCH, 1)
  assert_close(found.params, plain.params)  # the distance has no slope at 0
  far, _ = run(methods.supervised(HELD_LOSS, optax.sgd(0.01)), stream, 200)
  free, _ = run(methods.supervised(loss, optax.sgd(0.01)), lambda t: BATCH, 200)

  def distance(params):
    return sum(float(((params[k] - START[k]) ** 2).sum()) for k in START)

  assert distance(far.params) < distance(free.params)


def test_replay_costs_what_fine_tuning_costs():
  volumes = RANDOM.normal(size=(6, 4, 4, 1)).astype(np.float32)
  pool = volume_pool(volumes, (volumes[..., 0] > 0).astype(np.float32))

  def patch_loss(params, example, key):
    del key
    return ((params["w"].sum() * example["image"][..., 0] - example["label"]) ** 2).mean()

  step = methods.supervised(patch_loss, optax.adam(0.1))
  state = step.init(START, KEY)

  def flops(memory, form):
    rows = replayed((0, 1, 2), memory, 4, 0, form=form)
    batch = cut_patches(pool, rows, (2, 2), 0)(0)
    found = jax.jit(step.update).lower(state, batch, KEY).compile().cost_analysis()
    return found["flops"]

  plain = flops((), "pooled")
  for form in ("pooled", "weighted"):
    assert flops((3, 4, 5), form) <= 1.01 * plain


def test_bad_strengths_are_refused():
  with pytest.raises(InputError, match="strength >= 0"):
    ewc(loss, optax.sgd(0.1), strength=-1)
