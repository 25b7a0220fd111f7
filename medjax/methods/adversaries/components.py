"""Links of `chain`: additive noise, a bias field, a smooth deformation, an affine map, a style."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from medjax import check
from medjax.methods.adversaries.chain import Component
from medjax.ops import fields, warp
from medjax.types import IGNORE, Provenance

_OWN: Provenance = "own example"


def noise(eps: float | int = 0.05) -> Component:
  """x + eps * p, one p a voxel and channel; eps in the image's unit."""
  check.positive("eps", eps)
  return Component("noise", jnp.zeros_like, lambda p, x: x + eps * p, None, {"eps": eps}, _OWN)


def bias_field(strength: float | int = 0.3, nodes: int = 4) -> Component:
  """x * exp(strength * B(p)), B linear between nodes (AdvBias; Chen et al., MICCAI 2020).

  Args:
    strength: largest natural logarithm of the factor: 0.3 keeps it in [0.74, 1.35].
    nodes: per axis, at least 2.
  """
  check.positive("strength", strength)
  check.require(nodes >= 2, "nodes >= 2", f"{nodes=}", "pass 2 or more")

  def identity(image: jax.Array) -> jax.Array:
    return jnp.zeros((*(nodes,) * (image.ndim - 1), 1))

  def apply(p: jax.Array, image: jax.Array) -> jax.Array:
    return image * jnp.exp(strength * fields.interpolate_nodes(p, image.shape[:-1]))

  options = {"strength": strength, "nodes": nodes}
  return Component("bias_field", identity, apply, None, options, _OWN)


def morph(voxels: float | int = 1.5, nodes: int = 4, squarings: int = 5) -> Component:
  """Flow of a smooth velocity of at most `voxels` along each axis; the label flows along.

  Args:
    voxels: largest displacement along an axis.
    nodes: number of nodes of the velocity per axis, at least 2.
    squarings: number of squarings of the integration by scaling and squaring.
  """
  check.positive("voxels", voxels)
  check.require(nodes >= 2, "nodes >= 2", f"{nodes=}", "pass 2 or more")

  def identity(image: jax.Array) -> jax.Array:
    ndim = image.ndim - 1
    return jnp.zeros((*(nodes,) * ndim, ndim))

  def coordinates(p: jax.Array, space: tuple[int, ...]) -> jax.Array:
    velocity = voxels * fields.interpolate_nodes(p, space)
    return warp.identity_coordinates(space) + fields.integrate_velocity(velocity, steps=squarings)

  return _moving("morph", identity, coordinates, {"voxels": voxels, "nodes": nodes})


def affine(
  rotation_degrees: float | int = 15.0,
  scaling: float | int = 0.2,
  translation_fraction: float | int = 0.1,
) -> Component:
  """Rotation, scaling and translation about the centre; the label moves along.

  Args:
    rotation_degrees: largest angle about each axis.
    scaling: largest factor of each axis is 1 + scaling, the smallest 1 / (1 + scaling).
    translation_fraction: largest shift along an axis, as a fraction of its length.
  """
  check.non_negative("rotation_degrees", rotation_degrees)
  check.non_negative("scaling", scaling)
  check.non_negative("translation_fraction", translation_fraction)

  def identity(image: jax.Array) -> jax.Array:
    ndim = image.ndim - 1
    return jnp.zeros(2 * ndim - 3 + 2 * ndim)

  def coordinates(p: jax.Array, space: tuple[int, ...]) -> jax.Array:
    ndim = len(space)
    angles, sizes, shifts = jnp.split(p, (2 * ndim - 3, 3 * ndim - 3))
    matrix = fields.affine_matrix(
      rotation_degrees * angles, (1.0 + scaling) ** sizes, jnp.zeros(ndim * (ndim - 1))
    )
    translation = translation_fraction * jnp.asarray(space, jnp.float32) * shifts
    return fields.affine_coordinates(matrix, translation, warp.identity_coordinates(space), space)

  options = {
    "rotation_degrees": rotation_degrees,
    "scaling": scaling,
    "translation_fraction": translation_fraction,
  }
  return _moving("affine", identity, coordinates, options)


@runtime_checkable
class Styles(Protocol):
  """What `style_statistics` reads of a `synth.StyleBank`; see there."""

  statistics: jax.Array

  @property
  def how(self) -> "Restyling": ...

  @property
  def provenance(self) -> Provenance: ...

  def __len__(self) -> int: ...


@runtime_checkable
class Restyling(Protocol):
  """The style of an image as numbers, and an image in the style of others."""

  @property
  def statistics(self) -> Callable[[jax.Array], jax.Array]: ...

  @property
  def transfer(self) -> Callable[[jax.Array, jax.Array], jax.Array]: ...


def style_statistics(bank: Styles, quantiles: tuple[float, float] = (0.05, 0.95)) -> Component:
  """Style as a few numbers (see `ops.style`), searched between the extremes of a bank.

  The image is affine in them. It starts at the style that the image has, as far as the bank's
  range holds it.

  Args:
    bank: a `synth.StyleBank`, whose styles say what is plausible.
    quantiles: quantiles of each statistic over the bank, which p = -1 and p = 1 stand for.
  """
  check.ordered("quantiles", quantiles)
  low, high = jnp.quantile(bank.statistics, jnp.asarray(quantiles), axis=0)
  middle, half = (low + high) / 2, (high - low) / 2

  def identity(image: jax.Array) -> jax.Array:
    own = bank.how.statistics(image)
    return jnp.clip(jnp.where(half > 0, (own - middle) / jnp.where(half > 0, half, 1), 0), -1, 1)

  def apply(p: jax.Array, image: jax.Array) -> jax.Array:
    return bank.how.transfer(image, middle + half * p)

  options = {"styles": len(bank), "quantiles": str(quantiles)}
  return Component("style", identity, apply, None, options, bank.provenance)


def _moving(name, identity, coordinates, options) -> Component:
  """Image and label read at the same coordinates; what lies outside is unknown, not background."""

  def apply(p: jax.Array, image: jax.Array) -> jax.Array:
    return warp.sample_linear(image, coordinates(p, image.shape[:-1]))

  def relabel(p: jax.Array, label: jax.Array) -> jax.Array:
    return warp.sample_majority(label, coordinates(p, label.shape), fill=IGNORE)

  return Component(name, identity, apply, relabel, options, _OWN)
