"""PyTorch's weights in Linen networks: torch's own numbers, and an account of what does not fit."""

import base64
import functools
import json
import os
import pathlib
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from medjax import nets
from medjax.axes import BATCH_AXIS
from medjax.check import InputError
from medjax.ops.depthwise import depthwise_conv
from tests.oracles import make_torch_values as oracle

VALUES = json.loads((pathlib.Path(oracle.__file__).parent / "torch_values.json").read_text())


def network(norm="folded", num_outputs=oracle.NUM_CLASSES):
  stages = tuple(nets.LiteStage(*stage) for stage in oracle.STAGES)
  return nets.EfficientNetLite0(num_outputs, norm, stages)


def state():
  return {n: oracle.drawn(n, tuple(shape)) for n, shape in VALUES["small"]["shapes"].items()}


def saved(tmp_path, arrays):
  save_file(arrays, tmp_path / "network.safetensors")
  return tmp_path / "network.safetensors"


@functools.cache
def program(norm):
  module = network(norm, num_outputs=0)
  return jax.jit(lambda p, s, image: module.apply({"params": p, **s}, image))


@pytest.mark.parametrize("norm", ["folded", "batch"])
def test_features_and_logits_are_those_of_torch(tmp_path, norm):
  path = saved(tmp_path, state())
  params, kept, report = nets.import_torch(path, network(norm))
  assert not any(report)
  assert (kept == {}) == (norm == "folded")
  head = params.pop("head")
  image = nets.imagenet_normalised(jnp.asarray(oracle.picture(33, 40)))
  features = np.asarray(program(norm)(params, kept, image))
  np.testing.assert_allclose(features[::40], VALUES["small"]["features"], rtol=2e-4, atol=2e-5)
  logits = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
  np.testing.assert_allclose(logits, VALUES["small"]["logits"], rtol=2e-4, atol=2e-4)


def test_every_array_is_accounted_for_by_name(tmp_path):
  arrays = state()
  arrays["_blocks.9.weight"] = np.zeros(3, np.float32)
  arrays["_bn0.num_batches_tracked"] = np.zeros((), np.int64)
  arrays["_fc.weight"] = arrays["_fc.weight"][:, :7].copy()
  arrays["_conv_head.weight"] = np.full_like(arrays["_conv_head.weight"], np.nan)
  del arrays["_blocks.1._project_conv.weight"]
  with pytest.raises(InputError) as error:
    nets.import_torch(saved(tmp_path, arrays), network("batch"))
  told = str(error.value)
  assert "missing 1: _blocks.1._project_conv.weight" in told
  assert "unused 1: _blocks.9.weight" in told
  assert "_fc.weight (7, 5) for head/kernel (1280, 5)" in told
  assert "broken 1: _conv_head.weight" in told
  with pytest.raises(InputError, match=r"missing 15: .* and 5 more"):
    small = {k: v for k, v in state().items() if not k.startswith("_blocks.1")}
    nets.import_torch(saved(tmp_path, small), network("batch"))


def test_a_network_whose_names_are_the_same_needs_no_map(tmp_path):
  class Packed(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3, name="query")(x) + nn.Embed(4, 3, name="table")(jnp.zeros((), int))

  random = np.random.default_rng(0)
  packed, table = (random.normal(size=s).astype(np.float32) for s in ((6, 2), (4, 3)))
  bias = packed[3:, 0].copy()  # safetensors writes the memory, whatever the strides
  path = saved(tmp_path, {"qk.weight": packed, "query.bias": bias, "table.weight": table})
  names = nets.TorchNames(
    {"query/kernel": "qk.weight"}, layouts={"query/kernel": lambda w: w[:3].T}
  )
  params, state, _ = nets.import_torch(path, Packed(), jnp.zeros(2), names=names)
  assert state == {}
  np.testing.assert_array_equal(params["query"]["kernel"], packed[:3].T)
  np.testing.assert_array_equal(params["table"]["embedding"], table)
  save_file({"query.bias": bias, "head.weight": table}, path)
  params, _, report = nets.import_torch(path, Packed(), jnp.zeros(2), names=names, strict=False)
  assert report.missing == ("qk.weight", "table.weight") and report.unused == ("head.weight",)
  np.testing.assert_array_equal(params["query"]["bias"], bias)
  assert params["query"]["kernel"].any() and params["table"]["embedding"].any()
  with pytest.raises(InputError, match="torch_names"):
    nets.import_torch(path, Packed(), jnp.zeros(2))


def test_a_zip_of_torch_holds_what_torch_saved(tmp_path):
  path = tmp_path / "state.pth"
  path.write_bytes(base64.b64decode(VALUES["checkpoint"]["zip"]))
  found = nets.read_torch(path)
  assert set(found) == set(VALUES["checkpoint"]["arrays"])
  for name, value in VALUES["checkpoint"]["arrays"].items():
    np.testing.assert_array_equal(np.asarray(found[name], np.float64), value)


class Harm:
  def __reduce__(self):
    return os.mkdir, ("harmed",)


