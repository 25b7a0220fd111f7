"""Learned synthesis, 3D convolutions and generators, on procedural anatomies."""

import jax
import jax.numpy as jnp
import optax

from experiments.throughput.config import Config
from experiments.throughput.measuring import Program
from medjax import data, grads, losses, nets, synth
from medjax.ops import conv


def learn2synth_programs(config: Config) -> list[Program]:
  """Plain step, plain step plus a real forward and backward pass, hypergradient step; warm Adam.

  Their images are there before. The last row makes a batch of them from label maps, to be added.
  """
  model = nets.from_linen(
    nets.UNet(config.num_classes, config.widths, norm="none", activation="elu")
  )
  augmentation = synth.ParametricAugmentation()
  theta = augmentation.init(sigma=0.05)
  image, label = images(config, config.shape)
  tx = optax.adam(1e-3)

  def inner(params, theta, example, key):
    augmented = augmentation(theta, key, example[0])
    return losses.soft_dice(model.apply(params, augmented)[0], example[1])

  def outer(params, example, key):
    del key
    return losses.soft_dice(model.apply(params, example[0])[0], example[1])

  def plain(params, state, batch, key):
    value, gradient = jax.value_and_grad(
      lambda p: grads.batch_mean(lambda e, k: inner(p, theta, e, k), batch, key)
    )(params)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value

  def plain_and_real(params, state, batch, key):
    params, state, value = plain(params, state, batch, key)
    real = jax.value_and_grad(lambda p: grads.batch_mean(lambda e, k: outer(p, e, k), batch, key))(
      params
    )
    return params, state, value, real

  compute = grads.hypergradient(inner, outer, tx)

  def hypergradient(params, state, batch, key):
    return compute(theta, params, state, jax.tree.map(lambda x: x[None], batch), batch, key)

  generator = synth.learn2synth_base(synth.identity(config.num_classes))

  def synthesis(label, key):
    keys = jax.random.split(key, len(label))
    return jax.vmap(lambda y, k: synth.generate(generator, k, y))(label, keys)

  key = jax.random.key(0)
  params, _ = model.init(key, image[0])
  state = tx.init(params)
  warm = jax.jit(plain)
  for step in range(3):
    params, state, _ = warm(params, state, (image, label), jax.random.fold_in(key, step))
  args = (params, state, (image, label), key)
  size = config.batch_size
  return [
    Program("plain step", plain, args, size),
    Program("plain step + real forward and backward", plain_and_real, args, size, 2.0),
    Program("hypergradient step", hypergradient, args, size, 10 / 3),
    Program("synthesis of the batch", synthesis, (label, key), size),
  ]


def convolution_programs(config: Config) -> list[Program]:
  """The same 3D U-Net step on the backend's own convolution and on the one medjax chooses."""
  image, label = images(config, config.volume)
  tx = optax.adam(1e-3)

  def program(name: str, implementation: conv.Implementation) -> Program:
    net = nets.UNet(
      config.num_classes, config.widths, norm="none", activation="elu", convolution=implementation
    )
    model = nets.from_linen(net)
    params, _ = model.init(jax.random.key(0), image[0])

    def step(params, state, image, label):
      def loss(p):
        return jax.vmap(lambda x, y: losses.soft_dice(model.apply(p, x)[0], y))(image, label).mean()

      updates, state = tx.update(jax.grad(loss)(params), state, params)
      return optax.apply_updates(params, updates), state

    return Program(name, step, (params, tx.init(params), image, label), config.batch_size)

  return [program("native convolution", "native"), program("medjax.ops.conv", "auto")]


def synthesis_programs(config: Config, shape: tuple[int, ...]) -> list[Program]:
  """Both published generators on a procedural anatomy, from a key and a label map."""
  label = jnp.asarray(data.ProceduralAnatomy(1, shape, config.num_classes, seed=0)[0].label)
  table = synth.identity(config.num_classes)
  generators = {
    "SynthSeg": synth.synthseg(table),
    "Learn2Synth base": synth.learn2synth_base(table),
  }
  return [
    Program(
      name,
      lambda key, label, g=generator: synth.generate(g, key, label),
      (jax.random.key(0), label),
      1,
    )
    for name, generator in generators.items()
  ]


def images(config: Config, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """A batch of procedural images [batch, *shape, 1] and labels."""
  source = data.ProceduralAnatomy(
    config.batch_size, shape, config.num_classes, seed=0, with_image=True
  )
  batch = data.stack(source)
  return jnp.asarray(batch.image), jnp.asarray(batch.label)
