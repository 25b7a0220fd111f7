"""The name of the axis that a batch is vmapped over, for losses and layers that couple examples."""

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


def _is_under_batch() -> bool:
  try:
    jax.lax.axis_size(BATCH_AXIS)
  except NameError:  # how JAX says that no enclosing transformation names the axis
    return False
  return True
