"""Fishr: gradients that vary alike in all domains (Rame et al. 2022).

  v_d = Var_{i in d} grad_w l_i      w: the classifier, the last layer        (Eq. 2)
  min over phi of  mean_d R_d + beta mean_d |v_d - mean_e v_e|^2 / size(w)    (Eqs. 3 and 4)

Variances are smoothed over steps: m_d <- gamma m_d + (1 - gamma) v_d.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, tree
from medjax.grads.domains import Domains
from medjax.methods import domain_risks
from medjax.types import Array, Key, LossFn, Params, PyTree, Step, TrainState


def fishr(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  num_domains: int,
  *,
  classifier: Callable[[str], bool],
  strength: domain_risks.Strength = 1000.0,
  decay: float = 0.95,
) -> Step:
  """Step of gradient descent that makes the variances of the examples' gradients equal.

  >>> loss = lambda p, example, key: p["head"] * example["x"]  # the gradient of an example is x
  >>> step = fishr(loss, optax.sgd(0.1), 2, classifier=lambda name: name == "head", decay=0.0)
  >>> batch = {"x": jnp.array([1.0, 3.0, 2.0, 2.0]), "domain": jnp.array([0, 0, 1, 1])}
  >>> state = step.init({"head": jnp.float32(0)}, jax.random.key(0))
  >>> _, metrics = step.update(state, batch, jax.random.key(0))
  >>> float(metrics["penalty"])  # variances 1 and 0, each 1/2 from their mean
  0.25

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example; batch statistics are refused.
    tx: any optax transformation.
    num_domains: of all sources that train; domains are 0 .. num_domains - 1.
    classifier: path of a leaf -> whether it belongs to w.
    strength: beta, or a function of the step. DomainBed has 0 in the first 1500 steps and 1000
      after them. DEVIATION: it also makes a new Adam at that step; here the moments go on.
    decay: gamma in [0, 1); DomainBed's 0.95. As there, the smoothed variances are divided by
      1 - gamma, so that the size of the penalty's gradient does not depend on gamma.
  Returns:
    Step over `batch.domain`; m is kept in `TrainState.extra`. Metrics of `domain_risks.descent` and
    "penalty". A domain with fewer than two examples in the batch has no variance: it takes no part
    in the penalty and its m stays.
  Raises:
    InputError: on tracing, no leaf in the classifier, a loss that mixes examples.
  """
  check.require(0 <= decay < 1, "decay in [0, 1)", f"{decay=}", "the paper has 0.95")

  def objective(step: jax.Array) -> domain_risks.Minimised:
    def minimised(
      params: Params, batch: PyTree, keys: Key, of: Domains, extra: Array
    ) -> domain_risks.Objective:
      losses, variances = _variances(loss_fn, classifier, params, batch, keys, of)
      has_variance = of.count > 1
      smoothed = decay * extra + (1 - decay) * variances
      kept = jnp.where(has_variance[:, None], smoothed, extra)
      own = smoothed / (1 - decay)
      number = jnp.maximum(has_variance.sum(), 1)
      mean = jnp.where(has_variance[:, None], own, 0.0).sum(0) / number
      penalty = of.over(((own - mean[None]) ** 2).mean(1), has_variance)
      risks = of.mean(losses)
      total = of.over(risks) + domain_risks.at_step(strength, step) * penalty
      kept = jax.lax.stop_gradient(kept)
      return domain_risks.Objective(total, risks, {"penalty": penalty}, kept)

    return minimised

  plain = domain_risks.descent(objective, tx, num_domains)

  def init(params: Params, key: Key) -> TrainState:
    size = tree.size(tree.split(params, classifier)[0])
    return plain.init(params, key).replace(extra=jnp.zeros((num_domains, size)))

  return Step(init, plain.update, hints=plain.hints)


def _variances(
  loss_fn: LossFn,
  classifier: Callable[[str], bool],
  params: Params,
  batch: PyTree,
  keys: Key,
  of: Domains,
) -> tuple[Array, Array]:
  """Losses [batch], and the variances [domain, size of w] of the gradients of the classifier."""
  head, body = tree.split(params, classifier)
  paired = {"example": batch, "key": keys}

  def of_head(head: PyTree, example: PyTree, key: Key) -> Array:
    del key  # the examples bring their own
    return loss_fn(tree.merge(head, body), example["example"], example["key"])

  found = grads.per_sample(of_head)(head, paired, jax.random.key(0))
  rows = [g.reshape(g.shape[0], -1) for g in jax.tree.leaves(found.grads)]
  return found.losses, of.variance(jnp.concatenate(rows, axis=1))
