"""Attention rollout: which input tokens reach a token through all layers of a transformer.

  R = (A_L + I) / 2 ... (A_2 + I) / 2 (A_1 + I) / 2,      A_l = mean over the heads of layer l

Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (2020), Eq. 1. Half of each layer is
the way round it, its residual. Values and perceptrons are not looked at, so that a rollout says
what could reach a token and not what was made of it.
"""

import jax.numpy as jnp

from medjax import check
from medjax.types import Array


def attention_rollout(attention: Array) -> Array:
  """Shares of the inputs in each output of ONE image or set; `jax.vmap` gives those of a batch.

  >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
  >>> attention_rollout(swap[None, None]).tolist()  # half stays, half is the other token
  [[0.5, 0.5], [0.5, 0.5]]

  Args:
    attention: [layer, head, query, key], the first layer first; each query's row sums to 1.
  Returns:
    [token, token]: row i holds the shares of the inputs in output i, each in [0, 1]; rows sum to 1
    where those of the attention do. A padded key, to which nobody attends, has 0 in the rows of
    the others.
  Raises:
    InputError: another number of axes, no layer, or as many keys as queries are not there.
  """
  shape = attention.shape
  check.require(
    attention.ndim == 4 and shape[0] > 0 and shape[2] == shape[3],
    "attention [layer, head, token, token] of a layer or more",
    f"{shape}",
    "stack the weights of self-attention over the layers",
  )
  whole = jnp.eye(shape[-1], dtype=attention.dtype)
  for layer in attention.mean(1):
    whole = (jnp.matmul(layer, whole, precision="highest") + whole) / 2
  return whole
