"""Local gradient sign: which cells of an image to make harder (Liu et al., MICCAI 2021, Eq. 2).

LGS(g) = US(ReLU(eps sign(AP(g))))            AP: average pooling, US: upsampling
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check
from medjax.ops import fields
from medjax.types import Key

Order = Literal["sign_of_mean", "mean_of_sign"]
Upsample = Literal["nearest", "bilinear"]


def local_gradient_sign(
  grad: Float[Array, "*space channel"],
  *,
  eps: float | int = 0.25,
  pool: int | tuple[int, ...] = 4,
  order: Order = "sign_of_mean",
  upsample: Upsample = "nearest",
) -> Float[Array, "*space channel"]:
  """Smoothed sign of an input gradient: one step of the style curriculum.

  Args:
    grad: gradient of the loss with respect to one image, [*space, channel], 2D or 3D.
    eps: step in (0, 1], unitless; the paper uses 0.25.
    pool: side of a cell in voxels, one number or one per axis; the paper uses 4. Where it does not
      divide a side, the last cells are smaller and average over the voxels that they have.
    order: "sign_of_mean" is Eq. 2: cells get 0 or eps. "mean_of_sign" is the authors' code: cells
      get eps * max(0, mean of signs).
    upsample: "nearest", constant on cells, or "bilinear" between their centres (authors' code).
  Returns:
    Increment of the fusion weight in [0, eps], shape of `grad`.
  Raises:
    InputError: eps outside (0, 1], pool below 1, or an image smaller than one cell.
  Guarantees: a zero gradient gives zero, so does its negative part; a positive factor changes
    nothing; no gradient flows through it.

  >>> local_gradient_sign(jnp.array([[3.0, -1.0, -1.0]]).T, pool=2)[:, 0].tolist()
  [0.25, 0.25, 0.0]
  """
  check.positive("eps", eps)
  check.in_interval("eps", eps, 0.0, 1.0)
  check.one_of("order", order, ("sign_of_mean", "mean_of_sign"))
  check.one_of("upsample", upsample, ("nearest", "bilinear"))
  pool = _cell(grad.shape[:-1], pool)
  grad = jax.lax.stop_gradient(grad)
  if order == "sign_of_mean":
    cells = jnp.sign(_cell_sums(grad, pool))  # the count of voxels has no part in a sign
  else:
    count = _cell_sums(jnp.ones_like(grad), pool)
    cells = _cell_sums(jnp.sign(grad), pool) / count
  return _spread(eps * jnp.maximum(cells, 0), grad.shape[:-1], pool, upsample)


def pixel_gradient_sign(
  grad: Float[Array, "*space channel"], *, eps: float | int = 0.25
) -> Float[Array, "*space channel"]:
  """The rule without pooling as the authors' code has it: 0 where grad < 0, eps elsewhere.

  A gradient of exactly 0 (padding, dead units) takes the step too; `local_gradient_sign` with
  `pool=1` is the same rule without that.
  """
  check.positive("eps", eps)
  check.in_interval("eps", eps, 0.0, 1.0)
  return jnp.where(jax.lax.stop_gradient(grad) < 0, jnp.zeros_like(grad), eps)


def random_cells(
  key: Key, shape: tuple[int, ...], *, pool: int | tuple[int, ...] = 4
) -> Float[Array, "*space 1"]:
  """-1 or 1 with equal chances, the same over a cell: a gradient that knows nothing."""
  pool = _cell(shape, pool)
  cells = tuple(-(-size // side) for size, side in zip(shape, pool, strict=True))
  signs = jax.random.rademacher(key, (*cells, 1), jnp.float32)
  return _spread(signs, shape, pool, "nearest")


def _cell(space: tuple[int, ...], pool: int | tuple[int, ...]) -> tuple[int, ...]:
  """The sides of a cell, one per axis, checked."""
  sides = (pool,) * len(space) if isinstance(pool, int) else pool
  check.same_shape("axes of pool", (len(sides),), "spatial axes", (len(space),))
  check.require(min(sides) >= 1, "pool >= 1", f"{pool=}", "pass 1 or more")
  fits = all(size >= side for size, side in zip(space, sides, strict=True))
  check.require(
    fits,
    f"images of at least one cell of {'x'.join(map(str, sides))} voxels",
    f"{'x'.join(map(str, space))} voxels",
    "pass a smaller pool, or one side per axis",
  )
  return sides


def _cell_sums(x: Array, pool: tuple[int, ...]) -> Array:
  """[*space, channel] -> [*ceil(space / pool), channel]; voxels beyond the border count as 0."""
  spare = [(0, -size % side) for size, side in zip(x.shape, pool, strict=False)]
  x = jnp.pad(x, [*spare, (0, 0)])
  shape = [n for size, side in zip(x.shape, pool, strict=False) for n in (size // side, side)]
  blocks = x.reshape(*shape, x.shape[-1])
  return blocks.sum(axis=tuple(range(1, 2 * len(pool), 2)))


def _spread(cells: Array, space: tuple[int, ...], pool: tuple[int, ...], upsample: str) -> Array:
  """[*cells, channel] -> [*space, channel]."""
  whole = tuple(n * side for n, side in zip(cells.shape, pool, strict=False))
  if upsample == "bilinear":
    cells = fields.resize_linear(cells, whole)
  else:
    for axis, side in enumerate(pool):
      cells = jnp.repeat(cells, side, axis=axis)
  return cells[tuple(slice(0, size) for size in space)]
