"""Weights in safetensors: exact, readable by others, and loaded in part with a full account."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.train import weights


def tree():
  return {
    "body": {"kernel": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "scale": jnp.float32(0.5)},
    "head": [jnp.ones(3, jnp.bfloat16), jnp.zeros((0, 2), jnp.int32)],
  }


def test_every_leaf_and_the_settings_come_back(tmp_path):
  weights.save_weights(tmp_path / "a.safetensors", tree(), {"spacing": (1.0, 2.0)})
  found = weights.read_weights(tmp_path / "a.safetensors")
  assert found.settings == {"spacing": [1.0, 2.0]}
  blank = jax.tree.map(jnp.zeros_like, tree())
  said = []
  loaded = weights.load_into(blank, found.arrays, strict=True, say=said.append)
  assert said == ["matched 4: body/kernel, body/scale, head/0, head/1"]
  for a, b in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(tree()), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_the_file_follows_the_published_format(tmp_path):
  """Length of the header, little endian; JSON header with offsets; raw values."""
  weights.save_weights(tmp_path / "a.safetensors", {"x": jnp.asarray([1.5, 2.5])})
  content = (tmp_path / "a.safetensors").read_bytes()
  (length,) = struct.unpack("<Q", content[:8])
  header = json.loads(content[8 : 8 + length])
  begin, end = header["x"]["data_offsets"]
  assert header["x"]["dtype"] == "F32"
  values = np.frombuffer(content[8 + length :][begin:end], "<f4")
  assert values.tolist() == [1.5, 2.5]


def test_a_file_of_another_library_is_read(tmp_path):
  from safetensors import numpy as safetensors

  safetensors.save_file({"layer.weight": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
  found = weights.read_weights(tmp_path / "a.safetensors")
  assert found.settings == {}
  assert found.arrays["layer.weight"].tolist() == [1.0, 1.0]


def test_partial_loading_accounts_for_every_leaf():
  target = {"a": jnp.zeros(2), "b": jnp.zeros(3), "c": jnp.zeros(4)}
  loaded = weights.load_into(
    target, {"a": np.ones(2), "b": np.ones(4), "z": np.ones(1)}, say=lambda text: None
  )
  assert loaded.matched == ("a",)
  assert loaded.missing == ("c",)
  assert loaded.unused == ("z",)
  assert loaded.other_shape == {"b": ((3,), (4,))}
  assert [float(x.sum()) for x in loaded.params.values()] == [2.0, 0.0, 0.0]


@pytest.mark.parametrize("arrays", [{}, {"a": np.ones(3)}, {"a": np.ones(2), "b": np.ones(1)}])
def test_strict_loading_refuses_what_does_not_fit(arrays):
  with pytest.raises(InputError, match=r"missing 1: a|other shape 1: a|unused 1: b"):
    weights.load_into({"a": jnp.zeros(2)}, arrays, strict=True, say=lambda text: None)


def test_damaged_and_absent_files_are_named(tmp_path):
  with pytest.raises(InputError, match="nothing there"):
    weights.read_weights(tmp_path / "no.safetensors")
  (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
  with pytest.raises(InputError, match=r"bad\.safetensors"):
    weights.read_weights(tmp_path / "bad.safetensors")
