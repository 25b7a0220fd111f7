"""Tree and dtype helpers that optax.tree and jax.tree lack."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from medjax.check import InputError
from medjax.types import PyTree


def entry(batch: PyTree, name: str) -> Any:
  """`batch.name` or `batch[name]`, None where there is none.

  >>> entry({"weight": 1.0}, "weight"), entry((1, 2), "index")  # a tuple's method is no entry
  (1.0, None)
  """
  if isinstance(batch, Mapping):
    return batch.get(name)
  value = getattr(batch, name, None)
  return None if callable(value) else value


def all_finite(tree: PyTree) -> jax.Array:
  """Scalar bool: no leaf holds NaN or infinity."""
  return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def size(tree: PyTree) -> int:
  """Number of scalars in all leaves."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def at_least_float32(x: jax.Array) -> jax.Array:
  """bfloat16 and float16 up to float32, float64 kept: losses and norms need the digits."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """Leaves by their path, "encoder0/conv0/kernel", in the order of `jax.tree.leaves`.

  >>> named_leaves({"dense": {"kernel": 1.0, "bias": 2.0}})
  {'dense/bias': 2.0, 'dense/kernel': 1.0}

  Raises:
    InputError: two leaves whose paths read alike, such as {"a/b": x, "a": {"b": y}}.
  """
  named: dict[str, Any] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name in named:
      raise InputError("one leaf of each name", f"two of {name!r}", "rename one of them")
    named[name] = leaf
  return named


def map_named(function: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
  """The tree with `function(path, leaf)` in the place of each leaf; see `named_leaves`.

  >>> map_named(lambda name, x: name.endswith("bias"), {"kernel": 1.0, "bias": 2.0})
  {'bias': True, 'kernel': False}
  """
  leaves = [function(name, leaf) for name, leaf in named_leaves(tree).items()]
  return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def split(tree: PyTree, rule: Callable[[str], bool]) -> tuple[PyTree, PyTree]:
  """The leaves whose path is chosen, and the others: two trees with None in each other's places.

  None holds no leaf, so that gradients, norms, clipping and messages of the first tree know nothing
  of the second; their names stay what they were.

  >>> chosen, rest = split({"body": 1.0, "head": 2.0}, lambda name: name.startswith("head"))
  >>> chosen, rest, merge(chosen, rest)
  ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None}, {'body': 1.0, 'head': 2.0})

  Args:
    tree: any tree.
    rule: path of a leaf, such as "params/head/kernel" -> whether it belongs to the first tree.
  Raises:
    InputError: no leaf is chosen.
  """
  is_chosen = {name: rule(name) for name in named_leaves(tree)}
  if not any(is_chosen.values()):
    raise InputError(
      "a rule that chooses a leaf", f"none of {', '.join(is_chosen)}", "correct the rule"
    )
  first = map_named(lambda name, leaf: leaf if is_chosen[name] else None, tree)
  second = map_named(lambda name, leaf: None if is_chosen[name] else leaf, tree)
  return first, second


def merge(first: PyTree, second: PyTree) -> PyTree:
  """The tree that `split` took apart."""
  return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=_is_none)


def _is_none(x: object) -> bool:
  return x is None


def types_and_shapes(tree: PyTree) -> dict[str, str]:
  """Text such as "float32[2, 3]" by the path of each leaf: equal where two trees fit."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def weighted_mean(values: PyTree, weight: jax.typing.ArrayLike | None) -> PyTree:
  """Mean of every leaf over its first axis, by weight.

  mean = sum_i weight_i values_i / sum_i weight_i,   0 where all weights are 0

  >>> float(weighted_mean(jnp.array([1.0, 4.0, jnp.nan]), jnp.array([2.0, 1.0, 0.0])))
  2.0

  Args:
    values: leaves [batch, ...].
    weight: [batch], 0 or more; None weighs all alike.
  Guarantees: a row of weight 0 changes nothing, also if it holds NaN or infinity (padding may).
  """
  if weight is None:
    return jax.tree.map(lambda x: x.mean(0), values)
  weight = jnp.asarray(weight)
  total = weight.sum()
  total = jnp.where(total > 0, total, 1.0)

  def mean(x: jax.Array) -> jax.Array:
    share = weight.reshape(-1, *[1] * (x.ndim - 1))
    # 0 * NaN is NaN, so that rows of weight 0 are replaced and not multiplied.
    return jnp.where(share > 0, share * x, 0.0).sum(0) / total

  return jax.tree.map(mean, values)


def cast_like(values: PyTree, like: PyTree) -> PyTree:
  """`values` in the types of `like`, rounded where these are whole numbers.

  For means of what a network counts: the mean over a batch of a counter is that counter again.
  """

  def cast(x: jax.Array, other: jax.Array) -> jax.Array:
    dtype = jnp.result_type(other)
    return (jnp.round(x) if jnp.issubdtype(dtype, jnp.integer) else x).astype(dtype)

  return jax.tree.map(cast, values, like)
