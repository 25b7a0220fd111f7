"""A cell whose operations are searched: every edge is a mixture of convolutions.

Wu et al., "FedAutoMRI: federated neural architecture search for MR image reconstruction" (2023),
after DARTS (Liu et al. 2019). With weights alpha of the operations o of an edge (j, k),

  edge(x) = sum_o softmax(alpha^(j, k))_o o(x)                                           (Eq. 5)

A cell has three nodes: its input, made of the outputs of the two cells before it, and two that are
computed. Its edges are 0 -> 1, 0 -> 2 and 1 -> 2; node 2 is the output.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medjax import check

OPERATIONS = (
  "conv3", "conv5", "conv7", "dilated2", "dilated3", "separable3", "separable5", "separable7",
)  # fmt: skip
EDGES = ((0, 1), (0, 2), (1, 2))


class MixedEdge(nn.Module):
  """Weighted sum of some operations on [1, *space, channel], each with a ReLU before it.

  Attributes:
    width: channels.
    operations: names out of `OPERATIONS`.
  """

  width: int
  operations: tuple[str, ...] = OPERATIONS

  @nn.compact
  def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
    """`weights` [operation], which need not add up to 1."""
    total = jnp.zeros(())
    x = nn.relu(x)
    for number, name in enumerate(self.operations):
      check.one_of("operation", name, OPERATIONS)
      size = int(name[-1])
      if name.startswith("conv"):
        y = nn.Conv(self.width, (size, size), name=name)(x)
      elif name.startswith("dilated"):
        y = nn.Conv(self.width, (3, 3), kernel_dilation=size, name=name)(x)
      else:
        depthwise = nn.Conv(
          self.width, (size, size), feature_group_count=self.width, name=f"{name}_depth"
        )
        y = nn.Conv(self.width, (1, 1), name=f"{name}_point")(depthwise(x))
      total = total + weights[number] * y
    return total


class CellDenoiser(nn.Module):
  """Image [*space, channel] plus what a stack of cells finds to change.

  Attributes:
    num_cells: cells, all of one architecture.
    width: channels of the nodes.
    operations: of each edge of `EDGES`; default all of them, as a search wants it.
  """

  num_cells: int = 1
  width: int = 8
  operations: tuple[tuple[str, ...], ...] = (OPERATIONS,) * len(EDGES)

  @nn.compact
  def __call__(self, image: jax.Array, architecture: jax.Array | None = None) -> jax.Array:
    """`architecture` alpha [edge, operation]; None: operations of an edge count alike."""
    check.require(
      len(self.operations) == len(EDGES) and all(self.operations),
      f"operations for each of {len(EDGES)} edges",
      f"{self.operations}",
      "keep one at least",
    )
    start = nn.Conv(self.width, (3, 3), name="start")(image[None])
    before, last = start, start
    for cell in range(self.num_cells):
      both = jnp.concatenate([before, last], -1)
      nodes: list[Any] = [nn.Conv(self.width, (1, 1), name=f"join{cell}")(both), 0.0, 0.0]
      for number, (source, target) in enumerate(EDGES):
        own = self.operations[number]
        if architecture is None:
          weights = jnp.full(len(own), 1 / len(own))
        else:
          weights = jax.nn.softmax(architecture[number])
        edge = MixedEdge(self.width, own, name=f"cell{cell}_edge{number}")
        nodes[target] = nodes[target] + edge(nodes[source], weights)
      before, last = last, nodes[2]
    change = nn.Conv(image.shape[-1], (3, 3), name="end")(nn.relu(last))[0]
    return image + change


def derived_operations(architecture: np.ndarray, *, keep: int = 2) -> tuple[tuple[str, ...], ...]:
  """The operations with the largest weights of each edge, in the order of `OPERATIONS`.

  >>> alpha = np.zeros((3, 8))
  >>> alpha[:, [1, 6]] = 1.0
  >>> derived_operations(alpha)[0]
  ('conv5', 'separable5')

  Args:
    architecture: alpha [edge, operation]; of equal weights the first operation counts as larger.
    keep: operations an edge, 2 in the paper.
  """
  alpha = np.asarray(architecture)
  check.same_shape(
    "architecture", alpha.shape, "edges and operations", (len(EDGES), len(OPERATIONS))
  )
  check.in_interval("keep", keep, 1, len(OPERATIONS))
  order = np.argsort(-alpha, axis=1, kind="stable")[:, :keep]
  return tuple(tuple(OPERATIONS[i] for i in sorted(row)) for row in order.tolist())


def random_operations(seed: int, *, keep: int = 2) -> tuple[tuple[str, ...], ...]:
  """As many operations of each edge drawn at random: the control of a search."""
  random = np.random.default_rng(seed)
  return derived_operations(random.random((len(EDGES), len(OPERATIONS))), keep=keep)


def architecture_entropy(architecture: jax.Array) -> jax.Array:
  """Mean entropy of the edges' weights over that of equal ones: 1 undecided, 0 decided."""
  log = jax.nn.log_softmax(architecture)
  each = -(jnp.exp(log) * log).sum(-1)
  return each.mean() / np.log(architecture.shape[-1])
