"""V-REx: the mean of the domains' risks and their variance (Krueger et al. 2021).

min over phi of  mean_d R_d + beta Var_d R_d,   R_d = mean loss of domain d        (Eq. 9)
"""

import jax
import optax

from medjax.axes import BATCH_AXIS
from medjax.grads.domains import Domains
from medjax.methods import domain_risks
from medjax.types import Key, LossFn, Params, PyTree, Step


def vrex(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  num_domains: int,
  *,
  strength: domain_risks.Strength = 10.0,
) -> Step:
  """Step of gradient descent on risks that shall be equal in all domains.

  >>> import jax.numpy as jnp
  >>> step = vrex(lambda w, x, key: (w - x["x"]) ** 2, optax.sgd(0.1), 2)
  >>> batch = {"x": jnp.array([0.0, 2.0]), "domain": jnp.array([0, 1])}
  >>> state, metrics = step.update(step.init(jnp.float32(0), jax.random.key(0)), batch,
  ...                              jax.random.key(0))
  >>> float(metrics["loss"]), float(metrics["penalty"]), round(float(state.params), 3)
  (2.0, 4.0, 8.2)

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: any optax transformation.
    num_domains: of all sources that train; domains are 0 .. num_domains - 1.
    strength: beta, or a function of the step. DomainBed has 1 in the first 500 steps and 10 after
      them. DEVIATION: it also makes a new Adam at that step; here the moments go on.
  Returns:
    Step over `batch.domain` with the metrics of `domain_risks.descent` and "penalty", the variance
    of the risks. A domain without an example in the batch takes no part; of one domain the penalty
    is 0.
  """

  def objective(step: jax.Array) -> domain_risks.Minimised:
    def minimised(
      params: Params, batch: PyTree, keys: Key, of: Domains, extra: PyTree
    ) -> domain_risks.Objective:
      losses = jax.vmap(loss_fn, (None, 0, 0), axis_name=BATCH_AXIS)(params, batch, keys)
      risks = of.mean(losses)
      mean = of.over(risks)
      penalty = of.over((risks - mean) ** 2)
      total = mean + domain_risks.at_step(strength, step) * penalty
      return domain_risks.Objective(total, risks, {"penalty": penalty}, extra)

    return minimised

  return domain_risks.descent(objective, tx, num_domains)
