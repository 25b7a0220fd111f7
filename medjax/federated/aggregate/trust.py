"""Trust from the server's own data (FLTrust, Cao et al., NDSS 2021).

t_i = ReLU(cos(v_i, v_0)),   v = sum_i t_i |v_0| / |v_i| v_i / sum_i t_i
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule
from medjax.types import Key, Params, PyTree


def fltrust(root: Callable[[Params, Key], PyTree]) -> Rule:
  """Clients count by their cosine to an update that the server computes itself.

  Args:
    root: `root(params, key) -> update` like `params`: what the server's own training on a small
      clean set changes, for example a few steps of descent. Called by `federated` once a round.
  Returns:
    A rule whose result is 0 when no client points the server's way: the round then moves nothing.
  """

  def join(
    rows: jax.Array, weight: jax.Array, on: jax.Array, *, root: Any = None, **others: object
  ):
    check.require(root is not None, "the server's own update", "none", "pass root=... to the rule")
    own, norms = jnp.linalg.norm(root), jnp.linalg.norm(rows, axis=1)
    cosine = (rows @ root) / jnp.maximum(norms * own, 1e-30)
    trust = matrix.shared(jnp.maximum(cosine, 0), on)
    return matrix.combine(trust * own / jnp.maximum(norms, 1e-30), rows), trust

  return Rule("fltrust", join, root=root)
