"""What an adversary is: how one example may be changed, and how a gradient makes it harder."""

import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from medjax.types import Batch, Json, Key, Metrics, Provenance, PyTree


class Adversary(NamedTuple):
  """Pure functions of ONE example; `vmap` adds the batch, so that examples never meet.

  Attributes:
    parameters: `parameters(key, example) -> a`, where it starts. May hold what is computed once and
      never changes, such as a stylised image.
    render: `render(a, example) -> image`, which the loss sees in place of `example.image`.
    project: `project(a, image_gradient, example, key) -> a`, one step up the loss and back into the
      allowed set. The gradient is that of the rendered image, and known up to a positive factor
      only (the example's share of its batch): a factor must change nothing. An adversary that
      searches in `a` pulls the gradient back through its own `render`.
    relabel: `relabel(a, example) -> label` of the rendered image where it moved; None: unmoved.
    describe: `describe(a, image_gradient, example) -> metrics` of the last sample, averaged over
      the batch.
    provenance: whose data a rendered example is made of; private training refuses what others' data
      may reach, and what does not say.
    options: what was chosen, flat, for manifests.
  """

  parameters: Callable[[Key, Batch], PyTree]
  render: Callable[[PyTree, Batch], jax.Array]
  project: Callable[[PyTree, jax.Array, Batch, Key], PyTree]
  relabel: Callable[[PyTree, Batch], jax.Array] | None = None
  describe: Callable[[PyTree, jax.Array, Batch], Metrics] = lambda a, image_gradient, example: {}
  provenance: Provenance = "other subjects"
  options: Mapping[str, Json] = types.MappingProxyType({})
