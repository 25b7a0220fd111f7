"""Data parallelism: one mesh axis, the batch spread over it, the state on every device."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medjax.check import InputError
from medjax.types import PyTree

AXIS = "batch"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh with the one axis "batch" over `devices` (default: all of them).

  The axis is of type Auto: the compiler places the collectives, code under jit stays as it is.
  """
  devices = list(jax.devices() if devices is None else devices)
  return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def shard_batch(batch: PyTree, mesh: Mesh, spec: PyTree = None, *, block: bool = False) -> PyTree:
  """Places a batch on the mesh.

  Args:
    batch: a pytree of arrays [batch, ...].
    mesh: a mesh with the axis "batch".
    spec: PartitionSpec, or a prefix of `batch` made of them, for batches whose examples do not lie
      along the first axis; default: the first axis is split over "batch".
    block: the leaves have a leading axis of steps before everything else; it is not split.
  Returns:
    The batch as global arrays.
  Raises:
    InputError: a split axis is absent or not a multiple of the devices along it.
  """
  spec = PartitionSpec(AXIS) if spec is None else spec

  def place(spec: PartitionSpec, part: PyTree) -> PyTree:
    full = PartitionSpec(None, *spec) if block else spec
    for leaf in jax.tree.leaves(part):
      _check_divisible(leaf, full, mesh)
    return jax.device_put(part, NamedSharding(mesh, full))

  return jax.tree.map(place, spec, batch, is_leaf=lambda x: isinstance(x, PartitionSpec))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Every leaf whole on every device of the mesh."""
  return jax.device_put(tree, replicated(mesh))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def _check_divisible(leaf: Any, spec: PartitionSpec, mesh: Mesh) -> None:
  shape = tuple(getattr(leaf, "shape", ()))
  for axis, name in enumerate(spec):
    if name is None:
      continue
    names = name if isinstance(name, tuple) else (name,)
    num_devices = 1
    for part in names:
      num_devices *= mesh.shape[part]
    if axis >= len(shape) or shape[axis] % num_devices:
      raise InputError(
        f"axis {axis} of every array of the batch to be a multiple of {num_devices} devices",
        f"shape {shape}",
        "choose a batch size that the devices divide, pad with weight 0, or use fewer devices",
      )
