"""What a combiner has to know of the gradients of several tasks, and the sum that it asks for.

  G_k = grad mean_i L_k(x_i),     <G_k, G_l>  for its weights w,     sum_k w_k G_k  for the update

Neither needs a gradient for each task: the ghost engine takes one forward pass, a backward pass a
task through what the layers saw, and forms one sum (`ghost.tasks`). Rey & Quinton (2025) do so in
PyTorch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check, rng, tree
from medjax.devices import on_this_device
from medjax.grads import isolation
from medjax.grads.ghost import engine, products, program, tasks
from medjax.grads.gramian import jacobian
from medjax.tree import entry
from medjax.types import Array, Key, Params, PyTree

RowMethod = Literal["auto", "ghost", "vmap"]
"""How gradients of tasks are found, see `task_gradients`."""


class TaskGradients(NamedTuple):
  """The gradients of the tasks of a batch.

  Attributes:
    values: [tasks] losses, means over the batch.
    is_finite: [tasks] whether a gradient is finite on all parameters.
    gramian: [tasks, tasks] inner products on the shared parameters, float32 or wider; NaN or
      infinite in the row and column of a task that is not finite.
    combined: `combined(common [tasks], heads [tasks]) -> gradient`, the sum of the gradients with
      weights `common` on the shared parameters and `heads` on the others. A task of weight 0 adds
      exactly 0, whatever its gradient.
    rows: the gradients themselves, each leaf [tasks, *leaf]; None where they were not formed.
  """

  values: Array
  is_finite: Array
  gramian: Array
  combined: Callable[[Array, Array], PyTree]
  rows: PyTree | None


def task_gradients(
  losses: Callable[..., Array] | Sequence[Callable[..., Array]],
  weights: Callable[[PyTree], Array] | None = None,
  *,
  shared: Callable[[str], bool] | None = None,
  method: RowMethod = "auto",
) -> Callable[[Params, PyTree, Key], TaskGradients]:
  """Values of several tasks, inner products of their gradients, and any weighted sum of these.

  >>> losses = (lambda p, x, key: p @ x, lambda p, x, key: -2 * p[0])
  >>> batch = jnp.array([[1.0, 2.0], [3.0, -2.0]])  # the gradients are (2, 0) and (-2, 0)
  >>> @jax.jit
  ... def run(params, batch):
  ...   found = task_gradients(losses)(params, batch, jax.random.key(0))
  ...   return found.gramian, found.combined(jnp.array([1.0, 0.5]), jnp.ones(2))
  >>> matrix, direction = run(jnp.ones(2), batch)
  >>> matrix.tolist(), direction.tolist()
  ([[4.0, -4.0], [-4.0, 4.0]], [1.0, 0.0])

  Args:
    losses, weights: as for `jacobian`.
    shared: path of a leaf -> whether it counts in the inner products; None for all.
    method: "ghost" reads the losses operation by operation, "vmap" forms the gradients of all
      tasks; "auto" is ghost where the losses allow it and some layer is cheaper so. Both agree to
      rounding.
  Returns:
    `(params, batch, key) -> TaskGradients`; keys are those of `rng.example_keys`.
  Raises:
    InputError: an unknown method; no leaf that is shared; losses that "ghost" cannot read, since
      they mix examples (see `isolation`) or since a parameter passes through an operation with a
      derivative of its own.
  Guarantees: a task none of whose examples weighs anything has value, row and column 0. Of a
    sequence, a loss that is not finite spoils itself alone; of one function, all of them.
  """
  check.one_of("method", method, ("auto", "ghost", "vmap"))
  by_rows = jacobian(losses, weights)
  counts = shared or (lambda name: True)

  def found(params: Params, batch: PyTree, key: Key) -> TaskGradients:
    tree.split(params, counts)  # refuses a rule that chooses nothing
    if method != "vmap":
      ghost = _by_ghost(losses, weights, counts, method, params, batch, key)
      if ghost is not None:
        return ghost
    values, rows = by_rows(params, batch, key)
    leaves = tree.named_leaves(rows)
    counted = [x for name, x in leaves.items() if counts(name)]
    each = [jnp.isfinite(x).reshape(len(values), -1).all(1) for x in leaves.values()]
    matrix = jnp.zeros((len(values),) * 2) + sum(map(products.of_rows, counted))

    def combined(common: Array, heads: Array) -> PyTree:
      def one(name: str, row: Array) -> Array:
        own = common if counts(name) else heads
        column = own.reshape(-1, *[1] * (row.ndim - 1))
        wide = jnp.where(column == 0, 0, tree.at_least_float32(row))
        return jnp.tensordot(own, wide, 1, precision="highest").astype(row.dtype)

      return tree.map_named(one, rows)

    return TaskGradients(values, jnp.stack(each).all(0), matrix, combined, rows)

  return found


def _by_ghost(
  losses: Callable[..., Array] | Sequence[Callable[..., Array]],
  weights: Callable[[PyTree], Array] | None,
  counts: Callable[[str], bool],
  method: RowMethod,
  params: Params,
  batch: PyTree,
  key: Key,
) -> TaskGradients | None:
  """None where the method is "auto" and the losses cannot be read."""

  def of_all(params: Params, example: PyTree, key: Key) -> tuple[Array, ...]:
    if isinstance(losses, Sequence):
      return tuple(loss(params, example, key) for loss in losses)
    return tuple(losses(params, example, key))

  def of_task(params: Params, example: PyTree, key: Key) -> tuple[Array, Any]:
    found = of_all(params, example["own"], key)
    # The number of a task is read last: with it even a loss that no example enters is one of an
    # example, whose parameters meet that example here.
    scaled = tuple(loss * example["task"][k] for k, loss in enumerate(found))
    return jnp.stack(scaled).sum(), (scaled, found)

  params, batch = jax.tree.map(jnp.asarray, (params, batch))
  params = on_this_device(params)
  keys = rng.example_keys(key, batch)
  try:
    isolation.require_alone(lambda *x: jnp.stack(of_all(*x)).sum(), params, batch, keys)
  except check.InputError:
    if method == "ghost":
      raise
    return None
  example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
  one_key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
  number = len(jax.eval_shape(of_all, params, example, one_key))
  both = {"own": example, "task": jax.ShapeDtypeStruct((number,), jnp.float32)}
  traced = program.trace(of_task, params, both, one_key, has_aux=True, merges=True)
  if traced.has_own_gradients:
    check.require(
      method != "ghost",
      "parameters that meet an example before an operation with a derivative of its own",
      "one that does not",
      'use method="vmap"',
    )
    return None
  leaves, structure = jax.tree.flatten(params)
  is_counted = [counts(name) for name in tree.named_leaves(params)]
  how = engine.plan(traced, leaves)
  if method == "auto" and not tasks.pays(traced, how, leaves, (keys.shape[0], number), is_counted):
    return None
  own = jnp.ones((keys.shape[0], number)) if weights is None else jax.vmap(weights)(batch)
  weight = entry(batch, "weight")
  own = own if weight is None else own * weight[:, None]
  total = own.sum(0)
  share = own / jnp.where(total > 0, total, 1.0)[None]
  examples = [*jax.tree.leaves(batch), keys]
  found = tasks.run(traced, how, leaves, examples, share, is_counted)

  def combined(common: Array, heads: Array) -> PyTree:
    sums = found.weighted_sum([common if counted else heads for counted in is_counted])
    cast = [x.astype(leaf.dtype) for x, leaf in zip(sums, leaves, strict=True)]
    return jax.tree.unflatten(structure, cast)

  values = jax.vmap(tree.weighted_mean, (1, 1))(found.values, own)
  return TaskGradients(values, found.is_finite, found.gramian, combined, None)


def task_gramian(
  losses: Callable[..., Array] | Sequence[Callable[..., Array]],
  weights: Callable[[PyTree], Array] | None = None,
  *,
  method: RowMethod = "auto",
) -> Callable[[Params, PyTree, Key], tuple[Array, Array]]:
  """The values of several tasks, and the matrix <G_k, G_l> of the gradients of their means.

  >>> def both(params, example, key):
  ...   return jnp.stack([params @ example, -2 * params[0]])
  >>> batch = jnp.array([[1.0, 2.0], [3.0, -2.0]])  # the gradients are (2, 0) and (-2, 0)
  >>> values, matrix = jax.jit(task_gramian(both))(jnp.ones(2), batch, jax.random.key(0))
  >>> values.tolist(), matrix.tolist()
  ([2.0, -2.0], [[4.0, -4.0], [-4.0, 4.0]])

  Args, Raises, Guarantees: as for `task_gradients`.
  Returns:
    `(params, batch, key) -> (values [tasks], matrix [tasks, tasks])`, float32 or wider.
  """
  gradients = task_gradients(losses, weights, method=method)

  def matrix(params: Params, batch: PyTree, key: Key) -> tuple[Array, Array]:
    found = gradients(params, batch, key)
    return found.values, found.gramian

  return matrix
