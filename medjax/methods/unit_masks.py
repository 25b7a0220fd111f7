"""Subnetworks of units for one domain after another, which later domains cannot change.

PackNet's idea (Mallya and Lazebnik, CVPR 2018) on whole units, as Continual-GEN (Bayasi et al.
2023) has it. `gates` say for each hidden layer which units speak: {layer: [units] of 0 and 1}. The
network is `apply(params, gates, image)` and multiplies the outputs of a layer by its gates.

  1. train a domain on the units that are free:    tx = only_moved(tx, may_move(params, used, ...))
  2. score them:                                   taylor(...) or magnitude(...)
  3. keep the best of them, give the others back:  mine = kept(scores, used, share)
  4. train once more on these, then used = joined(used, mine)

A domain's subnetwork may read what earlier domains own, and never writes it: a weight moves only if
the unit that it feeds is free, in the last layer if the unit that it reads is. Bit for bit, the
logits under old gates stay what they were, whatever is trained later.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import check, grads, tree
from medjax.types import Array, Key, Params, PyTree

Gates = Mapping[str, Array | np.ndarray]
"""Hidden layer -> [units], 1 where a unit speaks and 0 where it is silent."""
GatedLoss = Callable[[Params, Gates, PyTree, Key], Array]
"""`loss_fn(params, gates, example, key) -> scalar` of ONE example."""


def no_units(sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
  """No unit of any layer: what is used before the first domain.

  >>> no_units({"hidden": 2})["hidden"].tolist()
  [0.0, 0.0]
  """
  return {layer: np.zeros(size, np.float32) for layer, size in sizes.items()}


def joined(*gates: Gates) -> dict[str, np.ndarray]:
  """The units that stand in any of them."""
  return {layer: np.maximum.reduce([np.asarray(g[layer]) for g in gates]) for layer in gates[0]}


def may_move(params: Params, used: Gates, *, head: str) -> PyTree:
  """Tree like `params` of bool arrays: which weights no earlier domain reads.

  Args:
    params: {layer: {"kernel" [..., in, out], "bias" [out]}} of a chain of layers; all but `head`
      are gated.
    used: units that earlier domains own.
    head: the last layer, whose outputs are classes. It reads the units of one hidden layer, that
      whose number of units is its kernel's; its bias moves while nothing is used.
  Raises:
    InputError: a layer without gates (a norm couples units: use none, or one gated channel a
      group), a head that reads no layer of that size, or two of that size.
  """
  strangers = sorted(set(params) - set(used) - {head})
  check.require(
    head in params and not strangers,
    f"layers with gates, and the head {head!r}",
    f"{', '.join(strangers) or 'no head'}",
    "gate every hidden layer; norms between units would let one domain change another's",
  )
  inputs = params[head]["kernel"].shape[-2]
  readable = [layer for layer, gates in used.items() if len(gates) == inputs]
  last = readable[-1:]  # layers stand in their order
  check.require(
    last, f"a hidden layer of the {inputs} units that the head reads", "none", "name the last layer"
  )
  is_empty = not any(np.asarray(gates).any() for gates in used.values())

  def leaf(name: str, value: Array) -> Array:
    layer, what = name.split("/")[0], name.rpartition("/")[2]
    if layer != head:
      free = jnp.asarray(used[layer]) == 0
      return jnp.broadcast_to(free.reshape((1,) * (value.ndim - 1) + (-1,)), value.shape)
    if what == "bias":
      return jnp.full(value.shape, is_empty)
    free = (jnp.asarray(used[last[0]]) == 0)[:, None]
    return jnp.broadcast_to(free.reshape((1,) * (value.ndim - 2) + free.shape), value.shape)

  named = tree.named_leaves(params)
  leaves = [leaf(name, value) for name, value in named.items()]
  return jax.tree.unflatten(jax.tree.structure(params), leaves)


def only_moved(
  tx: optax.GradientTransformation, moves: PyTree
) -> optax.GradientTransformationExtraArgs:
  """`tx` whose updates are exactly 0 where `moves` is False, whatever its momentum or decay.

  >>> tx = only_moved(optax.adamw(0.1), {"w": jnp.array([True, False])})
  >>> params = {"w": jnp.ones(2)}
  >>> updates, _ = tx.update({"w": jnp.full(2, jnp.inf)}, tx.init(params), params)
  >>> float(updates["w"][1])
  0.0

  Args:
    tx: any optax transformation. It sees gradients of 0 where nothing moves, so that norms over all
      parameters are of those that do.
    moves: tree of bool arrays like the parameters, such as `may_move` gives it.
  """
  inner = optax.with_extra_args_support(tx)

  def still(updates: PyTree) -> PyTree:
    # A choice and no product: 0 times an infinity is not 0.
    return jax.tree.map(lambda u, m: jnp.where(m, u, jnp.zeros_like(u)), updates, moves)

  def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> PyTree:
    updates, state = inner.update(still(updates), state, params, **extra)
    return still(updates), state

  return optax.GradientTransformationExtraArgs(inner.init, update)


def taylor(
  loss_fn: GatedLoss, params: Params, gates: Gates, batch: PyTree, key: Key
) -> dict[str, np.ndarray]:
  """Score of every unit: how far the loss of an example would move, to first order, without it.

  The derivative of a loss by the gate of a unit is the sum over space of activation times gradient
  (Molchanov et al., ICLR 2017); its size is averaged over examples. Silent units score 0.

  Args:
    loss_fn: of ONE example.
    params, gates: of the subnetwork.
    batch: examples of the domain.
    key: of the examples.
  """
  of_gates = lambda own, example, k: loss_fn(params, own, example, k)  # noqa: E731
  found = grads.per_sample(of_gates)({n: jnp.asarray(g) for n, g in gates.items()}, batch, key)
  return {
    layer: np.asarray(jnp.abs(rows).mean(0)) * np.asarray(gates[layer])
    for layer, rows in found.grads.items()
  }


def magnitude(params: Params, gates: Gates) -> dict[str, np.ndarray]:
  """Score of every unit: length of the weights that feed it; 0 of silent ones."""
  return {
    layer: np.sqrt(np.square(np.asarray(params[layer]["kernel"]).reshape(-1, len(own))).sum(0))
    * np.asarray(own)
    for layer, own in gates.items()
  }


def kept(
  scores: Mapping[str, np.ndarray], used: Gates, share: float | int
) -> dict[str, np.ndarray]:
  """The free units of the highest scores, `share` of each layer's units.

  >>> kept({"hidden": np.array([9.0, 1.0, 3.0, 2.0])}, {"hidden": np.array([1, 0, 0, 0])}, 0.5)
  {'hidden': array([0., 0., 1., 1.], dtype=float32)}

  Args:
    scores: of all units.
    used: units of earlier domains, which are not to be had.
    share: of all units of a layer, rounded down, but one unit at least.
  Raises:
    InputError: fewer free units in a layer than that.
  """
  check.in_interval("share", share, 0, 1)
  found = {}
  for layer, own in scores.items():
    free = np.asarray(used[layer]) == 0
    number = max(int(share * len(own) + 1e-6), 1)  # of five domains a fifth each must fit
    check.require(
      number <= free.sum(),
      f"{number} free units in {layer}",
      f"{int(free.sum())} of {len(own)}",
      "keep a smaller share for each domain, or widen the layer",
    )
    # Ties go to the first unit, after rounding: another processor may differ in the last bit.
    rounded = np.where(free, own.astype(np.float32), -np.inf)
    best = np.argsort(-np.round(rounded, 6), kind="stable")[:number]
    found[layer] = np.zeros(len(own), np.float32)
    found[layer][best] = 1.0
  return found
