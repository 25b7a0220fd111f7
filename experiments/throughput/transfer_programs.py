"""Steps of transfer and of continual learning beside fine-tuning, for `experiments.throughput`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.throughput.measuring import Program
from medjax import losses, methods, nets
from medjax.methods.spottune import blocks
from medjax.types import Key, Params, Step

_POLICY_WIDTHS = (4, 8, 16, 16)


def unet(batch_size: int, shape: tuple[int, int], widths: tuple[int, ...]) -> list[Program]:
  """Fine-tuning, then what each method adds to it; MMTL and replay are its step on other batches.

  SpotTune runs two copies forward and back to the input, one back to the weights: 5/3. A-GEM takes
  two gradients. The outputs of a teacher (LwF, DER++) come with the batch.
  """
  model = nets.from_linen(nets.UNet(num_outputs=2, widths=widths, norm="group"))
  random = np.random.default_rng(0)
  image = jnp.asarray(random.random((batch_size, *shape, 1)), jnp.float32)
  batch = {
    "image": image,
    "label": jnp.asarray(image[..., 0] > 0.5, jnp.int32),
    "weight": jnp.ones(batch_size),
  }
  tx, key = optax.adam(1e-3), jax.random.key(0)
  params = model.init(key, image[0])[0]

  def output(params: Params, example: Any, key: Key) -> jax.Array:
    del key
    return model.apply(params, example["image"])[0]

  def label_loss(logits: jax.Array, example: Any) -> jax.Array:
    return losses.cross_entropy(logits, example["label"])

  def loss_fn(params: Params, example: Any, key: Key) -> jax.Array:
    return label_loss(output(params, example, key), example)

  policy = nets.from_linen(nets.ResNet9(len(blocks(params)), widths=_POLICY_WIDTHS, num_groups=4))
  anchor = methods.Anchor(params, jax.tree.map(jnp.ones_like, params))
  taught = {
    **batch,
    "teacher": jnp.zeros((batch_size, *shape, 2)),
    "label_weight": jnp.ones(batch_size),
    "teacher_weight": jnp.ones(batch_size),
  }
  spottune = methods.spottune(
    loss_fn,
    tx,
    lambda p, example: policy.apply(p, example["image"])[0],
    policy.init(key, image[0])[0],
    optax.adam(1e-2),
  )
  donor = methods.octl(tx.init(params), tx, params)
  steps: dict[str, tuple[Step, Any, float]] = {
    "fine-tuning": (methods.supervised(loss_fn, tx), batch, 1.0),
    "OCTL": (methods.supervised(loss_fn, tx, opt_state=donor), batch, 1.0),
    "L2-SP": (methods.l2sp(loss_fn, tx), batch, 1.0),
    "SpotTune": (spottune, batch, 5 / 3),
    "EWC": (methods.ewc(loss_fn, tx, anchor), batch, 1.0),
    "LwF or DER++": (
      methods.supervised(methods.held_to_teacher(output, label_loss), tx),
      taught,
      1.0,
    ),
    "A-GEM": (methods.agem(loss_fn, tx), {"current": batch, "memory": batch}, 2.0),
  }
  return [
    Program(name, step.update, (step.init(params, key), own, key), batch_size, floor)
    for name, (step, own, floor) in steps.items()
  ]
