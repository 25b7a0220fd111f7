"""Every method that has no group of its own, on one 2D U-Net, beside the plain step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.throughput.measuring import Program
from medjax import grads, losses, methods, nets, privacy
from medjax.methods import cooperative, episodic, mixing
from medjax.tree import named_leaves
from medjax.types import Array, Batch, Key, Model, Params, Step

_CLASSES = 4
_DOMAINS = 2
_UPDATES = 2  # of a curriculum, and of a private one


class Problem(NamedTuple):
  """A network, a batch of two sites, and a loss of one example in its two halves."""

  model: Model
  params: Params
  batch: Batch
  predict: Callable[[Params, Any, Key], Array]
  cost: Callable[[Array, Any], Array]
  loss_fn: Callable[[Params, Any, Key], Array]


def problem(batch_size: int, shape: tuple[int, ...], widths: tuple[int, ...]) -> Problem:
  """A U-Net with GroupNorm; half of the batch comes from each site, labels follow the image."""
  model = nets.from_linen(nets.UNet(num_outputs=_CLASSES, widths=widths, norm="group"))
  image = np.random.default_rng(0).random((batch_size, *shape, 1)).astype(np.float32)
  index = np.arange(batch_size, dtype=np.int32)
  label = np.minimum((_CLASSES * image[..., 0]).astype(np.int32), _CLASSES - 1)
  host = Batch(image, label, index % _DOMAINS, index, index, np.ones(batch_size, np.float32))
  batch = jax.tree.map(jnp.asarray, host)

  def predict(params: Params, example: Any, key: Key) -> Array:
    del key
    return model.apply(params, example.image)[0]

  def cost(logits: Array, example: Any) -> Array:
    return losses.cross_entropy(logits, example.label)

  def loss_fn(params: Params, example: Any, key: Key) -> Array:
    return cost(predict(params, example, key), example)

  params, _ = model.init(jax.random.key(0), batch.image[0])
  return Problem(model, params, batch, predict, cost, loss_fn)


def unet(batch_size: int, shape: tuple[int, ...], widths: tuple[int, ...]) -> list[Program]:
  """The plain step, then one row a method.

  A floor is given where the passes over the network can be counted: two tasks, two domains walked
  through in turn, or two updates are two plain steps.
  """
  given = problem(batch_size, shape, widths)
  _, params, batch, predict, cost, loss_fn = given
  tx, combine = optax.adam(1e-3), grads.combine

  def dice_loss(params: Params, example: Any, key: Key) -> Array:
    return losses.soft_dice(predict(params, example, key), example.label)

  def held_out(params: Params, anchor: Params, example: Any, key: Key) -> Array:
    del anchor
    return loss_fn(params, example, key)

  def with_features(params: Params, example: Any, key: Key) -> tuple[Array, Array]:
    logits = predict(params, example, key)
    return logits, logits.mean((0, 1))

  def mixed(params: Params, pair: mixing.Pair, key: Key) -> Array:
    image = 0.9 * pair.example.image + 0.1 * pair.partner.image
    return loss_fn(params, pair.example.replace(image=image), key)

  last = list(named_leaves(params))[-1].rpartition("/")[
    0
  ]  # the layer whose gradients Fishr compares
  plain = methods.supervised(loss_fn, tx)
  tasks = {"entropy": loss_fn, "dice": dice_loss}
  rows: dict[str, tuple[Step, float | None]] = {
    "plain step": (plain, 1.0),
    "averaged": (methods.averaged(plain, 0.999), 1.0),
    "episodic": (episodic.episodic(loss_fn, held_out, tx), None),
    "multitask, mean": (methods.multitask(tasks, tx, combine=combine.mean()), 1.0),
    "multitask, UPGrad": (methods.multitask(tasks, tx, combine=combine.upgrad()), 5 / 3),
    "instancewise, MGDA": (methods.instancewise(loss_fn, tx, combine=combine.mgda()), 5 / 3),
    "domainwise, UPGrad": (
      methods.domainwise(loss_fn, tx, _DOMAINS, combine=combine.upgrad()),
      None,
    ),
    "V-REx": (methods.vrex(loss_fn, tx, _DOMAINS), 1.0),
    "IRM": (methods.irm(predict, cost, tx, _DOMAINS), 1.0),
    "IB-IRM": (methods.ib_irm(with_features, cost, tx, _DOMAINS), 1.0),
    "GroupDRO": (methods.groupdro(loss_fn, tx, _DOMAINS), 1.0),
    "Fish": (methods.fish(loss_fn, tx, _DOMAINS), float(_DOMAINS)),
    "Fishr": (
      methods.fishr(loss_fn, tx, _DOMAINS, classifier=lambda path: path.startswith(last)),
      1.0,
    ),
    "weighted, focal": (
      methods.weighted(predict, cost, tx, weigh=grads.weights.focal(0.5)),
      1.0,
    ),
    "mixing of pairs": (mixing.paired(methods.supervised(mixed, tx)), 1.0),
    f"adversarial FGSM, {_UPDATES} updates": (
      methods.adversarial(loss_fn, tx, methods.adversaries.fgsm(eps=0.01), num_updates=_UPDATES),
      float(_UPDATES),
    ),
    "private": (_private(loss_fn, tx, batch_size), 1.0),
  }
  key = jax.random.key(0)
  made = [
    Program(name, step.update, (step.init(params, key), batch, key), batch_size, floor)
    for name, (step, floor) in rows.items()
  ]
  return [*made, _cooperative(given, tx, batch_size)]


def _private(loss_fn: Any, tx: optax.GradientTransformation, batch_size: int) -> Step:
  """One release a sample, with noise; the vault lives in memory, since nothing is trained."""
  plan = privacy.DPPlan(
    num_examples=10_000,
    expected_batch_size=batch_size,
    num_steps=100,
    delta=1e-5,
    noise_multiplier=1.0,
    max_norm=1.0,
    unit="example",
    vault=privacy.Vault.from_seed(0),
  )
  return methods.private(loss_fn, tx, plan)


def _cooperative(given: Problem, tx: optax.GradientTransformation, batch_size: int) -> Program:
  """Two networks that learn in turn: two plain steps."""

  def task(name: str) -> cooperative.Task:
    def predict(params: Params, example: Any, key: Key) -> Array:
      return given.predict(params[name], example, key)

    return cooperative.Task(
      predict, given.cost, lambda path: path.startswith(name), lambda p: False
    )

  tasks = {"first": task("first"), "second": task("second")}
  step = cooperative.cooperative(tasks, tx)
  key = jax.random.key(0)
  state = step.init({name: given.params for name in tasks}, key)
  return Program("cooperative", step.update, (state, given.batch, key), batch_size, 2.0)
