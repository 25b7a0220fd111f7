"""A whole study as one array in half precision, and batches of patches cut from it where it lies.

On the device a step then moves a few row numbers and corners and no voxels; 290 volumes of
182 x 218 x 182 voxels are 6.3 GB. Labels are soft, in [0, 1], kept as bytes: to 1 / 255.

pool = volume_pool(images, labels)
stream = cut_patches(pool, replayed(current, memory, 4, seed=0), (64, 64, 64), seed=0)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, rng
from medjax.data.seeds import Seed, generator
from medjax.data.streams.replay import Drawn
from medjax.types import Leaf, Stream

_POSITIONS = 4096  # kept of lesion and of the rest of each volume


class VolumePool(NamedTuple):
  """Volumes of one shape.

  Attributes:
    image: [case, *space, channel] float16, finite.
    label: [case, *space] uint8, 255 times the soft label.
    foreground, background: of each case, flat positions where the label is above 0, and where it is
      0 inside the body.
  """

  image: Leaf
  label: Leaf
  foreground: tuple[np.ndarray, ...]
  background: tuple[np.ndarray, ...]

  @property
  def space(self) -> tuple[int, ...]:
    return self.image.shape[1:-1]


def volume_pool(
  image: np.ndarray, label: np.ndarray, inside: np.ndarray | None = None, *, on_device: bool = True
) -> VolumePool:
  """A pool of these volumes.

  Args:
    image: [case, *space, channel] normalised already; half precision keeps 3 digits up to 65504.
    label: [case, *space] in [0, 1].
    inside: [case, *space] bool, where patches without lesion may have their middle; None is all.
    on_device: False leaves the voxels on the host and copies each batch: for studies larger than
      the device's memory.
  Raises:
    InputError: shapes that differ, labels outside [0, 1], values that half precision cannot hold.
  """
  image, label = np.asarray(image), np.asarray(label)
  check.same_shape("image", image.shape[:-1], "label", label.shape)
  low, high = (float(label.min()), float(label.max())) if label.size else (0.0, 0.0)
  check.require(
    0 <= low and high <= 1, "soft labels in [0, 1]", f"[{low}, {high}]", "divide by the maximum"
  )
  with np.errstate(over="ignore"):  # refused in the next line
    half = image.astype(np.float16)
  check.require(
    bool(np.isfinite(half).all()),
    "finite intensities that half precision holds",
    "others",
    "normalise the images first",
  )
  body = np.ones(label.shape, bool) if inside is None else np.asarray(inside, bool)
  check.same_shape("inside", body.shape, "label", label.shape)
  foreground = tuple(_some(y > 0, i) for i, y in enumerate(label))
  background = tuple(
    _some((y == 0) & b, i) for i, (y, b) in enumerate(zip(label, body, strict=True))
  )
  place: Callable[[np.ndarray], Any] = jnp.asarray if on_device else np.asarray
  return VolumePool(
    place(half), place(np.round(255 * label).astype(np.uint8)), foreground, background
  )


def cut_patches(
  pool: VolumePool,
  drawn: Stream,
  patch: Sequence[int],
  seed: Seed,
  *,
  per_volume: int = 1,
  foreground_fraction: float | int = 0.5,
  standardise: bool = False,
  flip: float | int = 0.5,
  turn: float | int = 0.1,
  stored: tuple[Any, np.ndarray] | None = None,
  name: str = "",
) -> Stream:
  """Batches of patches of the volumes that `drawn` names.

  Args:
    pool: the study.
    drawn: step -> `Drawn`, as `replayed` gives it.
    patch: voxels an axis, at most the volume's.
    seed: int; corners and flips are functions of (seed, name, step).
    per_volume: patches of each volume drawn; 4 in the paper.
    foreground_fraction: chance that a patch has a lesion voxel in its middle, as far as the volume
      reaches; elsewhere its middle is a voxel without. A volume without lesion has any voxel.
    standardise: bring each patch to mean 0 and standard deviation 1, as the released code does in
      training only.
    flip: chance of each axis to be mirrored.
    turn: chance of a quarter, half or three quarter turn of the first two axes.
    stored: ([slot, *space] numbers kept with some volumes, [case] slot of each volume): cut and
      mirrored like the label and handed out as "teacher".
    name: tells the streams of one seed apart.
  Returns:
    Stream of {"image": [batch, *patch, channel], "label": [batch, *patch], "index",
    "draw", "weight", "remembered"}; batch is per_volume times that of `drawn`, `index` the position
    of the volume and `draw` the running number of the patch.
  Raises:
    InputError: a patch that does not fit, or a turn of unequal sides.
  """
  patch = tuple(int(n) for n in patch)
  check.require(
    len(patch) == len(pool.space) and all(p <= s for p, s in zip(patch, pool.space, strict=True)),
    f"a patch that fits into {pool.space}",
    f"{patch}",
    "pad the volumes or shrink the patch",
  )
  check.in_interval("foreground_fraction", foreground_fraction, 0, 1)
  check.in_interval("flip", flip, 0, 1)
  check.in_interval("turn", turn, 0, 1)
  check.require(
    turn == 0 or flip == 0.5 and patch[0] == patch[1],
    "turn=0 where the first two sides differ or flip is not 1/2",
    f"{patch}, {turn=}, {flip=}",
    "turn only squares",
  )
  last = np.subtract(pool.space, patch)
  flip_key = rng.stream(jax.random.key(seed), f"{name} flips")

  def corner(draw: int, row: int) -> np.ndarray:
    random = generator(seed, f"{name} corner", draw % 2**32)
    wanted, other = pool.foreground[row], pool.background[row]
    if random.random() >= foreground_fraction or not len(wanted):
      wanted = other if len(other) else wanted
    if not len(wanted):
      return random.integers(last + 1)
    voxel = np.unravel_index(int(wanted[random.integers(len(wanted))]), pool.space)
    return np.clip(np.asarray(voxel) - np.asarray(patch) // 2, 0, last)

  @jax.jit
  def finish(image: jax.Array, label: jax.Array, more: tuple, draw: jax.Array) -> tuple:
    image, label = image.astype(jnp.float32), label.astype(jnp.float32) / 255
    if standardise:
      axes = tuple(range(1, image.ndim - 1))
      mean, std = image.mean(axes, keepdims=True), image.std(axes, keepdims=True)
      image = (image - mean) / jnp.maximum(std, 1e-6)
    keys = rng.numbered(flip_key, draw)
    arrays = (image, label, *(x.astype(jnp.float32) for x in more))
    return jax.vmap(lambda xs, key: mirrored(xs, key, len(patch), flip, turn))(arrays, keys)

  def stream(step: int) -> dict[str, Any]:
    chosen: Drawn = drawn(step)
    rows = np.repeat(chosen.rows, per_volume)
    draws = int(step) * len(rows) + np.arange(len(rows))
    corners = np.stack([corner(int(d), int(r)) for d, r in zip(draws, rows, strict=True)])
    draw = (draws % 2**31).astype(np.int32)
    voxels = (cut(pool.image, rows, corners, patch), cut(pool.label, rows, corners, patch))
    more = () if stored is None else (cut(stored[0], stored[1][rows], corners, patch),)
    image, label, *teacher = finish(*voxels, more, draw)
    return {
      "image": image,
      "label": label,
      "index": rows.astype(np.int32),
      "draw": draw,
      "weight": np.repeat(chosen.weight, per_volume),
      "remembered": np.repeat(chosen.remembered, per_volume),
      **({"teacher": teacher[0]} if teacher else {}),
    }

  return stream


def cut(volumes: Any, rows: np.ndarray, corners: np.ndarray, patch: tuple[int, ...]) -> Any:
  """Patches [batch, *patch, ...] of [case, *space, ...], where these lie and in their type."""
  if isinstance(volumes, np.ndarray):
    where = [
      (int(r), *(slice(c, c + p) for c, p in zip(corner.tolist(), patch, strict=True)))
      for r, corner in zip(rows, corners, strict=True)
    ]
    return np.stack([volumes[w] for w in where])
  return _gather(volumes, rows.astype(np.int32), corners.astype(np.int32), patch)


def mirrored(
  arrays: tuple[jax.Array, ...], key: jax.Array, num_axes: int, flip: float | int, turn: float | int
) -> tuple[jax.Array, ...]:
  """One example's arrays [*space, ...], mirrored and turned alike.

  With each axis mirrored by chance 1/2, a turn by 90, 180 or 270 degrees with equal chances is the
  exchange of two axes in two cases of three.
  """
  chances = jax.random.uniform(key, (num_axes + 1,))
  swap = chances[num_axes] < turn * 2 / 3

  def one(x: jax.Array) -> jax.Array:
    if turn > 0:
      x = jnp.where(swap, jnp.swapaxes(x, 0, 1), x)
    for axis in range(num_axes):
      x = jnp.where(chances[axis] < flip, jnp.flip(x, axis), x)
    return x

  return tuple(one(x) for x in arrays)


def _gather_patches(volumes, rows, corners, patch):
  rest = volumes.shape[1 + len(patch) :]

  def one(row, corner):
    start = (row, *corner, *(0 for _ in rest))
    return jax.lax.dynamic_slice(volumes, start, (1, *patch, *rest))[0]

  return jax.vmap(one)(rows, corners)


_gather = jax.jit(_gather_patches, static_argnums=3)


def _some(mask: np.ndarray, case: int) -> np.ndarray:
  """Flat positions of a mask, at most `_POSITIONS` of them."""
  found = np.flatnonzero(mask)
  if len(found) > _POSITIONS:
    random = generator(0, "volume pool", case)
    found = np.sort(random.choice(found, _POSITIONS, replace=False, shuffle=False))
  return found.astype(np.int32)