@pytest.mark.parametrize("content", [Harm(), {"epoch": 3}, [1, 2]])
def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(tmp_path, monkeypatch, content):
  monkeypatch.chdir(tmp_path)
  with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
    archive.writestr("bad/data.pkl", pickle.dumps(content))
  with pytest.raises(InputError, match="state_dict"):
    nets.read_torch(tmp_path / "bad.pth")
  assert not (tmp_path / "harmed").exists()
  (tmp_path / "text.pth").write_text("no weights")
  with pytest.raises(InputError, match="safetensors"):
    nets.read_torch(tmp_path / "text.pth")


def tensor_pickle(offset, size, stride):
  """What torch pickles of {"w": tensor} over a storage of four numbers, opcode by opcode."""

  def text(own):
    return b"X" + struct.pack("<i", len(own)) + own.encode()

  def numbers(*own):
    return b"".join(b"J" + struct.pack("<i", n) for n in own)

  storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
  storage += numbers(4) + b"tQ"
  shape = b"(" + numbers(*size) + b"t(" + numbers(*stride) + b"t"
  made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers(offset) + shape + b"\x89}tR"
  return b"\x80\x02}" + text("w") + made + b"s."


@pytest.mark.parametrize(
  "offset, size, stride, wanted",
  [
    (1, (3,), (1,), [1, 2, 3]),
    (0, (2, 2), (1, 2), [[0, 2], [1, 3]]),
    (2, (3,), (1,), None),
    (0, (2, 2), (3, 1), None),
    (3, (2,), (-1,), None),
  ],
)
def test_a_tensor_lies_within_its_storage(tmp_path, offset, size, stride, wanted):
  """A view that reaches beyond would read what else stands in memory."""
  path = tmp_path / "view.pth"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("view/data.pkl", tensor_pickle(offset, size, stride))
    archive.writestr("view/data/0", np.arange(4, dtype=np.float32).tobytes())
  if wanted is None:
    with pytest.raises(InputError, match="beyond its storage"):
      nets.read_torch(path)
  else:
    np.testing.assert_array_equal(nets.read_torch(path)["w"], wanted)


def test_batch_norm_couples_examples_only_where_it_trains():
  module = network("batch")
  shape = jnp.zeros((8, 8, 3))
  params, kept = jax.eval_shape(nets.from_linen(module).init, jax.random.key(0), shape)
  run = functools.partial(nets.from_linen(module).apply, train=True)
  with pytest.raises(InputError, match="folded"):
    jax.eval_shape(lambda p, s, x: run(p, x, model_state=s), params, kept, shape)
  batch = jax.vmap(lambda p, s, x: run(p, x, model_state=s), (None, None, 0), axis_name=BATCH_AXIS)
  logits, _ = jax.eval_shape(batch, params, kept, jnp.zeros((4, 8, 8, 3)))
  assert logits.shape == (4, oracle.NUM_CLASSES)


@pytest.mark.parametrize(("side", "size", "stride"), [(7, 3, 2), (8, 5, 2), (6, 5, 1), (3, 5, 2)])
def test_depthwise_convolution_is_that_of_lax(side, size, stride):
  random = np.random.default_rng(side)
  x = random.normal(size=(2, side, side + 1, 3)).astype(np.float32)
  w = random.normal(size=(size, size, 1, 3)).astype(np.float32)
  numbers = ("NHWC", "HWIO", "NHWC")
  expected = jax.lax.conv_general_dilated(
    x, w, (stride, stride), "SAME", dimension_numbers=numbers, feature_group_count=3
  )
  found = jax.jit(lambda x, w: depthwise_conv(x, w, (stride, stride), "SAME"))(x, w)
  np.testing.assert_allclose(found, expected, atol=1e-5)


def real_weights():
  default = pathlib.Path(__file__).resolve().parents[3] / "shared" / "weights"
  data = os.environ.get("MEDJAX_DATA")
  folder = pathlib.Path(data).parent / "weights" if data else default
  path = folder / "efficientnet_lite0.safetensors"
  if not path.exists():
    pytest.skip("ImageNet weights absent: put them into weights/ beside the folder MEDJAX_DATA")
  return path


def test_imagenet_features_are_those_of_torch_and_are_computed_once(tmp_path, monkeypatch):
  path = real_weights()
  image = oracle.picture(64, 64)
  found = nets.imagenet_features(image[None], path, folder=tmp_path, chunk=1)
  np.testing.assert_allclose(found[0, ::64], VALUES["lite0"]["features"], rtol=2e-3, atol=2e-4)
  with monkeypatch.context() as patch:
    patch.setattr(
      "medjax.nets.frozen_features._compute", lambda *args: 1 / 0
    )  # a second computation would fail
    again = nets.imagenet_features(image[None], path, folder=tmp_path, chunk=1)
  np.testing.assert_array_equal(again, found)
  assert len(list(tmp_path.iterdir())) == 1
  head = nets.read_torch(path)
  logits = head["_fc.weight"] @ found[0] + head["_fc.bias"]
  assert np.argsort(-logits)[:5].tolist() == VALUES["lite0"]["top"]
  np.testing.assert_allclose(np.sort(logits)[-5:][::-1], VALUES["lite0"]["logits"], rtol=2e-3)


@pytest.mark.parametrize("images", [np.full((1, 8, 8, 3), 255.0), np.full((1, 8, 8, 1), np.nan)])
def test_features_of_other_ranges_are_refused(images):
  with pytest.raises(InputError, match=r"\[0, 1\]"):
    nets.imagenet_features(images, "absent.safetensors")
