"""The honest bilevel arm beside MT-COOL: task 1 knows how task 2 will answer it.

p2* = p2 + U(grad_p2 L_2(p1, p2)),    p1 <- p1 + U(d/dp1 L_1(p1, p2*(p1)))
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, rng, tree
from medjax.methods.cooperative.task import Task, check_owners
from medjax.types import Array, Key, Metrics, Params, PyTree, Step, TrainState


def bilevel(tasks: Mapping[str, Task], tx: optax.GradientTransformation) -> Step:
  """Step in which task 1 descends through task 2's next step.

  The derivative through task 2's step is exact, by `grads.hypergradient`.

  >>> tasks = {  # the first one owns "a" and wants "b" at 1; "b" follows "a"
  ...   "first": Task(lambda p, x, key: p["b"], lambda z, x: 0.5 * (z - 1) ** 2,
  ...                 lambda path: path == "a", lambda path: False),
  ...   "second": Task(lambda p, x, key: p["b"] - p["a"], lambda z, x: 0.5 * z**2,
  ...                  lambda path: path == "b", lambda path: False),
  ... }
  >>> step = bilevel(tasks, optax.sgd(0.5))
  >>> state = step.init({"a": jnp.float32(0), "b": jnp.float32(0)}, jax.random.key(0))
  >>> state, _ = jax.jit(step.update)(state, jnp.zeros(2), jax.random.key(0))
  >>> float(state.params["a"])  # -0.5 (b - 1) db/da, where b moves by half of what a moves
  0.25

  Args:
    tasks: two, by name; the first one is the upper one.
    tx: optimiser, one a task. Adam needs an `eps_root`, see `grads.hypergradient`.
  Returns:
    Step with the metrics "loss" (mean of both tasks), "loss/NAME" (of the first task after the
    second one's step), "grad_norm" (of the first task's whole derivative) and "hyper_norm" (of its
    part through the other task's step).
  Raises:
    InputError: not two tasks; in `init`, leaves without an owner or with two of them.
  """
  check.require(len(tasks) == 2, "two tasks", f"{len(tasks)}", "use methods.multitask for others")
  upper, lower = tasks
  is_upper = tasks[upper].owns

  def init(params: Params, key: Key) -> TrainState:
    del key
    check_owners(tasks, params)
    first, second = tree.split(params, is_upper)
    return TrainState.start(params, {upper: tx.init(first), lower: tx.init(second)})

  def loss(name: str, params: Params, example: PyTree, key: Key) -> Array:
    return tasks[name].cost(tasks[name].predict(params, example, key), example)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    first, second = tree.split(state.params, is_upper)

    def inner(second: PyTree, first: PyTree, example: PyTree, key: Key) -> Array:
      return loss(lower, tree.merge(first, second), example, key)

    def outer(second: PyTree, example: PyTree, key: Key) -> Array:
      return loss(upper, tree.merge(first, second), example, key)

    compute = grads.hypergradient(inner, outer, tx)
    once = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    own_key = rng.stream(key, "loss")
    found = compute(first, second, state.opt_state[lower], once, batch, own_key)

    def direct(first: PyTree) -> Array:
      mean = lambda e, k: loss(upper, tree.merge(first, found.params), e, k)  # noqa: E731
      return grads.batch_mean(mean, batch, rng.stream(own_key, "outer"))

    gradient = jax.tree.map(jnp.add, jax.grad(direct)(first), found.grad)
    updates, state_upper = tx.update(gradient, state.opt_state[upper], first)
    params = tree.merge(optax.apply_updates(first, updates), found.params)
    metrics = {
      "loss": (found.aux.inner_loss + found.aux.outer_loss) / 2,
      f"loss/{upper}": found.aux.outer_loss,
      f"loss/{lower}": found.aux.inner_loss,
      "grad_norm": optax.tree.norm(gradient),
      "hyper_norm": optax.tree.norm(found.grad),
    }
    states = {upper: state_upper, lower: found.opt_state}
    return state.replace(step=state.step + 1, params=params, opt_state=states), metrics

  return Step(init, update)
