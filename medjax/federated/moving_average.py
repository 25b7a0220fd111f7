"""A client's moving average of the models that it was sent.

  corrected   m^t = gamma m^{t-1} + (1 - gamma) omega^t,   omega_c^t = m^t / (1 - gamma^t)
  printed     omega_c^t = (gamma omega_c^{t-1} + (1 - gamma) omega^t) / (1 - gamma^t)

FedAutoMRI (Wu et al. 2023), Eq. 7, prints the second line, which divides what has been divided
before: where the server always sends 1, it rises to 3.9e3 for gamma = .9 before it falls again, and
to 1.6e39 for .99 in 59 rounds. With the first line it stays 1. A client that takes part in every
round has the same average as all others: it is personal only where clients are asked now and then.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.federated.client import Broadcast, Client, ClientReport
from medjax.types import Key, Params, PyTree

AverageForm = Literal["corrected", "printed"]


def moved(
  mean: Any, value: Any, decay: float | int, count: Any, form: AverageForm = "corrected"
) -> Any:
  """What is kept after round `count` = 1, 2, ...; begin with zeros.

  >>> first = moved(0.0, 1.0, 0.9, 1, "printed")
  >>> round(moved(first, 1.0, 0.9, 2, "printed"), 2)  # 1 / (1 - .81), where 1 was sent twice
  5.26
  """
  check.one_of("form", form, get_args(AverageForm))
  new = decay * mean + (1 - decay) * value
  return new / (1 - decay**count) if form == "printed" else new


def read(mean: Any, decay: float | int, count: Any, form: AverageForm = "corrected") -> Any:
  """The average omega_c after round `count`, 1 or more."""
  return mean if form == "printed" else mean / (1 - decay**count)


def with_moving_average(
  client: Client, decay: float = 0.9, *, form: AverageForm = "corrected"
) -> Client:
  """The same client, which also keeps the average of the models that it was sent.

  Args:
    client: from `local`, or one's own; what it does and sends does not change.
    decay: gamma, in [0, 1).
    form: "corrected", or the printed recursion.
  Returns:
    Client that keeps {"client": what it kept, "mean", "count"}; read with `averages_of`.
  """
  check.require(0 <= decay < 1, "decay in [0, 1)", f"{decay}", "pass for example 0.9")
  check.one_of("form", form, get_args(AverageForm))

  def init(params: Params, key: Key) -> tuple[PyTree, PyTree]:
    kept, statistics = client.init(params, key)
    mean = jax.tree.map(jnp.zeros_like, params)
    return {"client": kept, "mean": mean, "count": jnp.zeros((), jnp.int32)}, statistics

  def run(broadcast: Broadcast, kept: PyTree, batches: PyTree, key: Key) -> ClientReport:
    report = client.run(broadcast, kept["client"], batches, key)
    count = kept["count"] + 1
    t = count.astype(jnp.float32)
    mean = jax.tree.map(lambda m, w: moved(m, w, decay, t, form), kept["mean"], broadcast.params)
    return report._replace(kept={"client": report.kept, "mean": mean, "count": count})

  def shared(kept: PyTree) -> PyTree:
    return client.shared(kept["client"])

  manifest = {**client.manifest, "moving_average": decay, "moving_average_form": form}
  return client._replace(init=init, run=run, shared=shared, manifest=manifest)


def averages_of(
  kept: Any, decay: float, *, form: AverageForm = "corrected"
) -> tuple[Params, np.ndarray]:
  """Averages [client, ...] out of `state.extra.clients.kept`, and how many rounds each has seen.

  The average of a client that was never asked is 0.
  """
  count = np.asarray(kept["count"])
  seen = jnp.maximum(jnp.asarray(count, jnp.float32), 1)

  def leaf(mean: jax.Array) -> jax.Array:
    return read(mean, decay, seen.reshape(-1, *[1] * (mean.ndim - 1)), form)

  return jax.tree.map(leaf, kept["mean"]), count
