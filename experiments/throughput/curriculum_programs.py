"""Steps of the style curriculum beside as many plain steps, for `experiments.throughput`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.throughput.measuring import Program
from medjax import losses, methods, nets, synth
from medjax.types import Batch, Key, Step

_UPDATES = 4
_CLASSES = 4


def unet(batch_size: int, shape: tuple[int, int]) -> list[Program]:
  """A plain step; four of them; four updates of LSCL without and with making the styled images.

  The second row is what the third and fourth are to be compared with.
  """
  model = nets.from_linen(nets.UNet(num_outputs=_CLASSES, widths=(8, 16, 32, 64), norm="group"))
  random = np.random.default_rng(0)
  batch = Batch(
    image=jnp.asarray(random.random((batch_size, *shape, 1)), jnp.float32),
    label=jnp.asarray(random.integers(0, _CLASSES, (batch_size, *shape)), jnp.int32),
    domain=jnp.zeros(batch_size, jnp.int32),
    subject=jnp.arange(batch_size, dtype=jnp.int32),
    index=jnp.arange(batch_size, dtype=jnp.int32),
    weight=jnp.ones(batch_size),
  )
  loss = losses.weighted_sum((0.6, losses.cross_entropy), (0.4, losses.soft_dice))
  tx = optax.sgd(1e-3, momentum=0.9)

  def loss_fn(params: Any, example: Batch, key: Key) -> jax.Array:
    del key
    return loss(model.apply(params, example.image)[0], example.label)

  def darker(key: Key, image: jax.Array) -> jax.Array:
    del key
    return 0.5 * image

  def lscl(style_fn: Callable[..., Any]) -> Step:
    return methods.lscl(loss_fn, tx, style_fn, num_updates=_UPDATES)

  plain = methods.supervised(loss_fn, tx)

  def several(state: Any, batch: Batch, key: Key) -> Any:
    shown = []
    for number in range(_UPDATES):
      state, metrics = plain.update(state, batch, jax.random.fold_in(key, number))
      shown.append(metrics)
    return state, shown

  key = jax.random.key(0)
  args = (plain.init(model.init(key, batch.image[0])[0], key), batch, key)
  bank = synth.style_bank(list(batch.image))
  return [
    Program("plain step", plain.update, args, batch_size),
    Program(f"{_UPDATES} plain steps", several, args, batch_size, float(_UPDATES)),
    Program(f"{_UPDATES} updates of LSCL", lscl(darker).update, args, batch_size, float(_UPDATES)),
    Program(
      f"{_UPDATES} updates of LSCL, wavelet styles",
      lscl(bank).update,
      args,
      batch_size,
      float(_UPDATES),
    ),
  ]
