"""The (min, +) matrix product, inner step of exact distance transforms.

  out[m, n] = min over k of  table[m, k] + values[k, n]

With table[m, k] = ((m - k) s)^2 and values the squared distances along the other axes, out are the
squared distances with this axis taken in (Felzenszwalb and Huttenlocher, 2012, Eq. 2, by trying
all k). m k n additions and comparisons, no gather, no branch, and no temporary of that size.
"""

import functools
from typing import Literal

import jax
from jaxtyping import Array, Float

from kernels.min_plus import xla

Implementation = Literal["xla", "pallas_gpu", "interpret"]


def min_plus(
  table: Float[Array, "m k"],
  values: Float[Array, "*batch k n"],
  *,
  implementation: Implementation = "xla",
) -> Float[Array, "*batch m n"]:
  """The least of `table[m, k] + values[k, n]` over k.

  >>> import jax.numpy as jnp
  >>> min_plus(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([[3.0, 0.0], [jnp.inf, 5.0]]))
  Array([[3., 0.],
         [4., 1.]], dtype=float32)

  Args:
    table: [m, k] float32, k > 0.
    values: [*batch, k, n] float32; infinities are welcome, n is best the longest axis.
    implementation: "xla" on any backend, "pallas_gpu" (Triton) or "interpret" (the same kernel,
      slowly, on any backend). The default is XLA everywhere: on a CPU there is no other, and on a
      GPU the two have not been measured; `experiments.bench.distance_bench` has the rows that
      decide.
  Returns:
    [*batch, m, n] float32. Of a NaN nothing is promised.
  Raises:
    ValueError: shapes that do not match, another `implementation`.
    NotImplementedError: where it is differentiated.
  """
  if table.ndim != 2 or values.ndim < 2 or table.shape[1] != values.shape[-2] or not table.size:
    raise ValueError(
      f"expected table [m, k] and values [*batch, k, n], got {table.shape} and {values.shape};"
      " contract the second axis of the table with the last but one of the values"
    )
  if implementation not in ("xla", "pallas_gpu", "interpret"):
    raise ValueError(
      f"expected implementation 'xla', 'pallas_gpu' or 'interpret', got {implementation!r};"
      " choose one of these"
    )
  return _min_plus(implementation, table, values)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _min_plus(implementation: Implementation, table: jax.Array, values: jax.Array) -> jax.Array:
  if implementation == "xla":
    return xla.min_plus(table, values)
  from kernels.min_plus import pallas_gpu  # takes half a second that CPU users need not pay

  return pallas_gpu.min_plus(table, values, interpret=implementation == "interpret")


@_min_plus.defjvp
def _refuse(implementation, primals, tangents):
  raise NotImplementedError(
    "expected no differentiation of min_plus, which has none; apply jax.lax.stop_gradient to its"
    " arguments"
  )


__all__ = ["Implementation", "min_plus"]
