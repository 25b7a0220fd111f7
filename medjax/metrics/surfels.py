"""Surface elements of a mask: where they lie and how large they are, in 2D and 3D.

The surface passes between voxels, so it is looked for in cells whose 2^d corners are voxel centres
(Nikolov et al., "Clinically applicable segmentation of head and neck anatomy", J Med Internet Res
2021, whose code defines HD95 and surface Dice by area). A cell whose corners are not all inside or
all outside holds one element: the marching squares or cubes polygons of its corners (Lorensen and
Cline, SIGGRAPH 1987), with vertices in the middle of every edge that joins inside and outside.

Derived here from the corners alone:
  face     of a cell where inside and outside alternate: whichever of the two has fewer corners in
           the cell is cut off corner by corner, so that a mask and its complement share a surface;
  polygon  that is not flat: cut into the triangles of largest total area in a cell of side 1, which
           keeps every mirror symmetry that the corners have;
  size     of a triangle with normal n (length: its area in the unit cell) at voxel spacing s:
           |(n_0 s_1 s_2, n_1 s_0 s_2, n_2 s_0 s_1)|; in 2D |(n_0 s_1, n_1 s_0)|, a length.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from medjax import check
from medjax.types import Numbers

Point = tuple[float, ...]


def surfel_sizes(mask: Bool[Array, "*space"], *, spacing: Numbers) -> Float[Array, "*cells"]:
  """Area in mm^2 (2D: length in mm) of the surface in each cell, 0 where there is none.

  Args:
    mask: [*space] of 2 or 3 axes; everything beyond it is outside.
    spacing: voxel size in mm of each axis, may be traced.
  Returns:
    [n + 1 a side]: cell i lies between voxels i - 1 and i. Float32.
  """
  axes = mask.ndim
  check.require(axes in (2, 3), "masks of 2 or 3 axes", f"{axes}", 'use variant="voxel"')
  code = corner_codes(jnp.pad(mask, 1).astype(jnp.uint8))
  return sizes_by_code(axes, spacing)[code]


def corner_codes(padded: Any) -> Any:
  """Which corners of each cell are inside, from a mask with one voxel more around it.

  The first corner, 0 on all axes, is the highest bit of the code; the last axis varies fastest.

  Args:
    padded: [*space + 2] uint8 of 0 and 1; NumPy and JAX arrays alike.
  Returns:
    [*space + 1] uint8.
  """
  code = 0 * padded[(slice(1, None),) * padded.ndim]
  for corner in itertools.product((0, 1), repeat=padded.ndim):
    code = 2 * code + padded[tuple(slice(c, c - 1 or None) for c in corner)]
  return code


def sizes_by_code(axes: int, spacing: Numbers) -> Float[Array, " code"]:
  """Size of the surface in a cell for each of `corner_codes`, at a voxel spacing in mm."""
  spacing = jnp.broadcast_to(jnp.asarray(spacing, jnp.float32), (axes,))
  faces = jnp.stack([jnp.prod(jnp.delete(spacing, i)) for i in range(axes)])
  normals = jnp.asarray(unit_normals(axes), jnp.float32)
  return jnp.sqrt(((normals * faces[None, None]) ** 2).sum(-1)).sum(-1)


@functools.cache
def unit_normals(axes: int) -> np.ndarray:
  """Normals of the surface parts in a cell of side 1, [code, part, axis]; filled up with zeros."""
  parts = [_segments(code) if axes == 2 else _triangles(code) for code in range(2 ** (2**axes))]
  table = np.zeros((len(parts), max(map(len, parts)), axes))
  for code, normals in enumerate(parts):
    for part, normal in enumerate(normals):
      table[code, part] = normal
  return table


def _segments(code: int) -> list[np.ndarray]:
  """Normals in a square."""
  corners = list(itertools.product((0, 1), repeat=2))
  inside = {c: bool(code >> (3 - i) & 1) for i, c in enumerate(corners)}
  ends = [np.subtract(b, a) for a, b in _cuts(_around(corners), inside, isolate=True)]
  return [np.array([v[1], -v[0]]) for v in ends]


def _triangles(code: int) -> list[np.ndarray]:
  """Normals in a cube."""
  corners = list(itertools.product((0, 1), repeat=3))
  inside = {c: bool(code >> (7 - i) & 1) for i, c in enumerate(corners)}
  isolate = sum(inside.values()) <= 4
  segments = []
  for axis, side in itertools.product(range(3), (0, 1)):
    face = _around([c for c in corners if c[axis] == side])
    segments += _cuts(face, inside, isolate=isolate)
  return [n for polygon in _polygons(segments) for n in _largest(polygon)]


def _around(face: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
  """Four corners in the order of `product`, as a circuit."""
  return [face[0], face[1], face[3], face[2]]


def _cuts(
  face: Sequence[tuple[int, ...]], inside: dict[tuple[int, ...], bool], *, isolate: bool
) -> list[tuple[Point, Point]]:
  """Where the surface crosses a face; where corners alternate, those with `inside == isolate` are
  cut off one by one."""
  edges = list(zip(face, [*face[1:], face[0]], strict=True))
  middles = [
    tuple((p + q) / 2 for p, q in zip(a, b, strict=True))
    for a, b in edges
    if inside[a] != inside[b]
  ]
  if len(middles) == 4:  # edge i ends at corner i + 1
    first = 0 if inside[face[1]] == isolate else 1
    return [
      (middles[first], middles[first + 1]),
      (middles[first + 2], middles[(first + 3) % 4]),
    ]
  return [(middles[0], middles[1])] if middles else []


def _polygons(segments: Sequence[tuple[Point, Point]]) -> list[list[Point]]:
  """Closed circuits of segments; every vertex belongs to two."""
  neighbours: dict[Point, list[Point]] = {}
  for a, b in segments:
    neighbours.setdefault(a, []).append(b)
    neighbours.setdefault(b, []).append(a)
  found = []
  while neighbours:
    polygon = [next(iter(neighbours))]
    while following := [p for p in neighbours.pop(polygon[-1]) if p in neighbours]:
      polygon.append(following[0])
    found.append(polygon)
  return found


def _largest(polygon: list[Point]) -> list[np.ndarray]:
  """Normals of the triangulation of largest area."""

  def area(normals: list[np.ndarray]) -> float:
    return float(sum(np.linalg.norm(n) for n in normals))

  return max(_triangulations(polygon), key=area)


def _triangulations(polygon: list[Point]) -> list[list[np.ndarray]]:
  """All ways to cut a polygon into triangles, as normals: one triangle stands on the first edge."""
  if len(polygon) < 3:
    return [[]]
  first, last = np.array(polygon[0]), np.array(polygon[-1])
  ways = []
  for k in range(1, len(polygon) - 1):
    normal = np.cross(np.array(polygon[k]) - first, last - first) / 2
    for left in _triangulations(polygon[: k + 1]):
      ways += [[normal, *left, *right] for right in _triangulations(polygon[k:])]
  return ways
