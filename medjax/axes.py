"""The name of the axis that a batch is vmapped over, for losses and layers that couple examples."""

from typing import Any

import jax

from medjax.check import require

BATCH_AXIS = "batch"
"""`jax.vmap(..., axis_name=BATCH_AXIS)`; `grads.batch_mean` and `methods.supervised` name it so."""


def require_batch_axis(expected: str, got: str, remedy: str) -> None:
  """Raises InputError with this text unless the caller runs under a vmap over `BATCH_AXIS`.

  >>> jax.vmap(lambda x: require_batch_axis("a batch", "none", "vmap"), axis_name=BATCH_AXIS)(
  ...   jax.numpy.ones(2)
  ... )
  """
  require(_is_under_batch(), expected, got, remedy)


def require_batch(axis_name: Any) -> None:
  """Refuses batch statistics of a batch of one, which are those of a single image.

  >>> jax.vmap(lambda x: require_batch(BATCH_AXIS), axis_name=BATCH_AXIS)(jax.numpy.ones(2))

  Raises:
    InputError: the vmapped axis, or the axes together, hold one example. An axis that nobody
      vmaps over is left to the layer, which names it.
  """
  try:
    size = int(jax.lax.psum(1, axis_name))  # of a constant: known when traced
  except NameError:
    return
  require(
    size > 1,
    "two examples or more in a batch whose statistics BatchNorm takes",
    "one, whose own statistics no evaluation by running statistics will meet",
    "raise the batch size, or use GroupNorm, which couples no examples",
  )


def _is_under_batch() -> bool:
  try:
    jax.lax.axis_size(BATCH_AXIS)
  except NameError:  # how JAX says that no enclosing transformation names the axis
    return False
  return True
