"""What PyTorch makes of EfficientNet-Lite, and a checkpoint as `torch.save` writes it.

  python tests/oracles/make_torch_values.py [efficientnet_lite0.safetensors]

needs torch, safetensors and efficientnet-lite-pytorch 0.1.0, which are not needed otherwise and may
live in an environment of their own. Writes torch_values.json beside this file: of a small network
with drawn weights the features and logits of one picture; of Lite0 with its ImageNet weights, if
the file is given, every 64th feature and the five largest logits of another; a zip of `torch.save`
in base64 with the arrays that it holds; the versions.
"""

import base64
import importlib.metadata
import io
import json
import pathlib
import sys
import zlib

import numpy as np

HERE = pathlib.Path(__file__).parent
STAGES = ((1, 3, 1, 1, 16), (2, 5, 2, 6, 24))
"""Repeats, kernel, stride, expansion and width of the small network's stages."""
NUM_CLASSES = 5


def drawn(name, shape):
  """Weights by their name alone; the variances are positive and the means are not 0."""
  random = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith("running_var"):
    return random.uniform(0.5, 2.0, shape).astype(np.float32)
  scale = 1.0 if len(shape) < 2 else (2.0 / np.prod(shape[1:])) ** 0.5
  return (scale * random.normal(size=shape) + (len(shape) < 2)).astype(np.float32)


def picture(height, width):
  """[height, width, 3] in [0, 1]."""
  y, x, c = np.meshgrid(*map(np.arange, (height, width, 3)), indexing="ij")
  return (0.5 + 0.5 * np.sin(0.3 * y + 0.2 * x * (c + 1) + c)).astype(np.float32)


def normalised(image):
  return (image - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def outputs(network, image):
  import torch

  with torch.no_grad():
    x = torch.tensor(normalised(image).transpose(2, 0, 1)[None], dtype=torch.float32)
    features = network.eval().extract_features(x).mean((2, 3))[0]
    return features.numpy(), network(x)[0].numpy()


def small():
  import torch
  from efficientnet_lite_pytorch import EfficientNet
  from efficientnet_lite_pytorch.utils import BlockArgs, GlobalParams

  widths = [32, *(stage[-1] for stage in STAGES)]
  blocks = [
    BlockArgs(n, k, [s, s], e, widths[i], w, None, True) for i, (n, k, s, e, w) in enumerate(STAGES)
  ]
  whole = GlobalParams(
    image_size=(33, 40), dropout_rate=0.2, num_classes=NUM_CLASSES, batch_norm_momentum=0.99,
    batch_norm_epsilon=1e-3, drop_connect_rate=0.2, depth_divisor=8, relu_fn="relu6",
    fix_head_stem=False, local_pooling=False, use_se=False,
  )  # fmt: skip
  network = EfficientNet(blocks, whole)
  state = {
    name: torch.tensor(drawn(name, tuple(value.shape)))
    for name, value in network.state_dict().items()
    if not name.endswith("num_batches_tracked")
  }
  network.load_state_dict(state, strict=False)
  features, logits = outputs(network, picture(33, 40))
  shapes = {name: list(value.shape) for name, value in state.items()}
  return {"shapes": shapes, "features": features[::40].tolist(), "logits": logits.tolist()}


def lite0(path):
  from efficientnet_lite_pytorch import EfficientNet
  from safetensors.torch import load_file

  network = EfficientNet.from_name("efficientnet-lite0")
  network.load_state_dict(load_file(path))
  features, logits = outputs(network, picture(64, 64))
  top = np.argsort(-logits)[:5]
  return {
    "features": features[::64].tolist(),
    "top": top.tolist(),
    "logits": logits[top].tolist(),
  }


def checkpoint():
  import torch

  base = torch.arange(12.0).reshape(3, 4)
  state = {
    "plain": base[1:],  # begins inside its storage
    "turned": base.T,  # the same storage with other strides
    "half": torch.tensor([0.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([1.5, 3.0], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "kept": torch.nn.Parameter(torch.tensor([[1.0, 2.0]])),
  }
  file = io.BytesIO()
  torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, file)
  arrays = {name: value.detach().double().numpy().tolist() for name, value in state.items()}
  return {"zip": base64.b64encode(file.getvalue()).decode(), "arrays": arrays}


def main():
  versions = {n: importlib.metadata.version(n) for n in ("torch", "efficientnet-lite-pytorch")}
  values = {"versions": versions, "small": small(), "checkpoint": checkpoint()}
  if len(sys.argv) > 1:
    values["lite0"] = lite0(sys.argv[1])
  lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(own)}" for key, own in values.items())
  (HERE / "torch_values.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
  main()
