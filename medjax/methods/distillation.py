"""Losses that also hold a network to outputs written down before: LwF and DER++.

  LwF (Li & Hoiem 2016):       l(f(x), y) + lambda d(f(x), f_old(x))          x of the new centre
  DER++ (Buzzega et al. 2020): l(f(x), y) on the new centre, and on remembered examples
                               beta l(f(x), y) + alpha d(f(x), z)             z stored with x

Both are one loss for `supervised`, with one forward pass for all of a batch: example["teacher"] has
f_old(x) or z, and two weights say what counts. `with_teacher` writes f_old(x) into a stream.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medjax.types import Key, LossFn, Params, PyTree, Stream


def held_to_teacher(
  output_fn: Callable[[Params, PyTree, Key], jax.Array],
  label_loss: Callable[[jax.Array, Any], jax.Array],
  *,
  distance: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> LossFn:
  """w_label l(f(x), example) + w_teacher d(f(x), example["teacher"]) of ONE example.

  Args:
    output_fn: `output_fn(params, example, key) -> f(x)`.
    label_loss: `label_loss(f(x), example) -> scalar`.
    distance: of two outputs, default the mean of squares (DER++ on logits).
  Returns:
    A loss for examples that are mappings with "teacher", of the shape of f(x), and the scalars
    "label_weight" and "teacher_weight": (1, lambda) for LwF; for DER++ (1, 0) of the new centre and
    (beta, alpha) of the memory.
  Guarantees: weights (1, 0) give the plain loss and its gradient, whatever the teacher.
  """

  def squares(output: jax.Array, teacher: jax.Array) -> jax.Array:
    return ((output - teacher) ** 2).mean()

  measure = squares if distance is None else distance

  def loss(params: Params, example: PyTree, key: Key) -> jax.Array:
    output = output_fn(params, example, key)
    held = example["teacher_weight"] > 0
    # Both branches finite: a teacher that does not count may be anything.
    teacher = jnp.where(held, example["teacher"], jax.lax.stop_gradient(output))
    far = example["teacher_weight"] * measure(output, teacher)
    return example["label_weight"] * label_loss(output, example) + far

  return loss


def with_teacher(
  stream: Stream, teach: Callable[[Any], jax.Array], strength: float | int
) -> Stream:
  """The batches of `stream`, dicts, with the outputs of an earlier network: LwF.

  Args:
    stream: step -> dict of arrays [batch, ...].
    teach: batch -> [batch, ...] outputs of the old network; jit it once for all centres.
    strength: lambda.
  """

  def taught(step: int) -> dict[str, Any]:
    batch = stream(step)
    one = jnp.ones(len(batch["weight"]), jnp.float32)
    return {
      **batch,
      "teacher": teach(batch),
      "label_weight": one,
      "teacher_weight": strength * one,
    }

  return taught
