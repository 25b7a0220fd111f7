"""What a device can do at most: as measured here, and as its maker says.

A program of F operations that reads and writes B bytes of arguments and results takes at least
max(F / f, B / b) seconds, where f is what a large matrix product reaches and b what a copy reaches
(the roofline of Williams et al. 2009, with the traffic that no program can do without).
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_SIDE = {"cpu": 1024}  # of the matrices
_NUMBERS = {"cpu": 2**24}  # float32 that are copied
_REPEATS = 3

# Dense bfloat16 operations a second, in 10^12, from the makers' data sheets.
_NOMINAL = {
  "NVIDIA V100": 125,
  "NVIDIA A100": 312,
  "NVIDIA H100": 989,
  "NVIDIA H200": 989,
  "TPU v4": 275,
  "TPU v5 lite": 197,
  "TPU v5p": 459,
  "TPU v6 lite": 918,
}


class Peaks(NamedTuple):
  """Speeds of a device.

  Attributes:
    flops: operations a second of a matrix product here, the faster of float32 and bfloat16.
    bandwidth: bytes a second, read and written, of a copy here.
    nominal: operations a second that the maker names, NaN if the device is not in the table.
  """

  flops: float
  bandwidth: float
  nominal: float

  def floor(self, flops: float, moved: float) -> float:
    """Least seconds of a program.

    >>> Peaks(flops=100.0, bandwidth=10.0, nominal=float("nan")).floor(200.0, 30.0)
    3.0
    """
    return max(flops / self.flops, moved / self.bandwidth)


def peaks_of(device: jax.Device) -> Peaks:
  """Measures a matrix product and a copy on a device; a second or so on a CPU."""
  side = _SIDE.get(device.platform, 8192)
  numbers = _NUMBERS.get(device.platform, 2**28)
  reached = 0.0
  dtypes = (jnp.float32,) if device.platform == "cpu" else (jnp.float32, jnp.bfloat16)
  for dtype in dtypes:
    matrix = jax.device_put(jnp.ones((side, side), dtype), device)
    reached = max(reached, 2 * side**3 / _seconds(jax.jit(jnp.matmul), matrix, matrix))
  vector = jax.device_put(jnp.ones(numbers, jnp.float32), device)
  copied = _seconds(jax.jit(lambda x: x + 1), vector)
  return Peaks(reached, 2 * vector.nbytes / copied, nominal(device.device_kind))


def nominal(kind: str) -> float:
  """The maker's figure for a device of this kind.

  >>> nominal("NVIDIA H100 80GB HBM3"), nominal("cpu")
  (989000000000000.0, nan)
  """
  return next((1e12 * f for name, f in _NOMINAL.items() if kind.startswith(name)), np.nan)


def _seconds(fn: Callable[..., Any], *args: Any) -> float:
  """The fastest of some calls: what is asked is what the device can do."""
  found = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(fn(*args))
    found.append(time.perf_counter() - start)
  return min(found)
