"""Cross-entropy where some classes are much rarer than others: logits shifted by class counts.

  logit adjustment (Menon et al., ICLR 2021):    CE(z_k + tau log n_k)
  balanced softmax (Ren et al., NeurIPS 2020):   the same with tau = 1
  calibrated margins (FedLC, Zhang et al., ICML 2022):   CE(z_k - tau n_k^(-1/4))

n_k are the counts of the classes where one trains; in a federation those of the client, which then
need not be told to anybody. Predictions take the logits as they are: only training is shifted.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Real

from medjax import check
from medjax.losses.entropy import cross_entropy
from medjax.tree import at_least_float32

Counts = Real[Array | np.ndarray, " counted"]


def logit_adjusted(
  logits: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  counts: Counts,
  *,
  tau: float | int = 1.0,
) -> Float[Array, ""]:
  """Cross-entropy of z_k + tau log n_k, in nats; tau = 1 is the balanced softmax.

  >>> import jax.numpy as jnp
  >>> z, y = jnp.zeros(2), jnp.int32(1)  # equal logits: the shifted softmax is the class's share
  >>> round(float(jnp.exp(-logit_adjusted(z, y, jnp.array([9.0, 1.0])))), 3)
  0.1

  Args:
    logits, label: as for `cross_entropy`.
    counts: [class] examples or shares of each class, 0 or more; may be traced. A class of count 0
      leaves the softmax: what is nowhere seen is not pushed down.
    tau: 0 or more; 0 is `cross_entropy` over the classes that are there.
  Raises:
    InputError: counts of another length, a negative one or none above 0 (unless traced), a
      negative tau.
  """
  check.non_negative("tau", tau)
  counts = _checked(counts, logits.shape[-1])
  return _shifted(logits, label, counts, tau * jnp.log(jnp.maximum(counts, 1e-30)))


def margin_calibrated(
  logits: Float[Array, "*space classes"],
  label: Integer[Array, "*label_space"],
  counts: Counts,
  *,
  tau: float | int = 1.0,
) -> Float[Array, ""]:
  """Cross-entropy of z_k - tau n_k^(-1/4), in nats: wider margins for rarer classes (FedLC).

  Args:
    logits, label, counts: as for `logit_adjusted`; counts are examples, not shares.
    tau: 0 or more; the paper tries 0.1 to 1.
  Raises:
    InputError: as for `logit_adjusted`.
  """
  check.non_negative("tau", tau)
  counts = _checked(counts, logits.shape[-1])
  return _shifted(logits, label, counts, -tau * jnp.maximum(counts, 1e-30) ** -0.25)


def _shifted(logits: jax.Array, label: jax.Array, counts: jax.Array, by: jax.Array) -> jax.Array:
  logits = at_least_float32(logits)
  lowest = jnp.finfo(logits.dtype).min / 2  # its exponential is 0
  return cross_entropy(jnp.where(counts > 0, logits + by, lowest), label)


def _checked(counts: Counts, num_classes: int) -> jax.Array:
  check.same_shape("counts", counts.shape, "the classes", (num_classes,))
  if not isinstance(counts, jax.core.Tracer):
    seen = np.asarray(counts)
    check.require(
      (seen >= 0).all() and seen.any(),
      "counts of 0 or more, one above 0",
      f"{seen.tolist()}",
      "count the labels of the training cases",
    )
  return at_least_float32(jnp.asarray(counts))
