"""IRM and IB-IRM: one classifier that is optimal in every domain, on features of low variance.

min over phi of  mean_d R_d + beta mean_d P_d + gamma mean_d V_d

P_d = (d/ds R_d(s logits) at s = 1)^2     IRMv1 (Arjovsky et al. 2019)
V_d = mean over features of Var_d[f]      information bottleneck (Ahuja et al. 2021)
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from medjax.axes import BATCH_AXIS
from medjax.grads.domains import Domains
from medjax.methods import domain_risks
from medjax.types import Array, Key, Params, PyTree, Step

Predict: TypeAlias = Callable[[Params, PyTree, Key], Array]
OutputLoss: TypeAlias = Callable[[Array, PyTree], Array]


def irm(
  predict: Predict,
  cost: OutputLoss,
  tx: optax.GradientTransformation,
  num_domains: int,
  *,
  strength: domain_risks.Strength = 100.0,
) -> Step:
  """Step of gradient descent with the penalty of IRMv1.

  >>> cost = lambda logits, example: 0.5 * (logits - example["y"]) ** 2
  >>> step = irm(lambda w, example, key: w, cost, optax.sgd(0.0), 1)
  >>> batch = {"y": jnp.array([0.0, -1.0]), "domain": jnp.array([0, 0])}
  >>> _, metrics = step.update(step.init(jnp.float32(1), jax.random.key(0)), batch,
  ...                          jax.random.key(0))
  >>> float(metrics["penalty"])  # slopes along the scale: (1 - 0) 1 and (1 + 1) 1
  2.0

  Args:
    predict: `predict(params, example, key) -> logits` of ONE example.
    cost: `cost(logits, example) -> scalar`.
    tx: any optax transformation.
    num_domains: of all sources that train; domains are 0 .. num_domains - 1.
    strength: beta, or a function of the step. DomainBed has 1 in the first 500 steps and 100 after
      them. DEVIATION: it also makes a new Adam at that step; here the moments go on.
  Returns:
    Step over `batch.domain` with the metrics of `domain_risks.descent` and "penalty". DEVIATION:
    P_d is estimated without bias as the mean of the products of the slopes of all pairs of two
    different examples; DomainBed multiplies the means of the even and of the odd positions, which
    depends on their order and is noisier. It can be negative. A domain with one example in the
    batch has no pair and no penalty.
  """
  with_features = lambda params, example, key: (predict(params, example, key), jnp.zeros(1))  # noqa: E731
  return ib_irm(with_features, cost, tx, num_domains, strength=strength, bottleneck=0.0)


def ib_irm(
  predict: Callable[[Params, PyTree, Key], tuple[Array, Array]],
  cost: OutputLoss,
  tx: optax.GradientTransformation,
  num_domains: int,
  *,
  strength: domain_risks.Strength = 100.0,
  bottleneck: domain_risks.Strength = 100.0,
) -> Step:
  """`irm` with the variance of the features as a further penalty.

  >>> predict = lambda w, example, key: (w * example["x"], w * example["x"])
  >>> step = ib_irm(predict, lambda y, example: 0.5 * y**2, optax.sgd(0.0), 1)
  >>> batch = {"x": jnp.array([0.0, 2.0]), "domain": jnp.array([0, 0])}
  >>> _, metrics = step.update(step.init(jnp.float32(1), jax.random.key(0)), batch,
  ...                          jax.random.key(0))
  >>> float(metrics["bottleneck"])  # of 0 and 2, over n - 1
  2.0

  Args:
    predict: `predict(params, example, key) -> (logits, features)` of ONE example; features of any
      shape.
    cost, tx, num_domains, strength: as for `irm`.
    bottleneck: gamma, or a function of the step; DomainBed has 0 in the first 500 steps and 100
      after them.
  Returns:
    As `irm`, with the metric "bottleneck": variances over n - 1 examples, as in DomainBed, in
    domains with two examples or more.
  """

  def objective(step: jax.Array) -> domain_risks.Minimised:
    def minimised(
      params: Params, batch: PyTree, keys: Key, of: Domains, extra: PyTree
    ) -> domain_risks.Objective:
      def one(params: Params, example: PyTree, key: Key) -> tuple[Array, Array, Array]:
        logits, features = predict(params, example, key)
        scale = jnp.ones((), jnp.result_type(float))
        loss, slope = jax.value_and_grad(lambda s: cost(s * logits, example))(scale)
        return loss, slope, jnp.ravel(features)

      mapped = jax.vmap(one, (None, 0, 0), axis_name=BATCH_AXIS)
      losses, slopes, features = mapped(params, batch, keys)
      risks, has_pairs = of.mean(losses), of.count > 1
      penalty = of.over(_pairs(of, slopes), has_pairs)
      # The variance over n - 1 from that over n, and the mean over features.
      unbiased = of.count / jnp.maximum(of.count - 1, 1)
      spread = of.over(unbiased * of.variance(features).mean(-1), has_pairs)
      total = of.over(risks) + domain_risks.at_step(strength, step) * penalty
      total = total + domain_risks.at_step(bottleneck, step) * spread
      metrics = {"penalty": penalty, "bottleneck": spread}
      return domain_risks.Objective(total, risks, metrics, extra)

    return minimised

  return domain_risks.descent(objective, tx, num_domains)


def _pairs(of: Domains, slopes: Array) -> Array:
  """[domain] means of slope_i slope_j over pairs of different examples, by their weights."""
  share = of.share
  own = jnp.where(share > 0, share * slopes[None], 0.0)
  # (sum_i w_i c_i)^2 is the sum over all pairs; those of i = j are taken out of it and of the
  # weights.
  total = own.sum(1) ** 2 - (own**2).sum(1)
  weight = 1 - (share**2).sum(1)
  return jnp.where(of.count > 1, total / jnp.where(of.count > 1, weight, 1.0), 0.0)
