"""Features of a network that stays as it is, computed once and kept on disk by their content."""

import functools
import hashlib
import os
import pathlib
from typing import Any

import jax
import numpy as np

from medjax import check, files
from medjax.nets.efficientnet import EfficientNetLite0, imagenet_normalised
from medjax.nets.features import features as layer_of
from medjax.nets.import_torch import import_torch

_VERSION = 1  # of what is computed; a change of it passes over what older versions kept


def imagenet_features(
  images: np.ndarray,
  weights: str | os.PathLike,
  *,
  size: int | None = None,
  layer: str = "",
  folder: str | os.PathLike | None = None,
  chunk: int = 16,
) -> np.ndarray:
  """Features [n, 1280] of an EfficientNet-Lite0 that ImageNet trained and nothing trains on, or the
  maps of one of its layers.

  Args:
    images: [n, height, width, 1 or 3] in [0, 1].
    weights: file of efficientnet-lite-pytorch's Lite0, safetensors or a zip of `torch.save`.
    size: side to which pictures are scaled first (linearly, with antialiasing), such as 160 for
      patches of 64; None takes them as they are.
    layer: name of a layer whose map is wanted in place of the features, such as "block10" (112
      channels at a sixteenth of the size); "" averages the last one.
    folder: where features are kept, such as a cache folder of your own: the name of a file is the
      digest of the weights, the pictures and the settings, so other pictures never find them. They
      say about a picture nearly what the picture says, so keep the folder where pictures may be
      kept. None keeps nothing.
    chunk: pictures at a time; changes no number beyond rounding.
  Returns:
    [n, 1280] float32, not negative; with `layer` [n, height, width, channel].
  Raises:
    InputError: other shapes, values outside [0, 1], or weights of another network.
  """
  images = np.asarray(images, np.float32)
  check.require(
    images.ndim == 4 and images.shape[-1] in (1, 3) and len(images),
    "images [n, height, width, 1 or 3]",
    f"{images.shape}",
    "stack pictures of one size",
  )
  low, high = float(images.min()), float(images.max())
  check.require(
    low >= -1e-3 and high <= 1 + 1e-3,  # NaN fails both
    "values in [0, 1]",
    f"[{low:.4g}, {high:.4g}]",
    "divide 8-bit pictures by 255, and do not normalise before",
  )
  check.positive("chunk", chunk)
  compute = functools.partial(_compute, images, weights, size, layer, chunk)
  if folder is None:
    return compute()
  settings = f"lite0 {_VERSION} {size} {images.shape}" + (f" {layer}" if layer else "")
  digest = hashlib.sha256(settings.encode())
  digest.update(hashlib.sha256(check.existing_file(weights).read_bytes()).digest())
  digest.update(np.ascontiguousarray(images).data)
  path = pathlib.Path(folder) / f"{digest.hexdigest()[:32]}.npy"
  if path.is_file():
    return np.load(path, allow_pickle=False)
  found = compute()
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path, suffix=".npy") as temporary:
    np.save(temporary, found)
  return found


def _compute(
  images: np.ndarray, weights: str | os.PathLike, size: int | None, layer: str, chunk: int
) -> np.ndarray:
  path = pathlib.Path(weights).resolve()
  params = _params(path, path.stat().st_mtime_ns if path.is_file() else 0)
  run: Any = _features
  found = []
  for start in range(0, len(images), chunk):
    part = images[start : start + chunk]
    padded = np.concatenate([part, np.zeros((chunk - len(part), *part.shape[1:]), np.float32)])
    found.append(np.asarray(run(params, padded, size, layer))[: len(part)])
  return np.concatenate(found)


@functools.lru_cache(maxsize=1)
def _params(path: pathlib.Path, changed: int) -> Any:
  del changed  # a file that was replaced is read again
  return import_torch(path, EfficientNetLite0(num_outputs=0))[0]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _features(params: Any, images: jax.Array, size: int | None, layer: str) -> jax.Array:
  module = EfficientNetLite0(num_outputs=0)
  run = layer_of(module, layer) if layer else lambda p, image: module.apply({"params": p}, image)

  def one(image: jax.Array) -> jax.Array:
    if size is not None:
      image = jax.image.resize(image, (size, size, image.shape[-1]), "linear")
    found: Any = run(params, imagenet_normalised(image))
    return found

  return jax.vmap(one)(images)
