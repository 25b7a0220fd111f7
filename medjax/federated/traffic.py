"""Bytes of a round: what is sent to clients and what they send back, by part."""

from collections.abc import Callable

import jax

from medjax.federated.compress import Compressor
from medjax.federated.parts import Layout
from medjax.types import Metrics, PyTree, TrainState


def num_bytes(tree: PyTree) -> int:
  """Bytes of all leaves of a tree of arrays or shapes."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def of(
  layout: Layout,
  state: TrainState,
  asked: jax.Array,
  shared: Callable[[PyTree], PyTree],
  compress: Compressor | None,
) -> Metrics:
  """Megabytes (1e6 bytes) of a round in which `asked` clients were sent the model and answered.

  Down go the parameters that are sent, running statistics, and what is shared; up go float32
  updates (or what compression makes of them), running statistics, and as much as is shared. With
  parts, each is also given by part, "megabytes_up/head"; the two beside parts are in the totals.
  """
  leaves = jax.tree.leaves(state.params)
  beside = num_bytes(state.model_state)
  beside += num_bytes(jax.eval_shape(shared, state.extra.clients.kept))
  up = 4 * layout.size if compress is None else compress.num_bytes(layout.size)
  down = sum(leaves[n].size * leaves[n].dtype.itemsize for n in layout.order)
  found = {"megabytes_up": asked * (up + beside) / 1e6}
  found["megabytes_down"] = asked * (down + beside) / 1e6
  if len(layout.slices) > 1:
    for name, _, where in layout.slices:
      share = (where.stop - where.start) / max(layout.size, 1)  # a compressor works on whole rows
      found[f"megabytes_up/{name}"] = asked * share * up / 1e6
  return found
