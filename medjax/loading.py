"""Trained networks on disk: weights, network and preprocessing in one safetensors file.

A run directory keeps one file a network, weights/<arm>-<seed>.safetensors. Its header holds the
class and fields of the network (for those of medjax.nets) and the preprocessing, so that a file
alone is enough to predict.
"""

import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from medjax.check import InputError, existing_file, one_of, require
from medjax.data.formats.table import FORMATS
from medjax.data.grid.preprocess import Preprocessing
from medjax.inference import exported
from medjax.inference.predictor import Member
from medjax.train import weights
from medjax.types import Key, Model, Params, PyTree

FOLDER = "weights"
SUFFIX = ".safetensors"


def save_member(
  path: str | os.PathLike,
  params: Params,
  preprocess: Preprocessing,
  *,
  network: Any = None,
  model_state: PyTree | None = None,
) -> None:
  """Writes a trained network; the file appears whole or not at all.

  Args:
    path: file to write, usually RUN/weights/NAME.safetensors; its folder is made.
    params: parameters.
    preprocess: how files become its input.
    network: the Linen module, if it is of medjax.nets; None for your own, which `load_run` asks
      for.
    model_state: batch statistics, if it has any.
  """
  from medjax.nets import spec  # Flax, of which a command line that only shows its help has no need

  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  settings = {
    "network": None if network is None else spec.describe(network),
    "preprocess": preprocess.to_dict(),
  }
  tree = {"params": params, "model_state": model_state or {}}
  weights.save_weights(path, tree, settings)


def load_run(
  path: str | os.PathLike, *, model: Model | None = None, name: str | None = None
) -> tuple[Model, Params, Preprocessing]:
  """A trained network, ready for `model.apply(params, image)` on one preprocessed example.

  Args:
    path: run directory, one of its .safetensors files, or a network exported by
      `python -m medjax.export` (.zip).
    model: the model, if its class is not of medjax.nets.
    name: which network of a directory that holds several, for example "supervised-fold0-0".
  Returns:
    (model, params, preprocess); batch statistics are bound into `model.apply`.
  Raises:
    InputError: no finished network there, several and no `name`, or weights that do not fit.
  """
  paths = _paths(pathlib.Path(path), None if name is None else [name])
  require(
    len(paths) == 1,
    f"one network in {path}",
    f"{len(paths)}: {', '.join(p.stem for p in paths)}",
    "pass name=, or use load_members for all of them",
  )
  member = _load(paths[0], model)
  return _bound(member.model, member.model_state), member.params, member.preprocess


def load_members(
  path: str | os.PathLike, *, model: Model | None = None, names: Sequence[str] | None = None
) -> tuple[Member, ...]:
  """All networks of a run directory (folds, seeds), or those named; see `load_run`."""
  return tuple(_load(p, model) for p in _paths(pathlib.Path(path), names))


def _paths(path: pathlib.Path, names: Sequence[str] | None) -> list[pathlib.Path]:
  if path.name.endswith((SUFFIX, exported.SUFFIX)):
    existing_file(path)
    return [path]
  folder = path / FOLDER
  found = {p.name.removesuffix(SUFFIX): p for p in sorted(folder.glob(f"*{SUFFIX}"))}
  require(
    found,
    f"trained networks, {folder}/*{SUFFIX}",
    "none",
    "pass the run directory of a finished training",
  )
  for name in names or ():
    one_of("name", name, found)
  return [found[name] for name in names] if names is not None else list(found.values())


def _load(path: pathlib.Path, model: Model | None) -> Member:
  if path.name.endswith(exported.SUFFIX):
    return exported.load_exported(path)
  found = weights.read_weights(path)
  if "preprocess" not in found.settings:
    raise InputError(
      f"a network saved by medjax in {path}",
      "a safetensors file without its preprocessing",
      "read it with train.weights.read_weights and load_into",
    )
  preprocess = Preprocessing.from_dict(found.settings["preprocess"])
  if model is None:
    require(
      found.settings["network"],
      f"model= for {path}",
      "none, and its network is not one of medjax.nets",
      "pass the Model that was trained",
    )
    model = _model(json.dumps(found.settings["network"], sort_keys=True))
  params, model_state = jax.eval_shape(model.init, jax.random.key(0), _example(preprocess))
  template = {"params": params, "model_state": model_state}
  loaded = weights.load_into(template, found.arrays, strict=True, say=lambda text: None)
  name = path.name.removesuffix(SUFFIX)
  return Member(
    model, loaded.params["params"], preprocess, name, dict(loaded.params["model_state"])
  )


@functools.lru_cache(maxsize=8)
def _model(described: str) -> Model:
  """One model for all networks of one description: they then compile once."""
  from medjax import nets
  from medjax.nets import spec

  return nets.from_linen(spec.build(json.loads(described)))


def _example(preprocess: Preprocessing) -> Any:
  """Shape of one input."""
  is_flat = preprocess.axis is not None
  num_axes = 2 if is_flat else FORMATS[preprocess.file_ending].num_axes
  space = preprocess.patch or (32,) * num_axes
  return jax.ShapeDtypeStruct((*space, len(preprocess.channel_names)), jnp.float32)


def _bound(model: Model, saved: PyTree) -> Model:
  """The model with its batch statistics as default."""
  if not jax.tree.leaves(saved):
    return model

  def apply(
    params: Params,
    image: jax.Array,
    *,
    model_state: PyTree | None = None,
    key: Key | None = None,
    train: bool = False,
  ) -> tuple[PyTree, PyTree]:
    state = saved if model_state is None else model_state
    return model.apply(params, image, model_state=state, key=key, train=train)

  return Model(model.init, apply)
