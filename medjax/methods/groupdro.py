"""GroupDRO: gradient descent on the domains that do worst (Sagawa et al. 2020).

q_d <- q_d exp(eta R_d) / sum_e q_e exp(eta R_e),    min over phi of  sum_d q_d R_d     (Alg. 1)
"""

import jax
import jax.numpy as jnp
import optax

from medjax import check
from medjax.axes import BATCH_AXIS
from medjax.grads.domains import Domains
from medjax.methods import domain_risks
from medjax.types import Key, LossFn, Params, PyTree, Step


def groupdro(
  loss_fn: LossFn, tx: optax.GradientTransformation, num_domains: int, *, rate: float = 0.01
) -> Step:
  """Step on a weighted sum of the risks whose weights grow where the risk is high.

  >>> step = groupdro(lambda w, x, key: (w - x["x"]) ** 2, optax.sgd(0.1), 2, rate=0.25)
  >>> batch = {"x": jnp.array([0.0, 2.0]), "domain": jnp.array([0, 1])}
  >>> state, _ = step.update(step.init(jnp.float32(0), jax.random.key(0)), batch,
  ...                        jax.random.key(0))
  >>> [round(float(q), 3) for q in jnp.exp(state.extra)]  # risks 0 and 4: softmax(0, 1)
  [0.269, 0.731]

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: any optax transformation.
    num_domains: of all sources that train; domains are 0 .. num_domains - 1.
    rate: eta, above 0; DomainBed's 0.01.
  Returns:
    Step over `batch.domain`; log q is kept in `TrainState.extra`. Metrics of `domain_risks.descent`
    and "largest_weight", the largest q. The weight of a domain without an example in the batch
    stays in proportion, and those of the others are scaled to 1 in the objective.
  """
  check.positive("rate", rate)

  def objective(step: jax.Array) -> domain_risks.Minimised:
    del step

    def minimised(
      params: Params, batch: PyTree, keys: Key, of: Domains, extra: jax.Array
    ) -> domain_risks.Objective:
      losses = jax.vmap(loss_fn, (None, 0, 0), axis_name=BATCH_AXIS)(params, batch, keys)
      risks = of.mean(losses)
      gains = jnp.where(of.is_there, rate * jax.lax.stop_gradient(risks), 0.0)
      log_weight = jax.nn.log_softmax(extra + gains)
      own = jnp.where(of.is_there, jnp.exp(log_weight), 0.0)
      total = (own * risks).sum() / jnp.maximum(own.sum(), 1e-30)
      largest = {"largest_weight": jnp.exp(log_weight).max()}
      return domain_risks.Objective(total, risks, largest, log_weight)

    return minimised

  start = jnp.full(num_domains, -jnp.log(float(num_domains)), jnp.float32)
  return domain_risks.descent(objective, tx, num_domains, start)
