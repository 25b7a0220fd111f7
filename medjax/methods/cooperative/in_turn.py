"""MT-COOL: two tasks that train in turn, each where the other one's encoder may still move.

  L_i = 1/M sum_j L_i(theta_i, phi_i, theta_o + eps_j) + lambda/M sum_j KL(y_j, 1/M sum_n y_n)
  eps_j ~ U(-b, b),   |theta_i - theta_i at the start of its turn| <= b          (Eqs. 5 and 6)

with theta the encoders, phi the heads, o the other task and y the predictions. Wu et al.,
"Multi-task Cooperative Learning via Searching for Flat Minima" (2023). It is a best response in
turn and not bilevel; `bilevel` is what the name says: the exact derivative of task 1 through a step
of task 2.

With M = 1 the KL term compares a prediction with itself: it is exactly 0 (`divergence`), as in the
paper's own setting. It is therefore refused unless M is 2 or more.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng, tree
from medjax.axes import BATCH_AXIS
from medjax.methods.cooperative.task import Task, check_owners
from medjax.types import Array, Key, Metrics, Params, PyTree, Step, TrainState


def divergence(logits: Array) -> Array:
  """Mean over samples of KL(y_j, mean_n y_n) in nats, averaged over voxels; exactly 0 of one.

  >>> float(divergence(jnp.array([[0.3, -2.0]])))
  0.0
  >>> float(divergence(jnp.array([[40.0, 0.0], [0.0, 40.0]]))).__round__(4)  # log 2: opposite
  0.6931

  Args:
    logits: [sample, *space, class].
  """
  probability = jax.nn.softmax(tree.at_least_float32(logits))
  terms = jax.scipy.special.rel_entr(probability, probability.mean(0, keepdims=True))
  return terms.sum(-1).mean()


def cooperative(
  tasks: Mapping[str, Task],
  tx: optax.GradientTransformation,
  *,
  radius: float = 0.05,
  samples: int = 1,
  strength: float = 0.0,
  turns: int = 1,
  warm_up: int = 0,
  perturbs: Literal["other", "own", "none"] = "other",
) -> Step:
  """Step in which both tasks have their turn on one batch.

  >>> cost = lambda logits, example: ((logits - example) ** 2).sum()
  >>> tasks = {
  ...   name: Task(lambda p, x, key, name=name: p[name] + 0.1 * (p["a"] + p["b"]), cost,
  ...              lambda path, name=name: path == name, lambda path: False)
  ...   for name in ("a", "b")
  ... }
  >>> step = cooperative(tasks, optax.sgd(1.0), radius=0.05)
  >>> params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
  >>> state, _ = step.update(step.init(params, jax.random.key(0)), jnp.ones((4, 2)),
  ...                        jax.random.key(0))
  >>> [round(float(x), 3) for x in state.params["a"]]  # clamped
  [0.05, 0.05]

  Args:
    tasks: two, by name; the first one has its turn first.
    tx: optimiser, one a task and one for the warm-up; the paper's is SGD with a rate of 0.1.
    radius: b, above 0, in units of the parameters; the paper's 0.05.
    samples: M, 1 or more; the paper's 1.
    strength: lambda of the KL term, 0 or more; it wants `samples` of 2 or more.
    turns: L, updates of a task in its turn, all on the same batch.
    warm_up: T_w, first steps in which both tasks train together, both encoders perturbed (Eq. 7).
    perturbs: whose encoder eps is added to. "other" is Eq. 5; "own" is line 10 of Algorithm 1,
      which contradicts it. "none" is plain alternation within the radius.
  Returns:
    Step with the metrics "loss" (mean of the tasks that took part, in the last update of each turn,
    under perturbation; NaN if none did), "loss/NAME", "skipped/NAME" (1 for a task whose loss or
    gradient is not finite: it does not move, and the other one goes on), "grad_norm" (joint),
    "kl/NAME" and "clamped" (share of the encoders' entries that stand at the border after their
    turn). In the warm-up both tasks are one, and a loss that is not finite stops the training.
  Raises:
    InputError: not two tasks, a KL term of one sample; in `init`, leaves without an owner or with
      two of them.
  """
  check.require(len(tasks) == 2, "two tasks", f"{len(tasks)}", "use methods.multitask for others")
  check.positive("radius", radius)
  check.positive("samples", samples)
  check.positive("turns", turns)
  check.non_negative("strength", strength)
  check.non_negative("warm_up", warm_up)
  check.one_of("perturbs", perturbs, ("other", "own", "none"))
  check.require(
    strength == 0 or samples > 1,
    "samples of 2 or more with a KL term",
    f"{samples=} and {strength=}",
    "of one sample the term is exactly 0: pass samples=2, or strength=0",
  )
  names = tuple(tasks)

  def init(params: Params, key: Key) -> TrainState:
    del key
    check_owners(tasks, params)
    states = {name: tx.init(tree.split(params, task.owns)[0]) for name, task in tasks.items()}
    return TrainState.start(params, {**states, "warm-up": tx.init(params)})

  def perturbed(params: Params, rule: Callable[[str], bool] | None, key: Key) -> Params:
    if rule is None:
      return params
    chosen, rest = tree.split(params, rule)
    leaves, structure = jax.tree.flatten(chosen)
    moved = [
      x + jax.random.uniform(jax.random.fold_in(key, i), x.shape, x.dtype, -radius, radius)
      for i, x in enumerate(leaves)
    ]
    return tree.merge(jax.tree.unflatten(structure, moved), rest)

  def objective(
    params: Params, name: str, rule: Callable[[str], bool] | None, batch: PyTree, key: Key
  ) -> tuple[Array, tuple[Array, Array]]:
    """The total, and its parts: mean cost over the samples, and KL."""
    noise_key, example_key = rng.streams(key, "noise", "example")
    keys, weight = rng.example_keys(example_key, batch), tree.entry(batch, "weight")
    task, found = tasks[name], []
    for number in range(samples):
      own = perturbed(params, rule, jax.random.fold_in(noise_key, number))
      predict = jax.vmap(task.predict, (None, 0, 0), axis_name=BATCH_AXIS)
      found.append(predict(own, batch, keys))
    costs = jnp.stack([jax.vmap(task.cost)(logits, batch) for logits in found])
    cost = tree.weighted_mean(costs.mean(0), weight)
    apart = jnp.zeros(())
    if samples > 1 and found[0].ndim > 1:
      each = jax.vmap(divergence, in_axes=1)(jnp.stack(found))
      apart = tree.weighted_mean(each, weight)
    total = cost + strength * apart if strength else cost
    return total, (cost, apart)

  def warm(state: TrainState, batch: PyTree, key: Key) -> tuple[Params, PyTree, Metrics]:
    def both(params: Params) -> tuple[Array, dict[str, _Part]]:
      both_encoders = lambda path: any(task.encoder(path) for task in tasks.values())  # noqa: E731
      rule = None if perturbs == "none" else both_encoders
      found = {name: objective(params, name, rule, batch, key) for name in names}
      total = sum((own for own, _ in found.values()), start=jnp.zeros(()))
      return total, {name: _Part(*own, jnp.array(True)) for name, (_, own) in found.items()}

    gradient, parts = jax.grad(both, has_aux=True)(state.params)
    updates, own = tx.update(gradient, state.opt_state["warm-up"], state.params)
    params = optax.apply_updates(state.params, updates)
    shown = _shown(parts, optax.tree.norm(gradient), jnp.zeros(()))
    return params, {**state.opt_state, "warm-up": own}, shown

  def alternate(state: TrainState, batch: PyTree, key: Key) -> tuple[Params, PyTree, Metrics]:
    params, states, parts = state.params, dict(state.opt_state), {}
    squares, at_border, counted = jnp.zeros(()), jnp.zeros(()), 0
    for place, name in enumerate(names):
      task, other = tasks[name], tasks[names[1 - place]]
      rule = {"other": other.encoder, "own": task.encoder, "none": None}[perturbs]
      start = params
      for turn in range(turns):
        own_key = jax.random.fold_in(rng.stream(key, name), turn)
        own, rest = tree.split(params, task.owns)

        def total(
          own: PyTree, rest: PyTree = rest, name: str = name, rule: Any = rule, k: Key = own_key
        ) -> tuple[Array, tuple[Array, Array]]:
          return objective(tree.merge(own, rest), name, rule, batch, k)

        gradient, (cost, apart) = jax.grad(total, has_aux=True)(own)
        norm = optax.tree.norm(gradient)
        is_there = jnp.isfinite(cost) & jnp.isfinite(norm)
        updates, after = tx.update(gradient, states[name], own)
        moved = optax.apply_updates(own, updates), after
        own, states[name] = optax.tree.where(is_there, moved, (own, states[name]))
        params, parts[name] = tree.merge(own, rest), _Part(cost, apart, is_there)
        low, high = (jax.tree.map(lambda x, s=s: x + s * radius, start) for s in (-1, 1))
        near = jax.tree.map(jnp.clip, params, low, high)
        params = tree.merge(tree.split(near, task.encoder)[0], tree.split(params, task.encoder)[1])
        squares = squares + jnp.where(is_there, norm, 0.0) ** 2 * (turn == turns - 1)
      moved, began = (jax.tree.leaves(tree.split(x, task.encoder)[0]) for x in (params, start))
      for x, y in zip(moved, began, strict=True):
        at_border = at_border + (jnp.abs(x - y) >= radius * (1 - 1e-5)).sum()
        counted += x.size
    return params, states, _shown(parts, jnp.sqrt(squares), at_border / counted)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    if warm_up:
      params, states, metrics = jax.lax.cond(
        state.step < warm_up, warm, alternate, state, batch, rng.stream(key, "loss")
      )
    else:
      params, states, metrics = alternate(state, batch, rng.stream(key, "loss"))
    return state.replace(step=state.step + 1, params=params, opt_state=states), metrics

  return Step(init, update)


class _Part(NamedTuple):
  """Of a task: its cost, its KL term, and whether it moved."""

  cost: Any
  apart: Any
  is_there: Any


def _shown(parts: Mapping[str, _Part], norm: Array, clamped: Array) -> Metrics:
  took_part = jnp.stack([part.is_there for part in parts.values()])
  costs = jnp.stack([jnp.where(part.is_there, part.cost, 0.0) for part in parts.values()])
  mean = jnp.where(took_part.any(), costs.sum() / took_part.sum().clip(1), jnp.nan)
  metrics = {"loss": mean, "grad_norm": norm, "clamped": clamped}
  for name, part in parts.items():
    metrics |= {f"loss/{name}": part.cost, f"kl/{name}": part.apart}
    metrics[f"skipped/{name}"] = 1.0 - part.is_there
  return metrics
