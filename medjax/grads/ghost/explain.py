"""What `clipped_sum` does with each leaf of the parameters, and what that costs an example."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from medjax.check import require
from medjax.grads import isolation
from medjax.grads.ghost import engine, program
from medjax.types import Key, Leaf, Params, PyTree


class LeafCost(NamedTuple):
  """One leaf.

  Attributes:
    leaf: its path.
    shape: shape of the leaf.
    rule: operation and what is kept of it, one a site: "convolution: gradient", "dense: pair",
      "scan: gradient"; "added" where gradients of several sites are summed before the norm.
    flops: operations an example for norms and gradients, above the backward pass; the weighted sum
      of a pair costs its share of a plain backward pass on top.
    bytes: kept an example until the weights are known.
  """

  leaf: str
  shape: tuple[int, ...]
  rule: str
  flops: float
  bytes: int


class Explanation(NamedTuple):
  """One row a leaf; printed as a table."""

  leaves: tuple[LeafCost, ...]

  def __str__(self) -> str:
    width = max(len(row.leaf) for row in self.leaves)
    lines = [
      f"{row.leaf:<{width}}  {str(row.shape):<20}  {row.flops / 1e6:10.3f} Mflop"
      f"  {row.bytes / 2**10:10.1f} KiB  {row.rule}"
      for row in self.leaves
    ]
    flops, kept = sum(r.flops for r in self.leaves), sum(r.bytes for r in self.leaves)
    total = f"{'all':<{width}}  {'':<20}  {flops / 1e6:10.3f} Mflop  {kept / 2**10:10.1f} KiB"
    return "\n".join([*lines, total])


def explain(
  loss_fn: Callable[..., Any],
  params: Params,
  example: PyTree,
  key: Key,
  *,
  has_aux: bool = False,
) -> Explanation:
  """Which rule every leaf takes under `clipped_sum(..., method="ghost")`.

  >>> import jax.numpy as jnp
  >>> def loss(params, example, key):
  ...   return jnp.tanh(example @ params["w"] + params["b"]).sum()
  >>> rows = explain(
  ...   loss, {"b": jnp.zeros(64), "w": jnp.zeros((32, 64))}, jnp.zeros(32), jax.random.key(0)
  ... ).leaves
  >>> [(row.leaf, row.rule) for row in rows]
  [('b', 'add: gradient'), ('w', 'dense: pair')]

  Args:
    loss_fn, has_aux: see `clipped_sum`.
    params: arrays or `jax.ShapeDtypeStruct`.
    example: ONE example, likewise.
    key: a key, likewise.
  Raises:
    InputError: a loss that no example enters; one that `clipped_sum` refuses, since it mixes
      examples or could do so (see `isolation`).
  """

  def of_one(params: Params, example: PyTree, key: Key) -> None:
    batch, keys = jax.tree.map(lambda x: x[None], (example, key))
    isolation.require_alone(loss_fn, params, batch, keys, has_aux=has_aux)

  jax.eval_shape(of_one, params, example, key)  # for shapes in place of arrays, too
  traced = program.trace(loss_fn, params, example, key, has_aux=has_aux)
  require(
    traced.is_example_dependent, "a loss of an example", "one that ignores it", "use jax.grad"
  )
  leaves = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in jax.tree.leaves(params)]
  rules: list[list[str]] = [[] for _ in leaves]
  flops, kept = [0.0] * len(leaves), [0] * len(leaves)
  how = None

  def plan(*values: Any) -> Any:
    nonlocal how
    how = engine.plan(traced, values)
    return traced.cuts(values)

  cuts = jax.eval_shape(plan, *leaves)
  assert how is not None
  for s, site in enumerate(traced.sites.values()):
    rule, own = how.rules[s], cuts[s]
    avals = dict(zip(site.operation.inputs, site.operation.input_avals, strict=True))
    operands = [jax.ShapeDtypeStruct(avals[i].shape, avals[i].dtype) for i in site.examples]
    results = [site.operation.avals[i] for i in site.outputs]
    cotangents = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in results]
    if how.keeps_pair[s]:
      assert rule.pair_norm is not None
      cost = _flops(rule.pair_norm, operands, cotangents)
      size = sum(map(_bytes, [*operands, *cotangents]))
    else:
      cost = _flops(_gradient(traced, s), leaves, own, operands, cotangents)
      size = sum(map(_bytes, own))
    for cut in site.cuts:
      what = "pair" if how.keeps_pair[s] else "gradient"
      note = ", added" if cut.leaf in how.added else ""
      rules[cut.leaf].append(f"{rule.name}: {what}{note}")
      flops[cut.leaf] += cost / len(site.cuts)
      kept[cut.leaf] += size // len(site.cuts)
  return Explanation(
    tuple(
      LeafCost(name, tuple(leaf.shape), _joined(rules[n]), flops[n], kept[n])
      for n, (name, leaf) in enumerate(zip(traced.names, leaves, strict=True))
    )
  )


def _gradient(traced: program.Program, number: int) -> Callable[..., Any]:
  """The rule of a site with the leaves as an argument, so that shapes are enough."""

  def gradient(leaves: Any, cuts: Any, operands: Sequence[Leaf], cotangents: Sequence[Leaf]) -> Any:
    return engine.plan(traced, leaves).rules[number].gradient(cuts, operands, cotangents)

  return gradient


def _flops(function: Callable[..., Any], *shapes: Any) -> float:
  cost = jax.jit(function).lower(*shapes).cost_analysis()
  return float((cost or {}).get("flops", 0.0))


def _bytes(value: Any) -> int:
  return value.size * value.dtype.itemsize


def _joined(rules: list[str]) -> str:
  """Equal rules once, with their number."""
  counts = {rule: rules.count(rule) for rule in rules}
  return (
    " + ".join(r if n == 1 else f"{n} x {r}" for r, n in counts.items()) or "unused: gradient 0"
  )
