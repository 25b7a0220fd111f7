"""Inner products between the gradients of examples, and the gradients of several tasks as rows."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from medjax import check, rng, tree
from medjax.axes import BATCH_AXIS
from medjax.devices import on_this_device
from medjax.grads import isolation
from medjax.grads.batch import finite_padding
from medjax.grads.ghost import engine, products, program
from medjax.tree import entry
from medjax.types import Array, Key, Params, PyTree


def gramian(
  loss_fn: Callable[..., Array], *, method: Literal["auto", "ghost", "vmap"] = "auto"
) -> Callable[[Params, PyTree, Key], Array]:
  """The matrix <g_i, g_j> of the gradients of all examples of a batch.

  It says which examples pull in one direction, and is all that most combiners need
  (`grads.combine`). By "ghost" the gradients are not formed where products of what entered and left
  an operation are cheaper (Rey & Quinton 2025 do so for tasks).

  >>> def loss(params, example, key):
  ...   return (params * example).sum()  # its gradient is the example
  >>> batch = jnp.array([[1.0, 2.0], [3.0, -1.0]])
  >>> gramian(loss)(jnp.zeros(2), batch, jax.random.key(0)).tolist()
  [[5.0, 1.0], [1.0, 10.0]]

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    method: "ghost" reads the loss operation by operation, "vmap" forms all gradients; "auto" is
      ghost. Both agree to rounding.
  Returns:
    `(params, batch, key) -> [batch, batch]`, float32 or wider. Keys are those of
    `rng.example_keys`; weights of the batch are not used.
  Raises:
    InputError: a loss that mixes examples or could do so (see `isolation`), an unknown method.
  Guarantees: an example whose gradient is not finite makes its own row and column NaN or infinite.
  """
  check.one_of("method", method, ("auto", "ghost", "vmap"))

  def matrix(params: Params, batch: PyTree, key: Key) -> Array:
    own, keys = on_this_device(params), rng.example_keys(key, batch)
    return _matrix(loss_fn, method, own, batch, keys)

  return matrix


def _matrix(
  loss_fn: Callable[..., Array], method: str, params: Params, batch: PyTree, keys: Key
) -> Array:
  isolation.require_alone(loss_fn, params, batch, keys)
  if method != "vmap":
    example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    one_key = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    traced = program.trace(loss_fn, params, example, one_key)
    if traced.is_example_dependent and not traced.has_own_gradients:
      leaves = jax.tree.leaves(params)
      examples = [*jax.tree.leaves(batch), keys]
      return products.gramian(traced, engine.plan(traced, leaves), leaves, examples)
  rows = jax.vmap(jax.grad(loss_fn), (None, 0, 0))(params, batch, keys)
  return jnp.sum(jnp.stack([products.of_rows(x) for x in jax.tree.leaves(rows)]), axis=0)


def jacobian(
  losses: Callable[..., Array] | Sequence[Callable[..., Array]],
  weights: Callable[[PyTree], Array] | None = None,
) -> Callable[[Params, PyTree, Key], tuple[Array, PyTree]]:
  """The gradients of several losses of a batch, one row a task.

  >>> def both(params, example, key):
  ...   return jnp.stack([params["w"] * example, -3 * params["w"]])
  >>> values, rows = jacobian(both)({"w": jnp.float32(2)}, jnp.ones(4), jax.random.key(0))
  >>> values.tolist(), rows["w"].tolist()
  ([2.0, -6.0], [1.0, -3.0])

  Args:
    losses: a sequence of `loss(params, example, key) -> scalar` of ONE example, differentiated one
      by one, so that a loss that is not finite spoils its own row only (what they share is computed
      once under jit); or one `losses(params, example, key) -> [tasks]` with one forward pass.
    weights: `weights(example) -> [tasks]`, 0 where an example has no label for a task. They
      multiply `batch.weight`; a task whose weights are all 0 has value and gradient 0.
  Returns:
    `(params, batch, key) -> (values [tasks], rows)`, where each leaf of `rows` is [tasks, *leaf].
    Values are means over the batch by `batch.weight`; keys are those of `rng.example_keys`.
  """

  if isinstance(losses, Sequence):
    parts = [_rows_of(_as_vector(loss), weights, number) for number, loss in enumerate(losses)]
  else:
    parts = [_rows_of(losses, weights, None)]

  def rows(params: Params, batch: PyTree, key: Key) -> tuple[Array, PyTree]:
    found = [part(params, batch, key) for part in parts]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *found)

  return rows


def _as_vector(loss: Callable[..., Array]) -> Callable[..., Array]:
  return lambda params, example, key: loss(params, example, key)[None]


def _rows_of(
  losses: Callable[..., Array], weights: Callable[[PyTree], Array] | None, number: int | None
) -> Callable[[Params, PyTree, Key], tuple[Array, PyTree]]:
  """Values and gradients of a vector of losses; `number` takes one column of the weights."""

  def rows(params: Params, batch: PyTree, key: Key) -> tuple[Array, PyTree]:
    keys, weight = rng.example_keys(key, batch), entry(batch, "weight")
    batch = finite_padding(batch, weight)

    def means(params: Params) -> Array:
      found = jax.vmap(losses, (None, 0, 0), axis_name=BATCH_AXIS)(params, batch, keys)
      if weights is None:
        return tree.weighted_mean(found, weight)
      own = jax.vmap(weights)(batch)
      own = own if number is None else own[:, number : number + 1]
      own = own if weight is None else own * weight[:, None]
      return jax.vmap(tree.weighted_mean, (1, 1))(found, own)

    values, pull = jax.vjp(means, params)
    # One backward pass a task in turn: batched, those of convolutions are slow on a CPU.
    found = [pull(task)[0] for task in jnp.eye(len(values), dtype=values.dtype)]
    return values, jax.tree.map(lambda *x: jnp.stack(x), *found)

  return rows
