"""Cox's partial likelihood: who has the event next, among those who still could.

With r_i the log hazard of a person, t_i their time and R_i = {j: t_j >= t_i} who is at risk then,

  log L = sum over events i of (r_i - log sum_{j in R_i} exp r_j)       (Cox, 1975; Breslow, 1974)

A person's term reads the risks of others, so a loss of one example cannot hold it: examples meet on
the axis that a batch is vmapped over, and methods that need a gradient of each person alone
(clipped sums, private training) refuse it.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from medjax import check
from medjax.axes import BATCH_AXIS, require_batch_axis
from medjax.tree import at_least_float32

Ties = Literal["breslow", "efron"]


def cox(
  risk: Float[Array, ""],
  time: Float[Array, ""] | Integer[Array, ""],
  event: Bool[Array, ""] | Float[Array, ""] | Integer[Array, ""],
  *,
  ties: Ties = "breslow",
  is_there: Bool[Array, ""] | bool = True,
) -> Float[Array, ""]:
  """One person's part of -log L, of mean -log L / n over a batch of n people; 0 without an event.

  >>> batch = jnp.zeros(3), jnp.array([1, 2, 3]), jnp.array([True, False, True])
  >>> jax.vmap(cox, axis_name="batch")(*batch).round(4).tolist()  # log 3, censored, log 1
  [1.0986000299453735, 0.0, 0.0]

  Args:
    risk: log hazard ratio r, of any offset.
    time: of the event, or of the last visit without one.
    event: whether (1, True) it was seen.
    ties: of several events at one time. "breslow": each of them is drawn from all at risk. "efron":
      the l-th of d is drawn from all at risk less l / d of the d (Efron, 1977), nearer to the truth
      where ties are many; equal without ties.
    is_there: False: padding, at risk for nobody and without a term. Weights other than 0 and 1 are
      not known to it.
  Raises:
    InputError: outside of a `jax.vmap(..., axis_name=axes.BATCH_AXIS)`.
  """
  check.one_of("ties", ties, ("breslow", "efron"))
  require_batch_axis(
    f"a vmapped axis named {BATCH_AXIS!r} for a loss that couples people",
    "a loss of one example",
    "train with methods.supervised; a method with a gradient of each person has no Cox loss",
  )
  risk, place = at_least_float32(risk), jax.lax.axis_index(BATCH_AXIS)
  has_event = (jnp.asarray(event) > 0) & is_there

  def everyone(x: Array) -> Array:
    return jax.lax.all_gather(x, BATCH_AXIS)

  risks, times, events = everyone(risk), everyone(jnp.asarray(time)), everyone(has_event)
  are_there = everyone(jnp.asarray(is_there))
  # Who has no term stands in their own risk set all the same, so that no logarithm is of 0.
  is_self = jnp.arange(risks.shape[0]) == place
  at_risk = ((times >= time) & are_there) | is_self
  total = jax.nn.logsumexp(jnp.where(at_risk, risks, -jnp.inf))
  if ties == "efron":
    tied = ((times == time) & events) | is_self
    # log(S - l / d D) = log S + log(1 - l / d D / S), with l < d and D <= S for whoever has a term
    before = jnp.where(has_event, (tied & (jnp.arange(risks.shape[0]) < place)).sum(), 0)
    share = jnp.exp(jax.nn.logsumexp(jnp.where(tied, risks, -jnp.inf)) - total)
    total = total + jnp.log1p(-before / tied.sum() * jnp.where(has_event, share, 0))
  return jnp.where(has_event, total - risk, 0.0)
