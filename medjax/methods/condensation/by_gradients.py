"""Gradient matching: distilled pictures that move a network as real ones do.

Zhao et al., "Dataset condensation with gradient matching" (DC, 2021); with one Siamese augmentation
of both sets it is DSA (Zhao and Bilen 2021). With the loss l of a network phi,

  L = sum_c D(grad_phi l(A(s_c)), grad_phi l(A(x_c))),
  D(g, h) = sum over layers and output channels of 1 - <g, h> / (|g| |h|)

The gradient with respect to the pictures s is a second derivative. It is the hypergradient of one
step of gradient descent at the rate 1 from delta = 0, whose result delta* = -grad l(phi + delta, s)
meets the outer loss D(-delta*, h): `grads.hypergradient` computes it forward over reverse.
"""

import jax
import jax.numpy as jnp
import optax

from medjax import grads, rng, tree
from medjax.methods.condensation.matching import Matching
from medjax.transforms import Transform
from medjax.types import Array, Key, LossFn, Params, PyTree


def layer_distance(first: Params, second: Params) -> Array:
  """D: 1 - cosine for each output channel of each kernel, summed; biases and norms do not count.

  >>> a = {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0]]), "bias": jnp.ones(2)}
  >>> b = {"kernel": jnp.array([[3.0, 1.0], [0.0, 0.0]]), "bias": jnp.zeros(2)}
  >>> round(float(layer_distance(a, b)), 3)  # channel 0 agrees, channel 1 is orthogonal
  1.0

  Args:
    first, second: trees of gradients of one structure; the last axis of a kernel is its output.
  """
  total = jnp.zeros(())
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    if a.ndim < 2:
      continue
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    norms = _length(a) * _length(b)
    total = total + (1 - (a * b).sum(0) / (norms + 1e-6)).sum()
  return total


def _length(x: Array) -> Array:
  """Norms of the columns, with the slope 0 where a column is 0."""
  square = jnp.square(x).sum(0)
  return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def gradient_matching(loss_fn: LossFn, *, change: Transform | None = None) -> Matching:
  """The loss above as a `Matching` over batches of `data.class_batches`.

  Args:
    loss_fn: `loss_fn(network, example, key) -> scalar` of one example {"image", "label"}.
    change: A, drawn once for each class (DSA); None: DC.
  """

  def match(images: Array, batch: PyTree, network: Params, key: Key) -> tuple[Array, Array]:
    real = jnp.asarray(tree.entry(batch, "image"))
    is_there = jnp.asarray(tree.entry(batch, "weight"))[:, 0] > 0
    change_key, loss_key = rng.streams(key, "change", "loss")
    start = jax.tree.map(jnp.zeros_like, network)
    tx = optax.sgd(1.0)
    total, found = jnp.zeros(()), []
    for label in range(images.shape[0]):
      own_key = jax.random.fold_in(change_key, label)
      drawn = None if change is None else change.draw(own_key, images.shape[2:])

      def cost(delta: Params, image: Array, k: Key, label: int = label, drawn: PyTree = drawn):
        moved = image if change is None else change.apply(drawn, image)
        here = optax.tree.add(network, delta)
        return loss_fn(here, {"image": moved, "label": jnp.int32(label)}, k)

      def mean_cost(delta: Params, pictures: Array, cost=cost) -> Array:
        return jax.vmap(lambda x: cost(delta, x, loss_key))(pictures).mean()

      def inner(delta: Params, own: Array, example: PyTree, k: Key, cost=cost) -> Array:
        del k
        return cost(delta, own[example["picture"]], loss_key)

      def outer(delta: Params, example: PyTree, k: Key) -> Array:
        del k
        return layer_distance(optax.tree.scale(-1.0, delta), example["gradient"])

      wanted = jax.grad(mean_cost)(start, real[label])
      run = grads.hypergradient(inner, outer, tx)
      hyper = run(
        images[label],
        start,
        tx.init(start),
        {"picture": jnp.arange(images.shape[1])[None]},
        {"gradient": jax.tree.map(lambda x: x[None], wanted)},
        loss_key,
      )
      total = total + jnp.where(is_there[label], hyper.aux.outer_loss, 0.0)
      found.append(jnp.where(is_there[label], hyper.grad, 0.0))
    return total, jnp.stack(found)

  return match
