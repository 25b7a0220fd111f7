"""Rigid registration of point clouds: Procrustes' problem in closed form, and ICP around it.

  R*, t* = argmin over rotations R and shifts t of  sum_n w_n |R x_n + t - y_n|^2

Arun et al. (1987) solve it for known pairs (x_n, y_n). Iterated closest points (Besl and McKay
1992) takes for y_n the point of the other cloud that lies closest to R x_n + t, solves, and starts
again. Everything is one program of fixed size, so `jax.vmap` registers all layers of a stack at
once; clouds of different sizes are padded with points of weight 0.

  stack = jax.vmap(icp)(layers[1:], layers[:-1])      # layer k to layer k - 1
  placed = compose(stack)                             # layer k to layer 0

`cross_distance` and `square_distance` say how far a point lies from the middle band of a cloud, in
the two readings of Wu, Shen and Ke ("A General Computationally-Efficient 3D Reconstruction Pipeline
for Multiple Images with Point Clouds"), who match a third of the points only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check

__all__ = [
  "Rigid",
  "compose",
  "cross_distance",
  "icp",
  "nearest",
  "procrustes",
  "square_distance",
  "subset",
]


class Rigid(NamedTuple):
  """x -> rotation x + shift; leading axes are those of a stack.

  Attributes:
    rotation: [..., axis, axis], of determinant 1.
    shift: [..., axis], in the unit of the points.
  """

  rotation: jax.Array
  shift: jax.Array

  def __call__(self, points: Float[Array, "*n axis"]) -> Float[Array, "*n axis"]:
    """Moves points; for a single transformation, without leading axes."""
    moved = jnp.einsum("ij,...j->...i", self.rotation, points)
    return moved + jnp.broadcast_to(self.shift, moved.shape)


def procrustes(
  moving: Float[Array, "n axis"],
  fixed: Float[Array, "n axis"],
  weight: Float[Array, " n"] | None = None,
) -> Rigid:
  """The rotation and shift that bring paired points closest together, never a reflection.

  >>> square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
  >>> turned = jnp.array([[0.0, 2.0], [0.0, 3.0], [-1.0, 3.0], [-1.0, 2.0]])
  >>> found = procrustes(square, turned)  # a quarter turn, then two up
  >>> jnp.round(found.rotation).astype(int).tolist(), jnp.round(found.shift).astype(int).tolist()
  ([[0, -1], [1, 0]], [0, 2])

  The derivative is exact, also where the covariance has equal singular values, at which the
  derivative of the singular vectors themselves is infinite. It is undefined only where the rotation
  is: where two of the signed singular values cancel, as for points on a line in 3D.

  Args:
    moving, fixed: pairs, with 2 or 3 axes.
    weight: of each pair, 0 or more; None: 1. With no weight at all the identity comes back.
  Raises:
    InputError: fewer than three pairs.
  """
  _check_number(moving, "moving")
  weight = jnp.ones(len(moving), moving.dtype) if weight is None else weight
  total = jnp.sum(weight)
  share = (weight / jnp.where(total > 0, total, 1.0))[:, None]
  centre, there = jnp.sum(share * moving, 0), jnp.sum(share * fixed, 0)
  covariance = (share * (moving - centre[None])).T @ (fixed - there[None])
  rotation = _rotation(covariance)
  # Without weight the covariance is 0 and LAPACK's rotation is the identity; so is then the shift.
  return Rigid(rotation, there - rotation @ centre)


@jax.custom_jvp
def _rotation(covariance: jax.Array) -> jax.Array:
  """The rotation R that maximises trace(R H) for H = sum of w x y^T."""
  return _solution(covariance)[0]


def _solution(covariance: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """R with the eigenvectors and eigenvalues of the symmetric matrix R H.

  With H = U S V^T the maximum is R = V D U^T, where D = diag(1, ..., det(V U^T)) prevents a
  reflection. Then R H = V (D S) V^T.
  """
  u, values, vt = jnp.linalg.svd(covariance)
  sign = jnp.sign(jnp.linalg.det(u) * jnp.linalg.det(vt))
  signs = jnp.ones_like(values).at[-1].set(sign)
  return (vt.T * signs[None]) @ u.T, vt.T, values * signs


@_rotation.defjvp
def _rotation_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  """R H stays symmetric as H moves, which fixes the derivative of R.

  Write dR = W R with W skew, since R stays a rotation. The differential of R H is W (R H) + R dH,
  and it is symmetric: W S + S W = (R dH)^T - R dH with S = R H. In the eigenvectors of S, where it
  is diagonal with entries s, that reads W_ij (s_i + s_j) = A_ji - A_ij with A = R dH.
  """
  rotation, vectors, values = _solution(primals[0])
  moved = vectors.T @ rotation @ tangents[0] @ vectors
  sums = values[:, None] + values[None, :]
  skew = (moved.T - moved) / jnp.where(sums == 0, 1.0, sums)
  return rotation, vectors @ skew @ vectors.T @ rotation


def nearest(
  points: Float[Array, "n axis"],
  cloud: Float[Array, "m axis"],
  weight: Float[Array, " m"] | None = None,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
  """Which point of the cloud is closest to each point, and the squared distance to it.

  Every distance is formed: n m of them, on any device. The first of several closest points counts.

  Args:
    points: that ask.
    cloud: among which they look.
    weight: points of weight 0 are not there; None: all are.
  """
  # Differences first: |x|^2 - 2 x y + |y|^2 would lose the digits of clouds far from the origin.
  squares = sum(
    (points[:, None, axis] - cloud[None, :, axis]) ** 2 for axis in range(cloud.shape[1])
  )
  if weight is not None:
    squares = jnp.where(weight > 0, squares, jnp.inf)
  index = jnp.argmin(squares, axis=1)
  return index, jnp.take_along_axis(squares, index[:, None], axis=1)[:, 0]


def icp(
  moving: Float[Array, "n axis"],
  fixed: Float[Array, "m fixed_axis"],
  *,
  moving_weight: Float[Array, " n"] | None = None,
  fixed_weight: Float[Array, " m"] | None = None,
  max_distance: float | int | None = None,
  num_steps: int = 30,
) -> Rigid:
  """Registers a cloud to another by iterated closest points, from centroids that coincide.

  >>> grid = jnp.stack(jnp.meshgrid(jnp.arange(6.0), jnp.arange(4.0)), -1).reshape(-1, 2)
  >>> angle = 0.1
  >>> turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
  >>> found = icp(grid, grid @ turn.T + 7.0)
  >>> bool(jnp.allclose(found.rotation, turn, atol=1e-5))
  True

  It finds the nearest of possibly many solutions: start it within about half the distance between
  parts that look alike. Its derivative is that of the last pairs, held fixed.

  Args:
    moving, fixed: clouds with 2 or 3 axes.
    moving_weight, fixed_weight: 0 for padding, else 1; None: 1.
    max_distance: pairs further apart do not count, in the unit of the points; None: all count.
      While fewer than three pairs do, nothing moves.
    num_steps: iterations; once no pair changes, further ones change nothing.
  Raises:
    InputError: clouds of fewer than three points or of different numbers of axes.
  """
  _check_number(moving, "moving")
  _check_number(fixed, "fixed")
  check.require(
    moving.shape[1] == fixed.shape[1],
    "clouds with one number of axes",
    f"{moving.shape[1]} and {fixed.shape[1]}",
    "register layers in their plane, without the height",
  )
  check.positive("num_steps", num_steps)
  ones = jnp.ones(len(moving), moving.dtype)
  weight = ones if moving_weight is None else moving_weight

  def step(found: Rigid, _: None) -> tuple[Rigid, None]:
    index, squares = nearest(jax.lax.stop_gradient(found(moving)), fixed, fixed_weight)
    counts = weight
    if max_distance is not None:
      counts = jnp.where(squares <= max_distance**2, weight, 0.0)
    better = procrustes(moving, fixed[index], counts)
    enough = jnp.sum(counts > 0) >= 3
    return jax.tree.map(lambda new, old: jnp.where(enough, new, old), better, found), None

  start = Rigid(
    jnp.eye(moving.shape[1], dtype=moving.dtype),
    _centre(fixed, fixed_weight) - _centre(moving, weight),
  )
  return jax.lax.scan(step, start, None, length=num_steps)[0]


def compose(pairs: Rigid) -> Rigid:
  """From layer-to-neighbour transformations to those that bring every layer to the first.

  Args:
    pairs: a stack; entry k brings layer k + 1 to layer k.
  Returns:
    A stack; entry k brings layer k + 1 to layer 0. Errors of the pairs add up along it.
  """

  def step(below: Rigid, pair: Rigid) -> tuple[Rigid, Rigid]:
    # below(pair(x)) = R_b (R_p x + t_p) + t_b
    above = Rigid(below.rotation @ pair.rotation, below.rotation @ pair.shift + below.shift)
    return above, above

  first = Rigid(jnp.eye(pairs.shift.shape[-1], dtype=pairs.shift.dtype), 0 * pairs.shift[0])
  return jax.lax.scan(step, first, pairs)[1]


def subset(
  points: Float[Array, "n axis"],
  distance: Float[Array, " n"],
  number: int,
  weight: Float[Array, " n"] | None = None,
) -> tuple[Float[Array, "k axis"], Float[Array, " k"]]:
  """The `number` points of least distance, with their weights; padding comes last.

  The paper fixes a band and gets any number of points; here the number is fixed and the band as
  wide as it takes, so that layers have one shape and every choice of points costs the same.
  """
  weight = jnp.ones(len(points), points.dtype) if weight is None else weight
  _, index = jax.lax.top_k(-jnp.where(weight > 0, distance, jnp.inf), number)
  return points[index], weight[index]


def cross_distance(
  points: Float[Array, "n axis"], weight: Float[Array, " n"] | None = None
) -> Float[Array, " n"]:
  """Distance to the nearer of a horizontal and a vertical line through the centroid.

  Points below a distance are the union of two bands, as the text and its Figure 3 have it.
  """
  return jnp.min(jnp.abs(points - _centre(points, weight)[None]), axis=-1)


def square_distance(
  points: Float[Array, "n axis"], weight: Float[Array, " n"] | None = None
) -> Float[Array, " n"]:
  """Distance to the farther of the two lines of `cross_distance`.

  Points below a distance are the intersection of the bands, a square, as Algorithm 1 prints it.
  """
  return jnp.max(jnp.abs(points - _centre(points, weight)[None]), axis=-1)


def _centre(points: jax.Array, weight: jax.Array | None) -> jax.Array:
  if weight is None:
    return jnp.mean(points, 0)
  return weight @ points / jnp.maximum(jnp.sum(weight), 1e-30)


def _check_number(points: jax.Array, name: str) -> None:
  check.require(
    len(points) >= 3 and points.shape[1] in (2, 3),
    f"three points or more with 2 or 3 axes as {name}",
    f"{points.shape[0]} with {points.shape[1]}",
    "fewer do not fix a rotation",
  )
