"""Parameters as safetensors files, whole or in part. Owns safetensors.

A leaf is stored under its path in the tree, "encoder0/conv0/kernel"; settings travel as JSON in the
file's header.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import files
from medjax.check import InputError, existing_file
from medjax.tree import named_leaves
from medjax.types import Json, PyTree

_HEADER = "medjax"


class Weights(NamedTuple):
  """What a file holds: arrays by leaf path, and the settings saved with them ({} for others')."""

  arrays: dict[str, np.ndarray]
  settings: dict[str, Json]


class Loaded(NamedTuple):
  """What `load_into` did; leaf paths, sorted.

  Attributes:
    params: the tree with the matched leaves replaced.
    matched: leaves found with the right shape.
    missing: leaves that the file lacks; they kept their values.
    unused: arrays of the file that no leaf has the name of.
    other_shape: leaves whose array has another shape, with both; they kept their values.
  """

  params: PyTree
  matched: tuple[str, ...]
  missing: tuple[str, ...]
  unused: tuple[str, ...]
  other_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

  def __str__(self) -> str:
    shapes = [
      f"{name} {ours} here, {theirs} there" for name, (ours, theirs) in self.other_shape.items()
    ]
    parts = [("matched", self.matched), ("missing", self.missing), ("unused", self.unused)]
    lines = [_line(title, names) for title, names in [*parts, ("other shape", shapes)] if names]
    return "\n".join(lines)


def save_weights(
  path: str | os.PathLike, params: PyTree, settings: Mapping[str, Json] | None = None
) -> None:
  """Writes a tree of arrays and JSON-able settings; the file appears whole or not at all."""
  from safetensors import numpy as safetensors

  arrays = {name: np.asarray(x, order="C") for name, x in named_leaves(params).items()}
  header = {_HEADER: json.dumps(files.plain(settings or {}), sort_keys=True)}
  files.write_bytes(path, safetensors.save(arrays, header))


def read_weights(path: str | os.PathLike) -> Weights:
  """Reads any safetensors file.

  Raises:
    InputError: no such file, or not a safetensors file.
  """
  import safetensors

  path = existing_file(path)
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      header = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return Weights(arrays, json.loads(header.get(_HEADER, "{}")))
  except (safetensors.SafetensorError, ValueError) as error:
    raise InputError(
      f"a safetensors file {path}", f"a damaged one ({error})", "copy it again"
    ) from error


def load_into(
  params: PyTree,
  arrays: Mapping[str, Json],
  *,
  rename: Callable[[str], str] | None = None,
  strict: bool = False,
  say: Callable[[str], Any] = print,
) -> Loaded:
  """Replaces the leaves of `params` that `arrays` has by name and shape.

  >>> params = {"head": {"kernel": jnp.zeros((2, 3))}, "body": {"kernel": jnp.zeros((2, 2))}}
  >>> found = {"old/kernel": np.ones((2, 2)), "head/kernel": np.ones((2, 5))}
  >>> loaded = load_into(params, found, rename=lambda name: name.replace("old", "body"))
  matched 1: body/kernel
  other shape 1: head/kernel (2, 3) here, (2, 5) there
  >>> float(loaded.params["body"]["kernel"].sum()), float(loaded.params["head"]["kernel"].sum())
  (4.0, 0.0)

  Args:
    params: initial parameters, arrays or `jax.ShapeDtypeStruct` (then nothing may be missing).
    arrays: leaf path -> array, as `read_weights(path).arrays` gives it.
    rename: name in `arrays` -> leaf path.
    strict: refuse unless every leaf and every array found its partner.
    say: gets the summary; `lambda text: None` for silence.
  Returns:
    Loaded; new leaves have the dtype of those that they replace.
  Raises:
    InputError: `strict` and something is missing, unused or of another shape.
  """
  found = {name if rename is None else rename(name): array for name, array in arrays.items()}
  own = named_leaves(params)
  shapes = {k: (tuple(own[k].shape), tuple(np.shape(found[k]))) for k in own if k in found}
  other = {name: pair for name, pair in sorted(shapes.items()) if pair[0] != pair[1]}
  matched = tuple(sorted(set(shapes) - set(other)))
  loaded = Loaded(
    params=jax.tree.unflatten(
      jax.tree.structure(params),
      [jnp.asarray(found[k], x.dtype) if k in matched else x for k, x in own.items()],
    ),
    matched=matched,
    missing=tuple(sorted(set(own) - set(found))),
    unused=tuple(sorted(set(found) - set(own))),
    other_shape=other,
  )
  is_whole = not (loaded.missing or loaded.unused or loaded.other_shape)
  if strict and not is_whole:
    raise InputError(
      "weights that fit the network leaf by leaf",
      str(loaded).replace("\n", "; "),
      "load them into the network they were saved from",
    )
  say(str(loaded))
  return loaded


def _line(title: str, names: Iterable[str]) -> str:
  names = list(names)
  more = f" and {len(names) - 6} more" if len(names) > 6 else ""
  return f"{title} {len(names)}: " + ", ".join(names[:6]) + more
