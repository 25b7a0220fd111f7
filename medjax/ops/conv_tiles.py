"""A 2D convolution whose weight gradient is formed in tiles on a CPU.

The gradient with respect to a kernel of k x k is itself a convolution: of the image with the
cotangent as its kernel, a kernel as large as the image. XLA:CPU computes it from one matrix whose
rows are as long as all images together. The sum over tiles of a few thousand pixels is the same
arithmetic, stays in the cache and runs on several threads: 2 to 4 times faster.

`convolve` binds a primitive with the name, the parameters and the meaning of
`lax.conv_general_dilated`, so that whoever reads a jaxpr finds a convolution. Its rules are those
of `lax`, and every convolution that they form is of this kind again: all orders of derivatives are
fast. Only its lowering differs, and only where the program is compiled for one CPU.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

_PIXELS = 4096
"""Pixels of a tile (measured: between 1024 and 4096 whole steps cost the same)."""
_MOST_TILES = 8
"""Each tile is an operation to compile."""
_FEWEST_PIXELS = 512
"""Of an image; below, one convolution is as fast."""
_MANY_IMAGES, _FEW_OPERATIONS = 8, 3.2e8
"""XLA reads a pixel of all images at once. From 8 images on, and up to so many operations, it was
faster than tiles in 8 of 9 shapes that were measured, by 1.2 to 1.8 times, and it compiles in a
third of the time. Above, tiles won in 6 of 8; for 1, 2 or 4 images in 6 of 6, by up to 4."""


def convolve(image: jax.Array, kernel: jax.Array, **options: Any) -> jax.Array:
  """`lax.conv_general_dilated(image, kernel, **options)`; on a CPU its weight gradient is fast.

  Types other than float32 and arrays on a mesh keep the convolution of `lax`: a slice of a sharded
  batch would be a transfer.
  """
  plain = functools.partial(lax.conv_general_dilated, **options)
  is_on_mesh = not jax.sharding.get_abstract_mesh().empty
  if is_on_mesh or image.dtype != jnp.float32 or kernel.dtype != jnp.float32:
    return plain(image, kernel)
  return _rebound(plain)(image, kernel)


def _rebound(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """`function`, each convolution of `lax` that it does replaced by the one of this file."""

  def run(*arguments: jax.Array) -> jax.Array:
    closed = jax.make_jaxpr(function)(*arguments)
    values: dict[Any, Any] = dict(zip(closed.jaxpr.invars, arguments, strict=True))
    values.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))

    def read(atom: Any) -> Any:
      return atom.val if isinstance(atom, core.Literal) else values[atom]

    for eqn in closed.jaxpr.eqns:
      is_plain = eqn.primitive is lax.conv_general_dilated_p
      primitive = _convolution if is_plain else eqn.primitive
      found = primitive.bind(*map(read, eqn.invars), **eqn.primitive.get_bind_params(eqn.params))
      found = found if primitive.multiple_results else [found]
      values.update(zip(eqn.outvars, found, strict=True))
    return read(closed.jaxpr.outvars[0])

  return run


def _plain(image: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array:
  return lax.conv_general_dilated_p.bind(image, kernel, **params)


def _result(*operands: Any, **params: Any) -> Any:
  """The shape and type of the result."""
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands]
  return jax.make_jaxpr(functools.partial(_plain, **params))(*shapes).out_avals[0]


def _by_image(cotangent: Any, image: Any, kernel: jax.Array, **params: Any) -> jax.Array:
  def pull(cotangent: jax.Array, kernel: jax.Array) -> jax.Array:
    like = jax.ShapeDtypeStruct(image.aval.shape, image.aval.dtype)
    return jax.linear_transpose(lambda x: _plain(x, kernel, **params), like)(cotangent)[0]

  return _rebound(pull)(cotangent, kernel)


def _by_kernel(cotangent: Any, image: jax.Array, kernel: Any, **params: Any) -> jax.Array:
  def pull(cotangent: jax.Array, image: jax.Array) -> jax.Array:
    like = jax.ShapeDtypeStruct(kernel.aval.shape, kernel.aval.dtype)
    return jax.linear_transpose(lambda k: _plain(image, k, **params), like)(cotangent)[0]

  return _rebound(pull)(cotangent, image)


def _batched(operands: Any, axes: Any, **params: Any) -> tuple[jax.Array, int]:
  return _rebound(jax.vmap(functools.partial(_plain, **params), in_axes=axes))(*operands), 0


def _lowered_on_cpu(context: Any, *operands: Any, **params: Any) -> Any:
  """The tiles, unless the program is spread over several devices."""
  num_devices = getattr(context.module_context.axis_context, "num_devices", None)
  chosen = _tiled if num_devices in (None, 1) else _plain
  return mlir.lower_fun(chosen, multiple_results=False)(context, *operands, **params)


def _tiled(image: jax.Array, cotangent: jax.Array, **params: Any) -> jax.Array:
  """A weight gradient in tiles, any other convolution as it is.

  It is known by its order of axes: the channels of the image [batch, height, width, channel] stand
  where a batch would, and the batch is summed over like input channels.
  """
  numbers = params["dimension_numbers"]
  is_weight_gradient = (
    tuple(numbers.lhs_spec) == (3, 0, 1, 2)
    and tuple(numbers.rhs_spec) == (3, 0, 1, 2)
    and tuple(numbers.out_spec) == (2, 3, 0, 1)
  )
  steps = (*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"])
  groups = params["feature_group_count"], params["batch_group_count"]
  if not is_weight_gradient or any(n != 1 for n in (*steps, *groups)):
    return _plain(image, cotangent, **params)
  num_images, height, width, _ = cotangent.shape
  (top, bottom), (left, right) = params["padding"]
  edges = [(0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)]
  padded = lax.pad(image, jnp.float32(0), edges)
  rows = padded.shape[1] - height  # of the image that a tile reads beyond its own
  if height * width < _FEWEST_PIXELS or rows < 0:
    return _plain(image, cotangent, **params)
  taps = (rows + 1) * (padded.shape[2] - width + 1)
  operations = 2 * cotangent.size * taps * image.shape[3]
  if num_images >= _MANY_IMAGES and operations <= _FEW_OPERATIONS:
    return _plain(image, cotangent, **params)
  # Many images: some stand on top of each other as one. Where an image ends the cotangent has rows
  # of zeros, so that nothing is counted across the seam.
  stacked = -(-num_images // _MOST_TILES)
  if stacked > 1:
    spare = [(0, -num_images % stacked, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)]
    padded = lax.pad(padded, jnp.float32(0), spare)
    seam = [spare[0], (0, rows, 0), (0, 0, 0), (0, 0, 0)]
    cotangent = lax.pad(cotangent, jnp.float32(0), seam)
    num_images = cotangent.shape[0] // stacked
    padded = padded.reshape(num_images, -1, *padded.shape[2:])
    cotangent = cotangent.reshape(num_images, -1, *cotangent.shape[2:])
    height = cotangent.shape[1] - rows
    cotangent = cotangent[:, :height]
  parts = max(1, min(height * width // _PIXELS, _MOST_TILES // num_images))
  tall = -(-height // parts)
  options = {**params, "padding": ((0, 0), (0, 0))}
  tiles = [
    _plain(padded[i : i + 1, y : y + tall + rows], cotangent[i : i + 1, y : y + tall], **options)
    for i in range(num_images)
    for y in range(0, height, tall)
  ]
  return functools.reduce(operator.add, tiles)


_convolution = core.Primitive("conv_general_dilated")
_convolution.def_impl(_plain)
_convolution.def_abstract_eval(_result)
ad.defbilinear(_convolution, _by_image, _by_kernel)
batching.primitive_batchers[_convolution] = _batched
mlir.register_lowering(_convolution, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_convolution, _lowered_on_cpu, platform="cpu")
