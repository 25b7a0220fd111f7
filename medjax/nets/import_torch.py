"""Weights that PyTorch trained, in a Linen network: a map of names and a strict account of them."""

import functools
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
    inputs: shapes of what the network's `__call__` takes, for `import_torch` without inputs.
  """

  modules: Mapping[str, str]
  folds: Mapping[str, str] = {}
  epsilon: float = 1e-5
  layouts: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {}
  passed_over: Sequence[str] = ()
  inputs: tuple[jax.ShapeDtypeStruct, ...] = ()


class ImportReport(NamedTuple):
  """What did not fit, by PyTorch's names; all are empty after a strict import.

  Attributes:
    missing: arrays that the network needs and the file lacks.
    unused: arrays of the file that no part of the network has the name of.
    misshaped: arrays of another shape, each with both shapes.
    broken: arrays with NaN or an infinity.
  """

  missing: tuple[str, ...]
  unused: tuple[str, ...]
  misshaped: tuple[str, ...]
  broken: tuple[str, ...]

  def __str__(self) -> str:
    return "; ".join(_line(title, own) for title, own in self._asdict().items() if own)


def import_torch(
  path: str | os.PathLike,
  network: linen.Module,
  *inputs: Any,
  names: TorchNames | None = None,
  strict: bool = True,
) -> tuple[Params, PyTree, ImportReport]:
  """Parameters and batch statistics of a Linen network from a PyTorch checkpoint; torch is not
  needed.

  Kernels change their layout: convolutions from [out, in, *space] to [*space, in, out], linear
  layers are transposed. `num_batches_tracked` is passed over. Every other array must find its place
  and every leaf its array.

  Args:
    path: safetensors or a zip of `torch.save`, see `read_torch`.
    network: the Linen module.
    inputs: what its `__call__` takes, arrays or `jax.ShapeDtypeStruct`; nothing is computed. None
      are needed where the names say them.
    names: PyTorch's names; None asks the network, `network.torch_names()`.
    strict: refuse what does not fit. False leaves out arrays that are not used, and draws what is
      missing or of another shape (a new head) as the network draws it, from key 0.
  Returns:
    (params, model_state, report), the first two for `nets.from_linen(network).apply`; `model_state`
    is {} without batch statistics.
  Raises:
    InputError: `strict` and arrays that are missing, not used or of another shape, the first ten of
      each by name; in any case arrays that are not finite, or a file that cannot be read.
  """
  if names is None:
    names = check.given(
      getattr(network, "torch_names", None),
      "names=, a TorchNames",
      f"pass it: {type(network).__name__} has no torch_names()",
    )()
  inputs = inputs or names.inputs
  key = jax.random.key(0)
  start = functools.partial(network.init, {"params": key, "dropout": key})
  shapes = dict(jax.eval_shape(start, *inputs))
  wanted = {
    f"{collection}/{leaf}": (leaf, shape)
    for collection in _COLLECTIONS
    for leaf, shape in named_leaves(shapes.get(collection, {})).items()
  }
  found = _folded(read_torch(path), names)
  arrays, report = _matched(found, wanted, names)
  is_whole = not (report.missing or report.unused or report.misshaped)
  check.require(
    (is_whole or not strict) and not report.broken,
    f"a checkpoint of {type(network).__name__} array by array",
    str(report),
    "pass the network that it was saved from, or the names of its layers",
  )
  drawn = {}
  if len(arrays) < len(wanted):
    blank = [jnp.zeros(x.shape, x.dtype) for x in jax.tree.leaves(inputs)]
    fresh = jax.jit(start)(*jax.tree.unflatten(jax.tree.structure(inputs), blank))
    drawn = {f"{c}/{leaf}": x for c in fresh for leaf, x in named_leaves(fresh[c]).items()}
  trees = {
    collection: jax.tree.unflatten(
      jax.tree.structure(shapes[collection]),
      [
        jnp.asarray(arrays.get(place, drawn.get(place)), shape.dtype)
        for place, (_, shape) in wanted.items()
        if place.startswith(f"{collection}/")
      ],
    )
    for collection in _COLLECTIONS
    if collection in shapes
  }
  params = trees.pop("params")
  return params, trees, report


def _matched(
  found: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[str, Any]], names: TorchNames
) -> tuple[dict[str, np.ndarray], ImportReport]:
  """Arrays in the layouts of their places, and what did not fit."""
  keys = {place: _torch_name(leaf, names) for place, (leaf, _) in wanted.items()}
  arrays, misshaped = {}, []
  for place, (leaf, shape) in wanted.items():
    if keys[place] in found:
      array = _laid_out(found[keys[place]], leaf, names)
      if array.shape == shape.shape:
        arrays[place] = array
      else:
        misshaped.append(f"{keys[place]} {array.shape} for {leaf} {shape.shape}")
  used, over = set(keys.values()), tuple(names.passed_over)
  unused = [key for key in found if key not in used and not key.endswith("num_batches_tracked")]
  return arrays, ImportReport(
    missing=tuple(dict.fromkeys(key for key in keys.values() if key not in found)),
    unused=tuple(key for key in unused if not (over and key.startswith(over))),
    misshaped=tuple(misshaped),
    broken=tuple(
      keys[place] for place, x in arrays.items() if not np.isfinite(x.astype(np.float64)).all()
    ),
  )


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
