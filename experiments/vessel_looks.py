"""Appearances of vessels that networks make up, such as they look to one that draws vessels.

Not a study: what `experiments.map` shows beside the analytic maps of `vessel_sets.views`. Hu et al.
2023 train networks f_d(f_e(x)) on vessels alone, whose middle f_e(x) is a picture of the size of
x. What the decoder needs of a vessel is there; how bright vessels and ground are is left to chance,
so that another seed gives another appearance.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from medjax import data, losses, methods, nets, rng, study
from medjax.train import RunDirectory
from medjax.tree import entry
from medjax.types import Array, Key, Params, PyTree

NUM_LOOKS = 3


class Drawer(nn.Module):
  """Two U-Nets with one picture in [0, 1] between them; the second draws vessels.

  DEVIATION: plain U-Nets stand for residual ones; a sigmoid keeps the middle in [0, 1], as pictures
  are, where the paper does not say what its range is.

  Attributes:
    widths: channels of the levels of each.
  """

  widths: tuple[int, ...]

  def setup(self):
    self.encoder = nets.UNet(1, self.widths, num_convs=1)
    self.decoder = nets.UNet(2, self.widths, num_convs=1)

  def look(self, image: jax.Array) -> jax.Array:
    """[height, width, 1] in [0, 1], what stands between the networks."""
    found: Any = self.encoder(image)
    return nn.sigmoid(found)

  def __call__(self, image: jax.Array) -> jax.Array:
    """Logits [height, width, 2] of ground and vessel."""
    found: Any = self.decoder(self.look(image))
    return found


def prepared(
  widths: tuple[int, ...],
  learning_rate: float,
  num_steps: int,
  batch_size: int,
  key: Key,
  turn: study.Turn,
  directory: RunDirectory,
) -> study.Turn:
  """The turn with "looks" [picture, look, height, width, 1] of the pictures that it trains on.

  Args:
    widths, learning_rate, num_steps, batch_size: of the drawers.
    key: of their first weights and batches; each has a stream of its own.
    turn: whose people that train teach the drawers, and nobody else.
    directory: of the run.
  """
  module = Drawer(widths)

  def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
    del key
    logits: Any = module.apply({"params": params}, example["image"])
    return losses.cross_entropy(logits, example["label"]) + losses.soft_dice(
      logits, example["label"]
    )

  step = methods.supervised(loss_fn, optax.adam(learning_rate))
  image = entry(turn.train, "image")
  start = jax.jit(module.init)
  seen = jax.jit(lambda params, images: jax.vmap(functools.partial(_look, module, params))(images))
  looks = []
  for number in range(NUM_LOOKS):
    own = rng.stream(key, f"look {number}")
    params = start(rng.stream(own, "parameters"), image[0])["params"]
    stream = data.batches(turn.train, batch_size, own, name=f"look {number} {turn.name}")
    job = study.Job(f"look{number}-{turn.name}", step, stream, params, own, num_steps)
    one = study.train_job(job, directory, log_every=num_steps, progress=False)
    looks.append(np.asarray(seen(one.params, jnp.asarray(image))))
  return turn._replace(train={**turn.train, "looks": np.stack(looks, 1)})


def _look(module: Drawer, params: Params, image: Array) -> Array:
  found: Any = module.apply({"params": params}, image, method="look")
  return found
