"""Which device a computation runs on: asked of its arrays, not of the machine.

A GPU machine also computes on its CPU, where other programs are fast. Inside `jax.jit` an array has
no device yet; there the answer is the device that `working_on` names, else JAX's default.
"""

import contextlib

import jax

from medjax.types import PyTree

_DEFAULT = "jax_default_device"  # JAX makes this attribute of its config at run time


def device_of(*trees: PyTree) -> jax.Device:
  """The device of the first array that has one, else the one that JAX computes on by default.

  >>> import jax.numpy as jnp
  >>> cpu = jax.devices("cpu")[0]
  >>> device_of({"x": jax.device_put(jnp.ones(2), cpu)}) == cpu
  True
  """
  for leaf in jax.tree.leaves(trees):
    if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
      return min(leaf.devices(), key=lambda device: device.id)
  default = getattr(jax.config, _DEFAULT)
  if default is None:
    return jax.local_devices()[0]
  return jax.local_devices(backend=default)[0] if isinstance(default, str) else default


def platform_of(*trees: PyTree) -> str:
  """The kind of `device_of`: "cpu", "gpu" or "tpu".

  >>> with working_on(jax.devices("cpu")[0]):
  ...   jax.eval_shape(lambda x: print(platform_of(x)), 1.0)
  cpu
  """
  return device_of(*trees).platform


def working_on(device: jax.Device) -> contextlib.AbstractContextManager[object]:
  """What is compiled inside computes on this kind of device, unless its arrays lie elsewhere.

  Does nothing where that is the default anyway, so that no program is compiled twice.
  """
  if device.platform == platform_of():
    return contextlib.nullcontext()
  return jax.default_device(device)


def on_this_device(tree: PyTree) -> PyTree:
  """The arrays as values of this device alone, inside `jax.shard_map`; elsewhere as they are.

  JAX sums a gradient over the devices where the parameters are known to be equal on all of them.
  The gradient of one example must not be: what an example adds is bounded before it meets others.
  """
  axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)

  def own(x: jax.Array) -> jax.Array:
    for axis in axes:
      try:
        x = jax.lax.pcast(x, axis, to="varying")
      except ValueError:  # they differ over this axis already
        continue
    return x

  return jax.tree.map(own, tree) if axes else tree
