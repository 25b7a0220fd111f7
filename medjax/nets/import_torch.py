"""Weights that PyTorch trained, in a Linen network: a map of names and a strict account of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from medjax import check
from medjax.nets.torch_files import read_torch
from medjax.tree import named_leaves
from medjax.types import Params, PyTree

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "embedding": "weight",
  "mean": "running_mean",
  "var": "running_var",
}
_COLLECTIONS = ("params", "batch_stats")
_SHOWN = 10


class TorchNames(NamedTuple):
  """How PyTorch calls the parts of a network.

  Attributes:
    modules: path of a Linen module ("block0/expand") -> name in PyTorch ("blocks.0.expand"). The
      path of a leaf ("encoder/position") may stand here too, with the full name of its array. A
      module that is not here has its own path with dots.
    folds: name in PyTorch of a convolution or linear layer -> name of the BatchNorm behind it,
      to be multiplied into the layer.
    epsilon: epsilon of the BatchNorms that are folded.
    layouts: path of a Linen leaf -> function that brings PyTorch's array to the shape of the leaf,
      where the usual rules do not (a packed projection, a transposed convolution).
    passed_over: beginnings of names that the network has no use for, such as another head.
  """

  modules: Mapping[str, str]
  folds: Mapping[str, str] = {}
  epsilon: float = 1e-5
  layouts: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}
  passed_over: Sequence[str] = ()


def import_torch(
  path: str | os.PathLike, network: linen.Module, *inputs: Any, names: TorchNames | None = None
) -> tuple[Params, PyTree]:
  """Parameters and batch statistics of a Linen network from a PyTorch checkpoint; torch is not
  needed.

  Kernels change their layout: convolutions from [out, in, *space] to [*space, in, out], linear
  layers are transposed. `num_batches_tracked` is passed over. Every other array must find its place
  and every leaf its array.

  Args:
    path: safetensors or a zip of `torch.save`, see `read_torch`.
    network: the Linen module.
    inputs: what its `__call__` takes, arrays or `jax.ShapeDtypeStruct`; nothing is computed.
    names: PyTorch's names; None asks the network, `network.torch_names()`.
  Returns:
    (params, model_state), float32 as the network has them, for `nets.from_linen(network).apply`;
    `model_state` is {} without batch statistics.
  Raises:
    InputError: arrays that are missing, not used, of another shape or not finite, the first ten of
      each by name; or a file that cannot be read.
  """
  if names is None:
    names = check.given(
      getattr(network, "torch_names", None),
      "names=, a TorchNames",
      f"pass it: {type(network).__name__} has no torch_names()",
    )()
  key = jax.random.key(0)
  shapes = dict(jax.eval_shape(network.init, {"params": key, "dropout": key}, *inputs))
  found = _folded(read_torch(path), names)
  wanted = {
    f"{collection}/{leaf}": (leaf, shape)
    for collection in _COLLECTIONS
    for leaf, shape in named_leaves(shapes.get(collection, {})).items()
  }
  keys = {place: _torch_name(leaf, names) for place, (leaf, _) in wanted.items()}
  missing = [key for key in keys.values() if key not in found]
  arrays, other = {}, []
  for place, (leaf, shape) in wanted.items():
    if keys[place] in found:
      arrays[place] = _laid_out(found[keys[place]], leaf, names)
      if arrays[place].shape != shape.shape:
        other.append(f"{keys[place]} {arrays[place].shape} for {leaf} {shape.shape}")
  over = tuple(names.passed_over)
  unused = [
    key
    for key in found
    if key not in set(keys.values())
    and not key.endswith("num_batches_tracked")
    and not (over and key.startswith(over))
  ]
  broken = [keys[place] for place, array in arrays.items() if not np.isfinite(array).all()]
  account = [("missing", missing), ("unused", unused), ("other shape", other)]
  account += [("not finite", broken)]
  check.require(
    not any(entries for _, entries in account),
    f"a checkpoint of {type(network).__name__} array by array",
    "; ".join(_line(title, entries) for title, entries in account if entries),
    "pass the network that it was saved from, or the names of its layers",
  )
  trees = {
    collection: jax.tree.unflatten(
      jax.tree.structure(shapes.get(collection, {})),
      [
        jnp.asarray(arrays[f"{collection}/{leaf}"].astype(np.float32), shape.dtype)
        for leaf, shape in named_leaves(shapes.get(collection, {})).items()
      ],
    )
    for collection in _COLLECTIONS
  }
  state = {"batch_stats": trees["batch_stats"]} if trees["batch_stats"] else {}
  return trees["params"], state


def _torch_name(leaf: str, names: TorchNames) -> str:
  if leaf in names.modules:
    return names.modules[leaf]
  module, _, last = leaf.rpartition("/")
  prefix = names.modules.get(module, module.replace("/", "."))
  last = _LEAVES.get(last, last)
  return f"{prefix}.{last}" if prefix else last


def _laid_out(array: np.ndarray, leaf: str, names: TorchNames) -> np.ndarray:
  if leaf in names.layouts:
    return names.layouts[leaf](array)
  if leaf.rpartition("/")[2] == "kernel" and array.ndim > 1:
    return array.transpose(*range(2, array.ndim), 1, 0)  # [out, in, *space] -> [*space, in, out]
  return array


def _folded(found: dict[str, np.ndarray], names: TorchNames) -> dict[str, np.ndarray]:
  """Arrays in which BatchNorms are part of the layers before them.

  In evaluation a BatchNorm is the line s (y - mean) + b with s = scale / sqrt(var + epsilon), so
  that behind a layer y = W x + c it is the layer (s W) x + s (c - mean) + b. In float64, where a
  small variance costs no digits.
  """
  found = dict(found)
  for layer, norm in names.folds.items():
    own = [f"{norm}.{last}" for last in ("weight", "bias", "running_mean", "running_var")]
    if f"{layer}.weight" not in found or not all(name in found for name in own):
      continue  # the account names the bias of the layer as missing
    scale, bias, mean, var = (found.pop(name).astype(np.float64) for name in own)
    weight = found[f"{layer}.weight"].astype(np.float64)
    s = scale / np.sqrt(var + names.epsilon)
    found[f"{layer}.weight"] = weight * s.reshape(-1, *[1] * (weight.ndim - 1))
    found[f"{layer}.bias"] = s * (found.get(f"{layer}.bias", 0.0) - mean) + bias
  return found


def _line(title: str, entries: Sequence[str]) -> str:
  more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
  return f"{title} {len(entries)}: " + ", ".join(entries[:_SHOWN]) + more
