"""Clients that went far count less: the two forms of Fed-NCL (Tam et al. 2021).

  d_li = 1 + |W_li - W_l|            layer l of client i against the model that the server sent
  D_i  = loss_i / n_i sum_l d_li     n_i: the client's weight, such as its number of examples
  V2   w_i  = (1 / D_i) / sum_j (1 / D_j)                          one weight for all layers
  V4   w_li = (1 / (p_i d_li)) / sum_j (1 / (p_j d_lj))            a weight for every layer

p_i is a penalty on outliers, clients whose D_i (without the loss) is more than k standard
deviations from the mean of all. Weights fall with the divergence, as in the released code; the
papers that cite it also say that they are proportional to it. The released code computes the
weights of V2 and then joins with d_li themselves, whose sum is not 1; here they sum to 1.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from medjax import check
from medjax.federated import rows as matrix
from medjax.federated.aggregate.rule import Rule

_LEAST_LOSS = 1e-6  # a client whose loss is 0 would have all the weight


def fed_ncl_v2(metric: str = "loss") -> Rule:
  """One weight a client, which falls with its divergence and loss and rises with its examples.

  Args:
    metric: of the client, 0 or more. "loss" of `local` is the mean over the round's local updates,
      where the papers take the loss of the model that was sent; give that a name of its own to have
      it. A client that is wrong on purpose would lie about it.
  Returns:
    A rule that raises InputError where it is called without that metric.

  >>> rows = jnp.array([[0.0], [0.0], [3.0]])  # d = 1, 1, 4
  >>> found = fed_ncl_v2()(rows, jnp.ones(3), metrics={"loss": jnp.array([1.0, 2.0, 1.0])})
  >>> [round(7 * share, 3) for share in found.weights.tolist()]
  [4.0, 2.0, 1.0]
  """

  def join(
    rows: jax.Array,
    weight: jax.Array,
    on: jax.Array,
    *,
    layers: Sequence[slice],
    metrics: Mapping[str, jax.Array],
    **others: object,
  ):
    check.one_of("metric of a client", metric, sorted(metrics))
    loss = jnp.maximum(metrics[metric], _LEAST_LOSS)
    total = _divergence(rows, layers).sum(1) * loss / jnp.where(on, weight, 1)
    weights = matrix.shared(1 / total, on)
    return matrix.combine(weights, rows), weights

  return Rule(f"fed_ncl_v2({metric})", join)


def fed_ncl_v4(*, penalty: float | int = 1.0, deviations: float | int = 1.0) -> Rule:
  """One weight for every leaf of the parameters of every client, which falls with its divergence.

  Args:
    penalty: p >= 1 of outliers; 1: none.
    deviations: k > 0, standard deviations (n - 1) from the mean beyond which a client is one.
  Returns:
    A rule whose `weights` are the mean shares over the numbers of a row.
  """
  check.require(penalty >= 1, "penalty >= 1", f"{penalty}", "1 has no penalty")
  check.positive("deviations", deviations)

  def join(
    rows: jax.Array, weight: jax.Array, on: jax.Array, *, layers: Sequence[slice], **others: object
  ):
    far = _divergence(rows, layers)
    total = jnp.where(on, far.sum(1) / jnp.where(on, weight, 1), 0)
    mean = total.sum() / jnp.maximum(on.sum(), 1)
    squares = jnp.where(on, (total - mean) ** 2, 0).sum()
    spread = jnp.sqrt(squares / jnp.maximum(on.sum() - 1, 1))
    is_outlier = jnp.abs(total - mean) > deviations * spread
    far = far * jnp.where(is_outlier, penalty, 1)[:, None]
    shares = jax.vmap(matrix.shared, (1, None), 1)(1 / far, on)  # [clients, layers]
    parts = [matrix.combine(shares[:, i], rows[:, where]) for i, where in enumerate(layers)]
    sizes = jnp.array([where.stop - where.start for where in layers], rows.dtype)
    return jnp.concatenate(parts), shares @ sizes / rows.shape[1]

  return Rule(f"fed_ncl_v4(penalty={penalty:g})", join)


def _divergence(rows: jax.Array, layers: Sequence[slice]) -> jax.Array:
  """[clients, layers] d_li; a row is what a client changed, so that its norm is the distance."""
  return 1 + jnp.stack([jnp.linalg.norm(rows[:, where], axis=1) for where in layers], axis=1)
