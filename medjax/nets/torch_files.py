"""Checkpoints of PyTorch as NumPy arrays: safetensors, or a zip that `torch.save` wrote.

torch is not needed, and no code of the file runs: a pickle may name only the few things that
rebuild tensors, and anything else in it is refused before it is called.
"""

import collections
import math
import os
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from medjax.check import InputError, existing_file, require

_DTYPES = {
  "FloatStorage": np.float32,
  "DoubleStorage": np.float64,
  "HalfStorage": np.float16,
  "BFloat16Storage": jnp.bfloat16,
  "LongStorage": np.int64,
  "IntStorage": np.int32,
  "ShortStorage": np.int16,
  "CharStorage": np.int8,
  "ByteStorage": np.uint8,
  "BoolStorage": np.bool_,
}
_ENTRIES = ("state_dict", "model_state_dict", "model")
"""Where a checkpoint that holds more than weights keeps them, by custom."""


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays of a PyTorch checkpoint by their names, in PyTorch's layouts.

  Args:
    path: a safetensors file, or what `torch.save` wrote since version 1.6: a mapping of names to
      tensors, by itself or under "state_dict", "model_state_dict" or "model". "module." before all
      names, which `DataParallel` puts there, is taken off.
  Raises:
    InputError: no such file, a damaged one, a pickle that asks for more than tensors (such as a
      whole network instead of its `state_dict()`), or one without weights.
  """
  path = existing_file(path)
  found = _zip(path) if zipfile.is_zipfile(path) else _safetensors(path)
  names = list(found)
  if names and all(name.startswith("module.") for name in names):
    return {name.removeprefix("module."): found[name] for name in names}
  return found


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  import safetensors

  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      return {name: file.get_tensor(name) for name in sorted(file.keys())}
  except (safetensors.SafetensorError, ValueError, TypeError) as error:
    raise InputError(
      f"safetensors or a zip of torch.save in {path}",
      f"neither ({error})",
      "copy it again, or save it by torch 1.6 or later",
    ) from error


def _zip(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with zipfile.ZipFile(path) as archive:
      pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
      require(len(pickles) == 1, f"one data.pkl in {path}", f"{len(pickles)}", "check the file")
      root = pickles[0].removesuffix("data.pkl")
      if f"{root}byteorder" in archive.namelist():
        order = archive.read(f"{root}byteorder").decode()
        require(order == sys.byteorder, f"{sys.byteorder} byte order", order, "save it here again")
      with archive.open(pickles[0]) as file:
        content = _TensorsOnly(file, archive, root).load()
  except InputError:
    raise
  except Exception as error:  # a damaged pickle raises nearly anything
    raise InputError(
      f"tensors alone in {path}", f"{type(error).__name__}: {error}", "save model.state_dict()"
    ) from error
  return _weights(content, path)


def _weights(content: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
  """The mapping of names to arrays in what a file holds."""
  if isinstance(content, Mapping):
    for entry in _ENTRIES:
      if isinstance(content.get(entry), Mapping):
        content = content[entry]
        break
    if content and all(isinstance(value, np.ndarray) for value in content.values()):
      return {str(name): value for name, value in content.items()}
  got = f"keys {[str(k) for k in content][:10]}" if isinstance(content, Mapping) else "no mapping"
  raise InputError(f"names with tensors in {path}", got, "save model.state_dict() alone")


class _TensorsOnly(pickle.Unpickler):
  """Rebuilds tensors as arrays from the storages of an archive, and nothing else."""

  def __init__(self, file: Any, archive: zipfile.ZipFile, root: str):
    super().__init__(file)
    self.archive, self.root = archive, root

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return _tensor
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return lambda array, requires_grad, hooks: array
    if module == "torch" and name in _DTYPES:
      return np.dtype(_DTYPES[name])
    raise pickle.UnpicklingError(f"it asks for {module}.{name}")

  def persistent_load(self, pid: Any) -> np.ndarray:
    kind, dtype, key, _, number = pid  # "storage", type, file of the archive, device, numbers
    if kind != "storage" or not isinstance(dtype, np.dtype):
      raise pickle.UnpicklingError(f"it asks for {kind}")
    storage = np.frombuffer(self.archive.read(f"{self.root}data/{key}"), dtype)
    if len(storage) < number:
      raise pickle.UnpicklingError(f"storage {key} is cut off")
    return storage


def _tensor(
  storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any
) -> np.ndarray:
  """A copy of the part of a storage that a tensor shows, which must lie within it."""
  del rest
  last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
  if min((offset, *size, *stride), default=0) < 0 or (math.prod(size) and last >= len(storage)):
    raise pickle.UnpicklingError("a tensor reaches beyond its storage")
  steps = [step * storage.itemsize for step in stride]
  return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
