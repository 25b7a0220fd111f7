"""How the networks of `contrasts` train: the network, its generator, and each arm's Step and data.

Not a study: the methods of `contrasts`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from experiments.learn2synth import contrast_views, synthetic_training
from experiments.learn2synth.contrast_people import People
from medjax import data, methods, nets, rng, synth
from medjax.types import Batch, Key, Params, Step, Stream

_NAIVE_SIGMA, _NAIVE_EXPONENT = (1e-4, 0.2), 0.5


@runtime_checkable
class Lengths(Protocol):
  """What of the study's settings decides a training."""

  @property
  def shape(self) -> tuple[int, int]: ...
  @property
  def widths(self) -> tuple[int, ...]: ...
  @property
  def num_steps(self) -> int: ...
  @property
  def batch_size(self) -> int: ...
  @property
  def learning_rate(self) -> float: ...
  @property
  def theta_learning_rate(self) -> float: ...


class Recipe(NamedTuple):
  """How an arm trains: its Step, `stream(seed)`, and what it learns besides the network.

  Attributes:
    step, num_steps: as for `study.Job`.
    stream: stream of a seed.
    task: with the augmentation that is learnt, for arms that learn one.
    residual: the network inside it, if it is one.
  """

  step: Step
  stream: Callable[[int], Stream]
  num_steps: int
  task: synthetic_training.Task
  residual: nets.UNet | None = None


class Task:
  """The network, its generator, and what each arm makes of them."""

  def __init__(self, config: Lengths, people: People):
    self.config, self.people = config, people
    class_names = people.source.class_names
    grouping = synth.with_clusters(
      synth.identity(len(class_names), class_names), len(contrast_views.UNLABELLED)
    )
    self.module = synthetic_training.network(len(class_names), config.widths)
    self.training = synthetic_training.Task(
      model=nets.from_linen(self.module),
      generator=synth.learn2synth_base(grouping),
      augmentation=synth.ParametricAugmentation(),
      loss=synthetic_training.dice_and_cross_entropy,
    )

  def tx(self, num_steps: int, rate: float | None = None) -> optax.GradientTransformation:
    rate = self.config.learning_rate if rate is None else rate
    return optax.adam(optax.cosine_decay_schedule(rate, num_steps, alpha=0.05), eps_root=1e-16)

  def maps(self, seed: int) -> Stream:
    return data.batches(self.people.maps, self.config.batch_size, seed, name="synthetic")

  def real(self, seed: int) -> Stream:
    return data.batches(self.people.training, self.config.batch_size, seed, name="real")

  def naive(self, share_real: float = 0.0) -> Recipe:
    """Fixed, broad randomisation; some of the examples stay the real image that they come from."""
    augmentation = synth.ParametricAugmentation(noise="ranged")
    theta = augmentation.init(sigma=_NAIVE_SIGMA, exponents=_NAIVE_EXPONENT)
    task = dataclasses.replace(self.training, augmentation=augmentation)

    def loss_fn(params: Params, example: Batch, key: Key) -> jax.Array:
      synthesis_key, coin_key = rng.streams(key, "synthesis", "is_real")
      image, target = task.synthesise(theta, synthesis_key, example.label)
      if share_real:
        is_real = jax.random.bernoulli(coin_key, share_real)
        image = jnp.where(is_real, example.image, image)
        target = jnp.where(is_real, task.generator.grouping.to_target(example.label), target)
      return task.loss(task.model.apply(params, image)[0], target)

    steps = self.config.num_steps
    return Recipe(methods.supervised(loss_fn, self.tx(steps)), self.maps, steps, task)

  def supervised(self, augmented: bool = False, part: float = 1.0) -> Recipe:
    """On real images; `part` of the updates at that part of the rate, for fine-tuning."""
    augmentation = data.augmentation.nnunet(self.config.shape, mirror_axes=(0,))

    def loss_fn(params: Params, example: Batch, key: Key) -> jax.Array:
      image, label = example.image, example.label
      if augmented:  # its ranges are those of z-scored images
        mean, std = image.mean(), image.std() + 1e-6
        image, label = augmentation(key, (image - mean) / std, label)
        image = image * std + mean
      return self.training.loss(self.training.model.apply(params, image)[0], label)

    steps = max(round(part * self.config.num_steps), 1)
    tx = self.tx(steps, part * self.config.learning_rate)
    return Recipe(methods.supervised(loss_fn, tx), self.real, steps, self.training)

  def learn2synth(self, augmentation: synth.LearnableAugmentation, theta: Any) -> Recipe:
    task = dataclasses.replace(self.training, augmentation=augmentation)
    steps = self.config.num_steps
    step = methods.learn2synth(
      task.inner_loss,
      task.outer_loss,
      self.tx(steps),
      theta,
      self.tx(steps, self.config.theta_learning_rate),
      describe=augmentation.describe,
    )
    both = lambda seed: data.zip_streams(inner=self.maps(seed), outer=self.real(seed))  # noqa: E731
    return Recipe(step, both, steps, task)

  def parametric(self, **noise: Any) -> Recipe:
    augmentation = synth.ParametricAugmentation(**noise)
    return self.learn2synth(augmentation, augmentation.init(sigma=0.02, exponents=0.0))

  def network(self) -> Recipe:
    """The paper's nonparametric model, of two levels; it starts near the identity."""
    residual = nets.UNet(num_outputs=1, widths=(8, 16), norm="instance", activation="elu")
    augmentation = synth.UNetResidual(nets.from_linen(residual), gain=0.1)
    first = jnp.zeros((*self.config.shape, 1))
    recipe = self.learn2synth(augmentation, augmentation.init(jax.random.key(0), first))
    return recipe._replace(residual=residual)
