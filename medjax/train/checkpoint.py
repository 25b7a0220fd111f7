"""Checkpoints of a run: atomic, written in the background, exact. Owns orbax."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from medjax import files
from medjax.check import InputError
from medjax.tree import types_and_shapes
from medjax.types import Json, PyTree


class Checkpoints:
  """The checkpoints of one run in `directory`; keeps the newest `keep`.

  Guarantees: a checkpoint is there whole or not at all, also after `kill -9`; arrays of every
  dtype, typed PRNG keys and optimiser states come back bit for bit; the state handed to `save` may
  be donated or deleted as soon as `save` returns.
  """

  def __init__(self, directory: str | os.PathLike, *, keep: int = 2):
    from orbax.checkpoint import v1 as ocp

    self._path = pathlib.Path(directory).absolute()
    self._path.mkdir(parents=True, exist_ok=True)
    policy: Any = ocp.training.preservation_policies.LatestN(keep)
    self._checkpointer = ocp.training.Checkpointer(
      str(self._path),
      preservation_policy=policy,
      cleanup_tmp_directories=True,
    )

  def latest(self) -> int | None:
    """Step of the newest complete checkpoint, None if there is none."""
    self._checkpointer.wait()
    newest = self._checkpointer.latest
    return None if newest is None else int(newest.step)

  def stamp(self) -> str:
    """What was stamped on the newest complete checkpoint, "" if there is none."""
    step = self.latest()
    if step is None:
      return ""
    record: Any = self._checkpointer.metadata(step).custom_metadata or {}
    return record.get("stamp", "")

  def save(
    self, step: int, state: PyTree, manifest: Mapping[str, Json], *, stamp: str = ""
  ) -> None:
    """Starts to write `state` as the checkpoint of `step`; returns before it is on the disk.

    Waits for the write before this one: orbax would skip the new one without a word.

    Args:
      step: number of steps done, above that of every checkpoint here.
      state: a pytree of arrays.
      manifest: what must be equal when the run goes on; anything `files.plain` accepts.
      stamp: text for whoever goes on.
    Raises:
      RuntimeError: orbax did not accept the checkpoint.
    """
    self._checkpointer.wait()
    state = jax.tree.map(_detached, state)
    record: Any = {"manifest": files.plain(manifest), "tree": types_and_shapes(state)}
    record["stamp"] = stamp
    state = jax.tree.map(lambda x: x if x.size else jnp.zeros(1, jnp.int8), state)
    if self._checkpointer.save_async(step, state, force=True, custom_metadata=record) is None:
      raise RuntimeError(f"expected orbax to save step {step} in {self._path}, got a skipped save")

  def restore(
    self, template: PyTree, manifest: Mapping[str, Json], *, allow_change: bool = False
  ) -> tuple[int, PyTree]:
    """The newest checkpoint.

    Args:
      template: a pytree of jax.ShapeDtypeStruct, with the shardings to restore to.
      manifest: the manifest of this run, compared with the saved one. Its "update", a digest of
        the update's program, is compared where both were made with one version of JAX on one kind
        of device.
      allow_change: do not compare "update".
    Returns:
      Its step and its state, arrays placed as the template says.
    Raises:
      InputError: the manifests differ, the update is another, or the tree has other leaves, shapes
        or dtypes.
      FileNotFoundError: there is no checkpoint.
    """
    step = self.latest()
    if step is None:
      raise FileNotFoundError(f"expected a checkpoint in {self._path}, got none; train first")
    record: Any = self._checkpointer.metadata(step).custom_metadata or {}
    remedy = f"restore the old setting, or start in a new directory (checkpoint: {self._path})"
    saved, current = dict(record.get("manifest", {})), dict(files.plain(manifest))
    before, now = (dict(side.pop("update", None) or {}) for side in (saved, current))
    _compare("the manifest", saved, current, remedy)
    _compare("the state", record.get("tree", {}), types_and_shapes(template), remedy)
    is_comparable = before.get("made_with") == now.get("made_with") is not None
    if is_comparable and before["digest"] != now["digest"] and not allow_change:
      raise InputError(
        f"the update that the checkpoint in {self._path} was trained with",
        "one that computes something else: another learning rate, schedule, loss, optimiser,"
        " network or batch",
        "restore the old setting, start in a new directory, or pass fit(..., allow_change=True)",
      )
    return step, _with_empty(template, self._checkpointer.load(step, _without_empty(template)))

  def wait(self) -> None:
    """Returns when everything handed to `save` is on the disk; raises what went wrong there."""
    self._checkpointer.wait()

  def close(self) -> None:
    """Waits, then releases orbax's threads."""
    self._checkpointer.close()

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _without_empty(template: PyTree) -> PyTree:
  """The template with one number for each array of size 0, which orbax cannot write."""

  def held(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return x if x.size else jax.ShapeDtypeStruct((1,), jnp.int8, sharding=x.sharding)

  return jax.tree.map(held, template)


def _with_empty(template: PyTree, loaded: PyTree) -> PyTree:
  """The loaded arrays, and those of size 0 made anew."""

  def whole(x: jax.ShapeDtypeStruct, array: jax.Array) -> jax.Array:
    return array if x.size else jax.device_put(jnp.zeros(x.shape, x.dtype), array.sharding)

  return jax.tree.map(whole, template, loaded)


def _detached(x: jax.Array) -> jax.Array:
  """On CPU a copy: there orbax reads the very buffers that the next update may overwrite."""
  return jnp.copy(x) if next(iter(x.devices())).platform == "cpu" else x


def _compare(what: str, saved: Mapping, current: Mapping, remedy: str) -> None:
  keys = [k for k in {**saved, **current} if _text(saved, k) != _text(current, k)]
  if keys:
    shown = keys[:3]
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    raise InputError(
      f"{what} of the checkpoint, " + ", ".join(f"{k}={_text(saved, k)}" for k in shown),
      ", ".join(f"{k}={_text(current, k)}" for k in shown) + more,
      remedy,
    )


def _text(record: Mapping, key: str) -> str:
  return json.dumps(record[key], sort_keys=True) if key in record else "nothing"
