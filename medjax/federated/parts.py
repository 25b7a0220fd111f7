"""Parts of the parameter tree: joined by rules of their own, or never sent.

A client's update is one row of float32 numbers, part after part; `Layout` goes from trees to rows
and back. The server holds rows in pieces, one a leaf: joining a network of 200,000 parameters from
eight pieces a client took a seventh of the time that whole rows took, which only rules that compare
clients need.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.federated.aggregate.rule import Rule
from medjax.types import Params, PyTree


class Part(NamedTuple):
  """Some leaves of the parameters.

  Attributes:
    name: as it stands in metrics.
    holds: `holds(path) -> bool` of a leaf's path, such as "params/Dense_0/kernel".
    rule: how the part is joined; None: it is never sent, each client keeps its own (a personal
      head, FedBN's normalisation).
  """

  name: str
  holds: Callable[[str], bool]
  rule: Rule | None


class Layout:
  """Where the leaves of a tree lie in a row.

  Attributes:
    slices: [(name, rule, slice of the row)] of the parts that are sent.
    pieces_of: name -> slice of the pieces, of the same parts.
    size: numbers in a row.
    own: paths of the leaves that are never sent.
  """

  def __init__(self, tree: PyTree, parts: Sequence[Part], rule: Rule):
    """Lays out a tree (or its shapes).

    Args:
      tree: parameters.
      parts: a leaf belongs to the first part that holds it; a leaf of none is joined by `rule`.
      rule: of the rest.
    Raises:
      InputError: two parts of one name, a part without a leaf, or nothing to send.
    """
    leaves, self.treedef = jax.tree_util.tree_flatten_with_path(tree)
    self.paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
    self.shapes = [jnp.shape(leaf) for _, leaf in leaves]
    self.sizes = [jnp.size(leaf) for _, leaf in leaves]
    every = [*parts, Part("rest", lambda path: True, rule)]
    names = [part.name for part in every]
    check.require(
      len(set(names)) == len(names), "parts of different names, none of them 'rest'", f"{names}",
      "rename one",
    )  # fmt: skip
    owner = [next(i for i, part in enumerate(every) if part.holds(path)) for path in self.paths]
    self.order: list[int] = []  # numbers of the leaves, in the order of the row
    self.slices: list[tuple[str, Rule, slice]] = []
    self.pieces_of: dict[str, slice] = {}
    start = 0
    for i, part in enumerate(every):
      inside = [n for n, o in enumerate(owner) if o == i]
      check.require(
        inside or part.name == "rest",
        f"a parameter in part {part.name!r}",
        f"none of {', '.join(self.paths)}",
        "correct its rule",
      )
      if part.rule is None or not inside:
        continue
      self.order += inside
      size = sum(self.sizes[n] for n in inside)
      self.slices.append((part.name, part.rule, slice(start, start + size)))
      self.pieces_of[part.name] = slice(len(self.order) - len(inside), len(self.order))
      start += size
    self.size = start
    sent = set(self.order)
    self.own = [path for n, path in enumerate(self.paths) if n not in sent]

  def pieces(self, tree: PyTree) -> tuple[jax.Array, ...]:
    """[numbers] float32 of each leaf that is sent, in the order of the row.

    Raises:
      InputError: another structure or other shapes than those laid out.
    """
    leaves, treedef = jax.tree.flatten(tree)
    shapes = [jnp.shape(leaf) for leaf in leaves]
    check.require(
      treedef == self.treedef and shapes == self.shapes,
      "a client's update like the global parameters",
      f"{_first_difference(self, treedef, shapes)}",
      "train the same network everywhere; parts that differ cannot be sent",
    )
    return tuple(leaves[n].astype(jnp.float32).ravel() for n in self.order)

  def row(self, tree: PyTree) -> jax.Array:
    """[size] float32 of the leaves that are sent, as `pieces`."""
    flat = self.pieces(tree)
    return jnp.concatenate(flat) if flat else jnp.zeros(0, jnp.float32)

  def cut(self, row: jax.Array) -> tuple[jax.Array, ...]:
    """The pieces of a row."""
    ends = np.cumsum([self.sizes[n] for n in self.order])
    return tuple(row[end - self.sizes[n] : end] for n, end in zip(self.order, ends, strict=True))

  def tree(self, row: jax.Array, like: PyTree, *, missing: float = 0.0) -> PyTree:
    """The tree of a row, in the dtypes of `like`; leaves that are never sent hold `missing`."""
    leaves = [jnp.full_like(leaf, missing) for leaf in jax.tree.leaves(like)]
    start = 0
    for n in self.order:
      piece = row[start : start + self.sizes[n]]
      leaves[n] = piece.reshape(self.shapes[n]).astype(leaves[n].dtype)
      start += self.sizes[n]
    return jax.tree.unflatten(self.treedef, leaves)

  def own_of(self, tree: PyTree) -> dict[str, Any]:
    """Leaves that are never sent, by path."""
    found = dict(zip(self.paths, jax.tree.leaves(tree), strict=True))
    return {path: found[path] for path in self.own}

  def with_own(self, tree: Params, own: dict[str, Any]) -> Params:
    """The tree with those leaves in place of its own."""
    pairs = zip(self.paths, jax.tree.leaves(tree), strict=True)
    return jax.tree.unflatten(self.treedef, [own.get(path, leaf) for path, leaf in pairs])


def _first_difference(layout: Layout, treedef: Any, shapes: list[tuple[int, ...]]) -> str:
  if treedef != layout.treedef:
    return f"structure {treedef} in place of {layout.treedef}"
  for path, mine, theirs in zip(layout.paths, layout.shapes, shapes, strict=True):
    if mine != theirs:
      return f"{path} of shape {theirs} in place of {mine}"
  return "other leaves"
