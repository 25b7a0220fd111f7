"""Smooth random fields on coarse grids, and spatial maps built from them.

field      = linear interpolation of node values                    (align_corners = False)
exp(v)     = (id + v / 2^n) composed with itself 2^n times           (Arsigny et al. 2006)
affine map = S H R (x - centre) + centre + t                         (lab2im, SynthSeg)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check
from medjax.ops import blur, warp
from medjax.types import Key


def resize_linear(
  field: Float[Array, "..."],
  shape: tuple[int, ...],
  *,
  num_nodes: Int[Array, " ndim"] | None = None,
) -> Float[Array, "..."]:
  """Separable linear interpolation between voxel centres, borders continued.

  Equals `jax.image.resize(..., "linear", antialias=False)`. Axis by axis it gathers two neighbours
  and blends them: 8 to 12 times faster on CPU than a matrix product per axis for the last doubling
  of a 3D field, and elementwise, so that vmap does not change a bit of it.

  Args:
    field: [*nodes, *trailing]; the first `len(shape)` axes are resized.
    shape: new size of these axes.
    num_nodes: how many nodes to use of each axis, at run time (from 1 to the axis size); nodes
      beyond are ignored as if the field were that small. None uses all.
  Returns:
    [*shape, *trailing].
  """
  check.require(
    field.ndim >= len(shape),
    f"a field with at least {len(shape)} axes",
    f"shape {field.shape}",
    "give one node axis per axis of the result",
  )
  for axis, size in enumerate(shape):
    if num_nodes is None and field.shape[axis] == size:
      continue
    nodes = field.shape[axis] if num_nodes is None else num_nodes[axis].astype(jnp.float32)
    # Voxel i of the result has its centre at (i + 1/2) / size of the extent, node j at
    # (j + 1/2) / nodes: in units of nodes the voxel lies at (i + 1/2) nodes / size - 1/2.
    centres = jnp.arange(size, dtype=jnp.float32) + 0.5
    position = jnp.clip(centres * (nodes / size) - 0.5, 0, nodes - 1)
    lower = jnp.floor(position).astype(jnp.int32)
    upper = jnp.minimum(lower + 1, jnp.asarray(nodes - 1, jnp.int32))
    weight = (position - lower).reshape([-1 if a == axis else 1 for a in range(field.ndim)])
    low = jnp.take(field, lower, axis=axis, mode="clip")
    high = jnp.take(field, upper, axis=axis, mode="clip")
    field = low * (1 - weight) + high * weight
  return field


def interpolate_nodes(
  nodes: Float[Array, "*nodes channel"], shape: tuple[int, ...]
) -> Float[Array, "*space channel"]:
  """`resize_linear` of a coarse grid, as one small matrix product per axis.

  For a few nodes per axis this costs next to nothing, and unlike gathers a product is not fused
  into (and repeated by) whatever reads the field: 4 times faster inside an augmentation at 256^2.
  Batching may change the last bit.

  Args:
    nodes: [*nodes, channel].
    shape: size of the field.
  """
  check.same_shape("axes of nodes", (nodes.ndim - 1,), "axes of the field", (len(shape),))
  matrices = []
  for count, size in zip(nodes.shape, shape, strict=False):
    position = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (count / size) - 0.5
    distance = jnp.clip(position, 0, count - 1)[:, None] - jnp.arange(count)[None, :]
    matrices.append(jnp.maximum(1 - jnp.abs(distance), 0))  # a hat around every node
  return blur.apply_separable(nodes, tuple(matrices))


def random_field(
  key: Key,
  shape: tuple[int, ...],
  nodes: tuple[int, ...],
  *,
  channels: int = 1,
  sampler: Callable[..., Array] = jax.random.normal,
) -> Float[Array, "*space channel"]:
  """Random values at nodes, linearly interpolated.

  Args:
    key: randomness of the node values.
    shape: size of the field, [*space].
    nodes: number of nodes per axis.
    channels: number of independent fields.
    sampler: `sampler(key, shape) -> values` of the nodes; standard normal by default.
  Returns:
    [*shape, channels].

  >>> random_field(jax.random.key(0), (8, 8), (2, 3)).shape
  (8, 8, 1)
  """
  check.require(
    len(nodes) == len(shape), f"{len(shape)} node counts", f"{nodes}", "give one per spatial axis"
  )
  return interpolate_nodes(sampler(key, (*nodes, channels)), shape)


def integrate_velocity(
  velocity: Float[Array, "*space ndim"], *, steps: int = 7
) -> Float[Array, "*space ndim"]:
  """Displacement of the flow of a stationary velocity field, by scaling and squaring.

  Args:
    velocity: [*space, ndim] in voxels of its own grid per unit time; continued beyond the border.
    steps: number of squarings; 7 as VoxelMorph and SynthSeg.
  Returns:
    Displacement u with exp(velocity)(x) = x + u(x), in voxels of the same grid.
  Guarantees: a constant field gives that translation; exp(-v) inverts exp(v) up to interpolation.
  """
  check.require(steps >= 0, "steps >= 0", f"{steps}", "pass 0 or more")
  identity = warp.identity_coordinates(velocity.shape[:-1])

  # A flow composed with itself takes twice the time: (x + u)(x + u) = x + u(x) + u(x + u(x)). From
  # the time 2^-steps, in which the flow is v to first order, `steps` doublings lead to time 1.
  def square(_: Array | int, displacement: Array) -> Array:
    return displacement + warp.sample_linear(displacement, identity + displacement)

  # A loop and not seven copies: XLA:CPU fuses the copies and recomputes the chain, 12-250x slower.
  return jax.lax.fori_loop(0, steps, square, velocity / 2**steps)


def jacobian_determinant(displacement: Float[Array, "*space ndim"]) -> Float[Array, "*inner"]:
  """Determinant of d(x + u)/dx by forward differences, on the grid without its last layer.

  Positive everywhere: the map keeps topology; below 0: it folds.
  """
  ndim = displacement.shape[-1]
  # d(x + u) / dx = I + du / dx, whose column a holds the differences along axis a.
  inner = tuple(slice(0, size - 1) for size in displacement.shape[:-1])
  columns = [jnp.diff(displacement, axis=axis)[inner] for axis in range(ndim)]
  jacobian = jnp.stack(columns, axis=-1)
  eye = jnp.eye(ndim).reshape((1,) * ndim + (ndim, ndim))
  return jnp.linalg.det(jacobian + eye)


def affine_matrix(
  rotation_degrees: Float[Array, " num_angles"],
  scaling: Float[Array, " ndim"],
  shear: Float[Array, " num_shears"],
) -> Float[Array, "ndim ndim"]:
  """S H R: rotation, then shear, then scaling.

  Args:
    rotation_degrees: [1] in 2D; [3] in 3D, about the axes 0, 1, 2 with R = R0 R1 R2.
    scaling: [ndim], 1 for none.
    shear: [ndim * (ndim - 1)] off-diagonal entries in row order, 0 for none.
  Returns:
    [ndim, ndim] matrix of the linear part.
  Raises:
    InputError: dimensions other than 2 and 3, or sizes that do not fit.

  >>> affine_matrix(jnp.array([90.0]), jnp.ones(2), jnp.zeros(2)).round(3).tolist()
  [[-0.0, 1.0], [-1.0, -0.0]]
  """
  ndim = scaling.shape[0]
  check.one_of("number of spatial axes", ndim, (2, 3))
  check.same_shape("rotation_degrees", rotation_degrees.shape, "angles", (2 * ndim - 3,))
  check.same_shape("shear", shear.shape, "off-diagonal entries", (ndim * (ndim - 1),))
  cos, sin = jnp.cos(jnp.deg2rad(rotation_degrees)), jnp.sin(jnp.deg2rad(rotation_degrees))
  if ndim == 2:
    rotation = jnp.array([[cos[0], sin[0]], [-sin[0], cos[0]]])
  else:
    first = jnp.array([[1, 0, 0], [0, cos[0], -sin[0]], [0, sin[0], cos[0]]])
    second = jnp.array([[cos[1], 0, sin[1]], [0, 1, 0], [-sin[1], 0, cos[1]]])
    third = jnp.array([[cos[2], -sin[2], 0], [sin[2], cos[2], 0], [0, 0, 1]])
    rotation = _product(_product(first, second), third)
  # Ones on the diagonal, the shears around it.
  rows = iter(shear)
  shears = jnp.array([[1.0 if i == j else next(rows) for j in range(ndim)] for i in range(ndim)])
  return scaling[:, None] * _product(shears, rotation)


def affine_coordinates(
  matrix: Float[Array, "ndim ndim"],
  translation: Float[Array, " ndim"],
  coordinates: Float[Array, "*space ndim"],
  shape: tuple[int, ...],
) -> Float[Array, "*space ndim"]:
  """`matrix (x - centre) + centre + translation`, about the centre of a grid of size `shape`.

  Args:
    matrix: [ndim, ndim].
    translation: [ndim] in voxels.
    coordinates: [*space, ndim] in voxels.
    shape: size of the grid whose centre stays in place.
  """
  lead = (1,) * (coordinates.ndim - 1)
  centre = (jnp.asarray(shape, jnp.float32) - 1) / 2
  relative = coordinates - centre.reshape(*lead, -1)
  rows = [
    sum(relative[..., j] * matrix[i, j] for j in range(matrix.shape[1]))
    for i in range(matrix.shape[0])
  ]
  return jnp.stack(rows, axis=-1) + (centre + translation).reshape(*lead, -1)


def _product(a: Array, b: Array) -> Array:
  """Matrix product at full float32 precision; accelerators round the inputs by default."""
  return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
