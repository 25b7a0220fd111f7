"""Chains of differentiable changes whose parameters climb the loss together, after AdvChain.

  image = c_n(p_n, ... c_1(p_1, x)),   p_i in the box [-1, 1]^k
  p <- clip(p + step * sign(dPhi / dp), -1, 1)

Chen et al., "Enhancing MR image segmentation with realistic adversarial data augmentation" (2022).
DEVIATIONS: they ask for consistent predictions; here the loss is the Step's own, and where anatomy
moves, its label moves along. They divide gradients by their norm; signs need no scale.
"""

from collections.abc import Callable
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp

from medjax import check, rng
from medjax.methods.adversaries.adversary import Adversary
from medjax.types import Batch, Json, Key, Provenance, PyTree


class Component(NamedTuple):
  """One change of ONE image, with parameters in [-1, 1].

  Attributes:
    name: name of the change.
    identity: `identity(image) -> p` that leaves the image as it is, or as nearly as it can.
    apply: `apply(p, image) -> image`, differentiable in p.
    relabel: `relabel(p, label) -> label` where the change moves voxels.
    options: what was chosen, flat.
    provenance: see `Adversary`.
  """

  name: str
  identity: Callable[[jax.Array], PyTree]
  apply: Callable[[PyTree, jax.Array], jax.Array]
  relabel: Callable[[PyTree, jax.Array], jax.Array] | None
  options: dict[str, Json]
  provenance: Provenance = "other subjects"


def chain(*components: Component, step: float | int = 0.5, start: float | int = 0.0) -> Adversary:
  """Adversary that applies components in order and moves the parameters of all at once.

  Args:
    components: first applied first, of different names; see `components`.
    step: step of every parameter an update, in (0, 2], where each may range over [-1, 1].
    start: parameters begin within this distance of the identity, uniformly, in [0, 1].
  Guarantees: parameters stay in the box; to first order no step lowers the loss; a zero gradient
    moves nothing.
  """
  names = [component.name for component in components]
  check.require(
    names and len(set(names)) == len(names),
    "at least one component, of different names",
    f"{names}",
    "pass chain(noise(), bias_field())",
  )
  check.positive("step", step)
  check.in_interval("step", step, 0.0, 2.0)
  check.in_interval("start", start, 0.0, 1.0)

  def parameters(key: Key, example: Batch) -> PyTree:
    found = {}
    for component in components:
      p = component.identity(example.image)
      drawn = jax.random.uniform(rng.stream(key, component.name), p.shape, minval=-1.0)
      found[component.name] = jnp.clip(p + start * drawn, -1.0, 1.0)
    return found

  def render(a: PyTree, example: Batch) -> jax.Array:
    image = example.image
    for component in components:
      image = component.apply(a[component.name], image)
    return image

  def project(a: PyTree, image_gradient: jax.Array, example: Batch, key: Key) -> PyTree:
    del key
    _, pull_back = jax.vjp(lambda p: render(p, example), a)
    (gradient,) = pull_back(image_gradient)
    return jax.tree.map(lambda p, g: jnp.clip(p + step * jnp.sign(g), -1.0, 1.0), a, gradient)

  def relabel(a: PyTree, example: Batch) -> jax.Array:
    label = example.label
    for component in components:
      if component.relabel is not None:
        label = component.relabel(a[component.name], label)
    return label

  options = {f"{c.name}_{k}": v for c in components for k, v in c.options.items()}
  moves = any(component.relabel is not None for component in components)
  return Adversary(
    parameters,
    render,
    project,
    relabel if moves else None,
    provenance=max((c.provenance for c in components), key=get_args(Provenance).index),
    options={"kind": "chain of " + ", ".join(names), "step": step, "start": start, **options},
  )
