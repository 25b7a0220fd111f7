"""What an attack is: some clients are in one hand, and it says what that hand may see.

Attacks are here to test aggregation rules: one that no attack was tried on has not been tested.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.types import Key, Params, PyTree

Sight = Literal["own updates", "all updates", "parameters", "own data", "rule"]


class View(NamedTuple):
  """What an attack sees of a round.

  Attributes:
    rows: [clients, parameters] honest updates: the wrong clients' own, zeros for the others unless
      the attack says that it sees "all updates".
    on: [clients] bool, whose row is given and present.
    is_wrong: [clients] bool, present clients in the attacker's hand.
    client: [clients] ids.
    num_present: how many clients are present, wrong ones included.
    params: the global parameters.
    unravel: row [parameters] -> tree like `params`, zeros where nothing is sent.
    ravel: tree like `params` -> row.
    key: for attacks that draw.
  """

  rows: jax.Array
  on: jax.Array
  is_wrong: jax.Array
  client: jax.Array
  num_present: jax.Array
  params: Params
  unravel: Callable[[jax.Array], PyTree]
  ravel: Callable[[PyTree], jax.Array]
  key: Key

  @property
  def own(self) -> jax.Array:
    """[clients] bool: rows of the wrong clients."""
    return self.on & self.is_wrong

  @property
  def num_wrong(self) -> jax.Array:
    return self.is_wrong.sum()

  def deviation(self, on: jax.Array) -> jax.Array:
    """[parameters] standard deviation of some rows, with denominator n."""
    centred = matrix.masked(self.rows - matrix.mean(self.rows, on)[None], on)
    return jnp.sqrt(matrix.mean(centred**2, on))


@dataclasses.dataclass(frozen=True)
class Attack:
  """Wrong updates from the clients with ids 0..f-1; pass it to `federated(attack=...)`.

  Attributes:
    name: with its options, for the manifest.
    f: number of wrong clients among all.
    sees: what the attacker must know; what it does not name is kept from it.
    make: `make(view) -> [parameters]` that all wrong clients send, or [clients, parameters] of
      which the rows of the wrong clients are sent.
  """

  name: str
  f: int
  sees: tuple[Sight, ...]
  make: Callable[[View], Any]

  def __post_init__(self):
    check.require(self.f >= 1, "at least one wrong client", f"f={self.f}", "leave the attack out")

  def __call__(
    self,
    rows: jax.Array,
    weight: jax.Array,
    client: jax.Array,
    *,
    params: Params,
    unravel: Callable[[jax.Array], PyTree],
    ravel: Callable[[PyTree], jax.Array],
    key: Key,
  ) -> jax.Array:
    """Rows as they arrive at the server; `client` [clients] holds ids.

    Guarantees: only rows of wrong clients change; `make` is given zeros for all it may not see.
    """
    on = matrix.is_present(rows, weight)
    is_wrong = on & (client < self.f)
    seen = on if "all updates" in self.sees else is_wrong
    view = View(
      matrix.masked(rows, seen), seen, is_wrong, client, on.sum(), params, unravel, ravel, key
    )
    sent = jnp.asarray(self.make(view))
    sent = jnp.broadcast_to(sent[None], rows.shape) if sent.ndim == 1 else sent
    return jnp.where(is_wrong[:, None], sent, rows)


def honest_mean(view: View) -> jax.Array:
  """[parameters] mean of the rows that the attack sees."""
  return matrix.mean(view.rows, view.on)
