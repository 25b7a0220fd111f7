"""Checkpoints: exact, atomic, never skipped, and tied to the manifest they were made with."""

import jax
import jax.numpy as jnp
import optax
import pytest

from medjax.check import InputError
from medjax.train import checkpoint
from tests.train import toy


def state(scale=1.0):
  params = {"weight": scale * jnp.arange(3.0), "half": jnp.ones(2, jnp.bfloat16)}
  tx = optax.chain(optax.adam(1e-3), optax.ema(0.9))
  extra = (jax.random.key(7), jax.random.key(3, impl="rbg"), jnp.array(True), jnp.int8(3))
  return {"params": params, "opt": tx.init(params), "extra": extra, "empty": ()}


def template(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def test_every_leaf_comes_back_bit_for_bit(tmp_path):
  saved = state()
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.latest() is None
    checkpoints.save(3, saved, {"max_norm": 0.1})
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    step, restored = checkpoints.restore(template(saved), {"max_norm": 0.1})
  assert step == 3
  assert jax.tree.structure(saved) == jax.tree.structure(restored)
  toy.assert_same_bits(saved, restored)
  assert restored["extra"][1].dtype == saved["extra"][1].dtype  # the key's implementation too


def test_arrays_of_size_0_come_back_too(tmp_path):
  saved = {"lora_a": jnp.zeros((4, 0)), "lora_b": jnp.zeros((0, 3), jnp.bfloat16), "w": jnp.ones(2)}
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, saved, {})
    restored = checkpoints.restore(template(saved), {})[1]
  assert jax.tree.map(lambda x: (x.shape, x.dtype), restored) == jax.tree.map(
    lambda x: (x.shape, x.dtype), saved
  )
  assert restored["w"].tolist() == [1, 1]


def test_no_save_is_skipped_and_two_are_kept(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    for step in range(1, 6):
      checkpoints.save(step, state(), {})  # while the one before is still being written
    assert checkpoints.latest() == 5
  assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "5"]


def test_state_may_be_donated_right_after_save(tmp_path):
  size = 1 << 20  # large enough that orbax is still writing when the update overwrites it
  overwrite = jax.jit(lambda x: x + 1, donate_argnums=0)
  value = jnp.zeros(size)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"x": value}, {})
    for _ in range(5):
      value = overwrite(value)
    value.block_until_ready()
    _, restored = checkpoints.restore(template({"x": value}), {})
  assert not restored["x"].any()


@pytest.mark.parametrize(
  ("manifest", "message"),
  [
    ({"max_norm": 2.0, "unit": "image"}, "max_norm=1.0, got max_norm=2.0;"),
    ({"max_norm": 1.0}, 'unit="image", got unit=nothing;'),
  ],
)
def test_another_manifest_is_refused(tmp_path, manifest, message):
  saved = state()
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, saved, {"max_norm": 1.0, "unit": "image"})
    with pytest.raises(InputError, match=message):
      checkpoints.restore(template(saved), manifest)


def test_another_tree_is_refused_by_its_leaf(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {"weight": jnp.zeros(3)}, {})
    with pytest.raises(InputError, match=r"\['weight'\]=\"float32\[3\]\", got .*float32\[4\]"):
      checkpoints.restore(template({"weight": jnp.zeros(4)}), {})


def test_nothing_to_restore_is_an_error(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(FileNotFoundError, match="got none; train first"):
      checkpoints.restore({}, {})
