"""Data parallelism: one mesh axis, the batch spread over it, the state on every device.

The devices may belong to several processes, on one machine or on many: each calls
`jax.distributed.initialize` first, and then all of them the same program.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
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


def shard_batch(
  batch: PyTree,
  mesh: Mesh,
  spec: PyTree = None,
  *,
  block: bool = False,
  is_share: bool = False,
) -> PyTree:
  """Places a batch on the mesh.

  Args:
    batch: a pytree of arrays [batch, ...].
    mesh: a mesh with the axis "batch".
    spec: PartitionSpec, or a prefix of `batch` made of them, for batches whose examples do not lie
      along the first axis; default: the first axis is split over "batch".
    block: the leaves have a leading axis of steps before everything else; it is not split.
    is_share: with devices of several processes, `batch` holds the examples of this process's
      devices alone, as `data.read_batches` with `part` reads them; False: every process has the
      whole batch and keeps its part of it.
  Returns:
    The batch as global arrays.
  Raises:
    InputError: a split axis is absent or not a multiple of the devices along it.
  """
  spec = PartitionSpec(AXIS) if spec is None else spec

  def place(spec: PartitionSpec, part: PyTree) -> PyTree:
    full = PartitionSpec(None, *spec) if block else spec
    for leaf in jax.tree.leaves(part):
      _check_divisible(leaf, full, mesh, jax.process_count() if is_share else 1)
    sharding = NamedSharding(mesh, full)
    if not mesh.is_multi_process:
      return jax.device_put(part, sharding)
    return jax.tree.map(lambda leaf: _over_processes(leaf, sharding, is_share), part)

  return jax.tree.map(place, spec, batch, is_leaf=lambda x: isinstance(x, PartitionSpec))


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Every leaf whole on every device of the mesh.

  Raises:
    InputError: the processes of the mesh gave different values.
  """
  sharding = replicated(mesh)
  if not mesh.is_multi_process:
    return jax.device_put(tree, sharding)

  def whole(x: Any) -> jax.Array:
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
      words = whole(jax.random.key_data(x))
      return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
    held = np.asarray(x)
    try:
      multihost_utils.assert_equal(held, "the start of the training")
    except AssertionError as error:
      raise InputError(
        "the same parameters and key in every process",
        f"different values in an array of shape {held.shape}",
        "start every process by the same command, with the same seed",
      ) from error
    return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])

  return jax.tree.map(whole, tree)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def _over_processes(leaf: Any, sharding: NamedSharding, is_share: bool) -> jax.Array:
  """A global array of which each process gives what lies on its own devices."""
  if is_share:
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
  return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def _check_divisible(leaf: Any, spec: PartitionSpec, mesh: Mesh, num_shares: int) -> None:
  shape = tuple(getattr(leaf, "shape", ()))
  for axis, name in enumerate(spec):
    if name is None:
      continue
    names = name if isinstance(name, tuple) else (name,)
    num_devices = 1
    for part in names:
      num_devices *= mesh.shape[part]
    num_devices //= num_shares
    if axis >= len(shape) or shape[axis] % num_devices:
      raise InputError(
        f"axis {axis} of every array of the batch to be a multiple of {num_devices} devices",
        f"shape {shape}",
        "choose a batch size that the devices divide, pad with weight 0, or use fewer devices",
      )
