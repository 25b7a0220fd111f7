"""The server's half of a round: rows are joined, the server's optimiser moves the parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import rng
from medjax.federated import rows as matrix
from medjax.federated import traffic
from medjax.federated.aggregate.rule import Rule
from medjax.federated.parts import Layout
from medjax.federated.state import Federation, Received, Rounds, in_order, side_by_side, tree_of
from medjax.types import Key, Leaf, Metrics, Params, PyTree, TrainState


class Joined(NamedTuple):
  """The rows of a round in one.

  Attributes:
    vector: [parameters].
    weights: [cohort] how far each client is believed, of sum 1: by the rule of the parameters that
      no part names, or by the cohort's weights where parts name them all.
    top_weight: the largest share that one client has in any part.
    too_few: 1 if some rule needed more clients.
    broken: clients whose row is not finite.
  """

  vector: jax.Array
  weights: jax.Array
  top_weight: jax.Array
  too_few: jax.Array
  broken: jax.Array


def join(
  federation: Federation,
  layout: Layout,
  state: TrainState,
  received: Received,
  key: Key,
) -> Joined:
  """Every part by its own rule, a mean leaf by leaf."""
  vectors, weights, too_few, broken = [], {}, [jnp.float32(0)], [jnp.float32(0)]
  for name, rule, where in layout.slices:
    root = None
    if rule.root is not None:
      root = layout.row(rule.root(state.params, rng.stream(key, "root")))[where]
    pieces = received.pieces[layout.pieces_of[name]]
    if rule.is_mean:  # of clients that `accumulate` found finite, or that an attack replaced
      on = received.weight > 0
      for piece in pieces:
        on &= jnp.isfinite(piece).all(1)
      weights[name] = matrix.shared(received.weight, on)
      vectors += [matrix.combine(weights[name], matrix.masked(piece, on)) for piece in pieces]
      too_few.append((~on.any()).astype(jnp.float32))
      broken.append(((received.weight > 0) & ~on).sum().astype(jnp.float32))
      continue
    sizes = [piece.shape[1] for piece in pieces]
    ends = np.cumsum(sizes).tolist()
    found = rule(
      side_by_side(pieces, received.weight),
      received.weight,
      previous=state.extra.previous[where] if rule.keeps_previous else None,
      root=root,
      key=rng.stream(key, f"aggregate {name}"),
      layers=[slice(end - size, end) for end, size in zip(ends, sizes, strict=True)],
      metrics=received.metrics,
      loss_of=_loss_of(rule, layout, state.params, where, rng.stream(key, "judge")),
    )
    vectors.append(found.vector)
    weights[name] = found.weights
    too_few.append(found.aux["too_few"])
    broken.append(found.aux["absent"])
  usual = matrix.shared(received.weight, received.weight > 0)
  return Joined(
    vector=jnp.concatenate([*vectors, jnp.zeros(0, jnp.float32)]),
    weights=weights.get("rest", usual),
    top_weight=jnp.stack([jnp.max(w) for w in weights.values()] or [jnp.float32(0)]).max(),
    too_few=jnp.stack(too_few).max(),
    broken=jnp.stack(broken).max(),
  )


def _loss_of(
  rule: Rule, layout: Layout, params: Params, where: slice, key: Key
) -> Callable[[jax.Array], jax.Array] | None:
  """The rule's judgement of the parameters after a part was moved by a vector."""
  judge = rule.judge
  if judge is None:
    return None

  def loss(vector: jax.Array) -> jax.Array:
    row = jnp.zeros(layout.size).at[where].set(vector)
    moved = jax.tree.map(lambda p, d: (p + d).astype(p.dtype), params, layout.tree(row, params))
    return judge(moved, key)

  return loss


def finish(
  federation: Federation, state: TrainState, acc: Received, key: Key
) -> tuple[TrainState, Metrics]:
  """The state after a round, and what is shown of it."""
  layout, received = federation.layout(state.params), in_order(acc, federation.num_clients)
  if federation.attack is not None:
    rows = federation.attack(
      received.rows,
      received.weight,
      received.client,
      params=state.params,
      unravel=lambda row: layout.tree(row, state.params),
      ravel=layout.row,
      key=rng.stream(key, "attack"),
    )
    received = received._replace(pieces=jax.vmap(layout.cut)(rows))
  joined = join(federation, layout, state, received, key)
  num_present = (received.weight > 0).sum()
  is_empty = num_present == 0
  goes = ~is_empty & (joined.too_few == 0)

  backwards = jax.tree.map(jnp.negative, layout.tree(joined.vector, state.params))
  updates, opt_state = federation.optimiser.update(backwards, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  params = layout.with_own(params, layout.own_of(state.params))  # weight decay may not touch them
  statistics = tree_of(matrix.combine(joined.weights, received.statistics), state.model_state)

  def choose(new: PyTree, old: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(goes, a, b).astype(b.dtype), new, old)

  share = matrix.shared(received.weight, received.weight > 0)
  shown = {
    name: jnp.where(is_empty, state.extra.shown[name], (share * values).sum())
    for name, values in received.metrics.items()
  }
  has_previous = not isinstance(state.extra.previous, tuple)
  previous: Leaf = choose(joined.vector, state.extra.previous) if has_previous else ()
  new = TrainState(
    state.step + 1,
    choose(params, state.params),
    choose(opt_state, state.opt_state),
    choose(statistics, state.model_state),
    Rounds(received.clients, previous, shown),
  )
  stops = ~is_empty & (joined.too_few > 0) & (not federation.skips_small_rounds)
  metrics = {
    **{name: jnp.where(stops, jnp.nan, value) for name, value in shown.items()},
    "clients": num_present.astype(jnp.float32),
    "absent": received.broken + joined.broken,
    "too_few": jnp.where(is_empty, 0, joined.too_few),
    "top_weight": joined.top_weight,
    "update_norm": jnp.where(goes, jnp.linalg.norm(joined.vector), 0),
    **traffic.of(layout, state, received.asked, federation.client.shared, federation.compress),
  }
  return new, metrics
