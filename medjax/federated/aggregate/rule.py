"""What an aggregation rule is: client vectors and their weights in, one vector out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from medjax import check
from medjax.federated import rows as matrix
from medjax.types import Key, Leaf, Metrics, Params, PyTree


class Aggregate(NamedTuple):
  """What a rule makes of a round.

  Attributes:
    vector: [parameters] the joined update.
    weights: [clients] share of each client in it, of sum 1 (0 for all when nobody counts); of a
      rule that works on every coordinate by itself, the mean share over coordinates.
    aux: flat dict of scalars, among them "absent" (clients of positive weight that were left out
      because a value was not finite) and "too_few" (1: fewer are present than the rule needs, and
      the vector is zero).
  """

  vector: Leaf
  weights: Leaf
  aux: Metrics


@dataclasses.dataclass(frozen=True)
class Rule:
  """An aggregation rule; call it as `rule(rows, weight)`.

  Attributes:
    name: with its options, as it stands in a run's manifest.
    join: `join(rows, weight, on, *, previous, root, key, layers, metrics, loss_of) -> (vector,
      weights)` on rows that are finite, zero for the absent.
    least: clients that must be present, else the round says "too_few".
    is_mean: the vector is the weighted mean of the rows, which differential privacy needs.
    keeps_previous: it reads `previous`, the vector of the round before.
    root: `root(params, key) -> update like params` that the server computes on data of its own;
      None for rules that need none.
    judge: `judge(params, key) -> scalar`, a loss of the joined model, of which the server makes
      `loss_of`; None for rules that need none.
  """

  name: str
  join: Callable[..., tuple[jax.Array, jax.Array]]
  least: int = 1
  is_mean: bool = False
  keeps_previous: bool = False
  root: Callable[[Params, Key], PyTree] | None = None
  judge: Callable[[Params, Key], jax.Array] | None = None

  def __call__(
    self,
    rows: ArrayLike,
    weight: ArrayLike,
    *,
    previous: ArrayLike | None = None,
    root: ArrayLike | None = None,
    key: Key | None = None,
    layers: Sequence[slice] | None = None,
    metrics: Mapping[str, ArrayLike] | None = None,
    loss_of: Callable[[jax.Array], jax.Array] | None = None,
  ) -> Aggregate:
    """Joins client vectors.

    Args:
      rows: [clients, parameters] float32, a client's update each.
      weight: [clients] >= 0; 0 marks an absent client. Only the means use more of it than that: a
        client that is wrong on purpose would also lie about its weight.
      previous: [parameters] vector of the round before, for rules that start from it; default 0.
      root: [parameters] the server's own update, for `fltrust`.
      key: for rules that draw.
      layers: where each leaf of the parameters lies in a row, for rules that weigh layers; default:
        the row is one layer.
      metrics: name -> [clients] of what clients report, for rules that read it.
      loss_of: `loss_of(vector) -> scalar` of what a vector would make of the model, for
        `auto_fedavg`.
    Raises:
      InputError: shapes that do not fit, or fewer rows than the rule needs.
    Guarantees: an absent client distorts nothing; one whose row is not finite counts as absent.
    """
    rows, weight = jnp.asarray(rows), jnp.asarray(weight)
    check.require(
      rows.ndim == 2 and weight.shape == rows.shape[:1],
      "rows [clients, parameters] and a weight for each client",
      f"shapes {rows.shape} and {weight.shape}",
      "flatten each client's update to one row",
    )
    self.check_size(len(rows))
    on = matrix.is_present(rows, weight)
    finite = matrix.masked(rows, on)
    start = jnp.zeros_like(rows[0]) if previous is None else jnp.asarray(previous)
    own = None if root is None else jnp.asarray(root)
    vector, weights = self.join(
      finite,
      weight,
      on,
      previous=start,
      root=own,
      key=key,
      layers=[slice(0, rows.shape[1])] if layers is None else list(layers),
      metrics={name: jnp.asarray(value) for name, value in (metrics or {}).items()},
      loss_of=loss_of,
    )
    enough = on.sum() >= self.least
    aux = {
      "absent": ((weight > 0) & ~on).sum().astype(jnp.float32),
      "too_few": (~enough).astype(jnp.float32),
    }
    return Aggregate(jnp.where(enough, vector, 0), jnp.where(enough, weights, 0), aux)

  def check_size(self, clients: int) -> None:
    """Raises InputError if `clients` are fewer than the rule needs."""
    check.require(
      clients >= self.least,
      f"at least {self.least} clients a round for {self.name}",
      f"{clients}",
      "lower the number of wrong clients f, or sample more clients",
    )


def check_wrong(f: int) -> None:
  """Raises InputError unless f, the number of wrong clients, is a whole number >= 0."""
  check.require(f >= 0, "a number of wrong clients f >= 0", f"f={f}", "pass 0 or more")
