"""Training on several tasks whose gradients are combined by a rule of the user's choice.

  phi <- phi + U(d, s, phi),   d = combine(g_1, ..., g_K),   g_k = grad_phi mean_i L_k(phi, x_i)

on the parameters that the tasks share; heads of single tasks take the sum of their own gradients.
With weights by losses (`grads.combine.dwa`, `uncertainty`)  d = sum_k w_k g_k  everywhere. Rules
that look at the inner products <g_k, g_l> alone need no gradient of a single task, and none is
formed (`grads.task_gradients`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import check, grads, rng, tree
from medjax.grads.combine import Combiner, LossWeights, conflicts
from medjax.grads.domains import UNKNOWN_DOMAINS
from medjax.grads.task_gradients import RowMethod, TaskGradients
from medjax.types import AnyLossFn, Key, LossFn, Metrics, Params, PyTree, Step, TrainState


def multitask(
  losses: Mapping[str, AnyLossFn],
  tx: optax.GradientTransformation,
  *,
  combine: Combiner | LossWeights | None = None,
  shared: Callable[[str], bool] | None = None,
  labelled: Mapping[str, Callable[[PyTree], Any]] | None = None,
  method: RowMethod = "auto",
) -> Step:
  """Step of gradient descent on several losses.

  >>> losses = {"a": lambda p, x, key: jnp.sum((p - x) ** 2), "b": lambda p, x, key: jnp.sum(p * x)}
  >>> step = multitask(losses, optax.sgd(0.1), combine=grads.combine.pcgrad())
  >>> state = step.init(jnp.zeros(2), jax.random.key(0))
  >>> state, metrics = jax.jit(step.update)(state, jnp.ones((4, 2)), jax.random.key(1))
  >>> float(metrics["conflicts"]), state.params.tolist()  # (-2, -2) against (1, 1): nothing is left
  (1.0, [0.0, 0.0])

  Args:
    losses: name of a task -> `loss(params, example, key) -> scalar` of ONE example. The key is the
      same for all tasks, so that they see one augmentation.
    tx: any optax transformation; it sees the combined gradient.
    combine: from `medjax.grads.combine`; default `mean()`. Some rules sum, others average: give
      `tx` a rate that fits. What `dwa` and `uncertainty` remember is kept in `TrainState.extra`.
    shared: path of a leaf -> whether the tasks share it; None for all. The other leaves are heads.
    labelled: name of a task -> `fn(example)`, 1 where the example has a label for it and 0 where it
      has none; a task that is not named has labels everywhere. The loss must have a finite gradient
      there nevertheless.
    method: how the gradients of the tasks are found, see `grads.task_gradients`; `graddrop` forms
      them all.
  Returns:
    Step with the metrics "loss" (mean of the tasks that took part), "loss/NAME", "skipped/NAME" (1
    for a task without a label in the batch, or whose loss or gradient is not finite: the others go
    on), "grad_norm" of the combined gradient, and on the shared parameters "conflicts" (share of
    pairs of tasks whose gradients point apart), "conflicting" (1 if some pair does: its mean is the
    share of conflicting steps), "lowest_cosine", "size_ratio" (shortest by longest gradient),
    "norm/NAME" and "cosine/NAME NAME" (0 where a task is skipped); "weight/NAME" of weights by
    losses. "loss" is NaN if no task took part.
  Raises:
    InputError: no task, an unknown name in `labelled`; on tracing, no leaf that is shared.
  """
  check.require(losses, "at least one task", "none", "pass losses by name")
  unknown = set(labelled or {}) - set(losses)
  check.require(
    not unknown, f"tasks among {', '.join(losses)}", f"{sorted(unknown)} in labelled", "rename them"
  )
  rule = grads.combine.mean() if combine is None else combine
  names = tuple(losses)

  def has_label(example: PyTree) -> jax.Array:
    one = lambda example: 1.0  # noqa: E731
    found = [(labelled or {}).get(name, one)(example) for name in names]
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in found])

  needs_rows = isinstance(rule, Combiner) and rule.weights is None
  check.require(
    not (needs_rows and method == "ghost"),
    "a rule of inner products with method='ghost'",
    f"{rule.name}, which looks at every entry of the gradients",
    'use method="auto"',
  )
  gradients = grads.task_gradients(
    tuple(losses.values()), has_label, shared=shared, method="vmap" if needs_rows else method
  )

  def init(params: Params, key: Key) -> TrainState:
    del key
    extra = rule.init(len(names)) if isinstance(rule, LossWeights) else ()
    return TrainState.start(params, tx.init(params), extra=extra)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    of = gradients(state.params, batch, rng.stream(key, "loss"))
    values = of.values
    has_any = jax.vmap(has_label)(batch)
    weight = tree.entry(batch, "weight")
    has_any = (has_any if weight is None else has_any * weight[:, None]).sum(0) > 0
    is_there = has_any & jnp.isfinite(values) & of.is_finite
    gramian = jnp.where(is_there[:, None] & is_there[None], of.gramian, jnp.nan)
    weights, extra, own_key = is_there.astype(jnp.float32), state.extra, rng.stream(key, "combine")
    if isinstance(rule, LossWeights):
      weights, extra = rule.update(extra, values, is_there)
      own = jnp.where(is_there, weights, 0.0)
      gradient = of.combined(own, own)
    elif rule.weights is not None:
      gradient = of.combined(rule.weights(gramian, own_key), weights)
    else:
      gradient = _by_rows(rule, shared, of, is_there, own_key)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    found = conflicts(gramian)
    kept = jnp.where(is_there, values, 0.0)
    metrics = {
      "loss": jnp.where(is_there.any(), kept.sum() / jnp.maximum(is_there.sum(), 1), jnp.nan),
      "grad_norm": optax.tree.norm(gradient),
      "conflicts": found.share,
      "conflicting": (found.share > 0).astype(jnp.float32),
      "lowest_cosine": found.lowest,
      "size_ratio": found.ratio,
    }
    for k, name in enumerate(names):
      metrics |= {f"loss/{name}": kept[k], f"skipped/{name}": 1.0 - is_there[k]}
      metrics[f"norm/{name}"] = found.lengths[k]
      metrics |= {
        f"cosine/{name} {names[j]}": found.cosines[k, j] for j in range(k + 1, len(names))
      }
      if isinstance(rule, LossWeights):
        metrics[f"weight/{name}"] = weights[k]
    new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=extra)
    return new, metrics

  return Step(init, update)


def domainwise(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  num_domains: int,
  *,
  combine: Combiner | LossWeights | None = None,
) -> Step:
  """`multitask` with the domains of `batch.domain` in the place of tasks.

  >>> loss = lambda w, example, key: w @ example["x"]
  >>> step = domainwise(loss, optax.sgd(1.0), 2, combine=grads.combine.mgda())
  >>> batch = {"x": jnp.array([[2.0, 0.0], [0.0, 1.0]]), "domain": jnp.array([0, 1])}
  >>> state, metrics = jax.jit(step.update)(step.init(jnp.zeros(2), jax.random.key(0)), batch,
  ...                                       jax.random.key(0))
  >>> [round(float(x), 4) for x in state.params]  # the shortest convex combination, (1/5, 4/5)
  [-0.4, -0.8]

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx, combine: as for `multitask`.
    num_domains: of all sources that train; domains are 0 .. num_domains - 1.
  Returns:
    Step with the metrics of `multitask`, a domain being named by its number, and "unknown_domains":
    examples of a domain out of range, with which "loss" is NaN and the loop stops. A domain without
    an example in the batch is skipped.
  """
  check.positive("num_domains", num_domains)

  def own(number: int) -> Callable[[PyTree], Any]:
    return lambda example: tree.entry(example, "domain") == number

  names = [str(number) for number in range(num_domains)]
  step = multitask(
    dict.fromkeys(names, loss_fn),
    tx,
    combine=combine,
    labelled={name: own(number) for number, name in enumerate(names)},
  )

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    of = grads.domains(batch, num_domains)
    state, metrics = step.update(state, batch, key)
    return state, metrics | {
      "loss": of.checked(metrics["loss"]),
      "unknown_domains": of.num_unknown,
    }

  return Step(step.init, update, hints={"unknown_domains": UNKNOWN_DOMAINS})


def _by_rows(
  rule: Combiner,
  shared: Callable[[str], bool] | None,
  of: TaskGradients,
  is_there: jax.Array,
  key: Key,
) -> PyTree:
  """The gradient of all parameters by a rule that looks at every entry of the rows."""
  common, _ = tree.split(of.rows, shared or (lambda name: True))
  leaves, structure = jax.tree.flatten(common)
  wide = [tree.at_least_float32(x).reshape(x.shape[0], -1) for x in leaves]
  # NaN marks a row that is not there.
  table = jnp.where(is_there[:, None], jnp.concatenate(wide, axis=1), jnp.nan)
  direction = rule(table, key)
  ends = np.cumsum([0, *(x.shape[1] for x in wide)])
  parts = [
    direction[ends[i] : ends[i + 1]].reshape(x.shape[1:]).astype(x.dtype)
    for i, x in enumerate(leaves)
  ]
  own = is_there.astype(jnp.float32)
  _, heads = tree.split(of.combined(own, own), shared or (lambda name: True))
  return tree.merge(jax.tree.unflatten(structure, parts), heads)
