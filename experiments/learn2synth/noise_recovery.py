"""Does Learn2Synth find the noise level that is best for real images? On known anatomy and noise.

"Real" images are drawn by the generator itself from other anatomies, plus noise of a preset level.
The outer loss is first computed as a profile: networks trained, with a decaying rate, at each fixed
noise level, on each preset's real images. The profile's minimum is the noise level that an ideal
synthesiser would find; the method is compared with it, and it with the preset.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learn2synth import synthetic_training
from medjax import data, methods, rng, study, synth, train
from medjax.types import Batch, Key, PyTree

NUM_CLASSES = 6
# One contrast with some play, so that noise, and not contrast, is what makes the task hard.
_MEANS = (0.0, 0.30, 0.90, 0.60, 0.45, 0.75)
_PLAY = 0.05
_AUGMENTATION = synth.ParametricAugmentation(bias=False)


@dataclasses.dataclass(frozen=True)
class Config:
  """Recovery of a known noise level."""

  shape: tuple[int, ...] = (64, 64)  # voxels per axis of the procedural anatomies
  # hidden noise levels of the real images, in image intensities
  presets: tuple[float, ...] = (0.0, 0.05, 0.10, 0.15)
  # fixed noise levels of the profile, in image intensities
  profile: tuple[float, ...] = tuple(round(0.02 * i, 2) for i in range(13))
  num_seeds: int = 3  # seeds, each with its own initial weights, draws and initial noise level
  num_steps: int = 1200  # updates of Learn2Synth
  profile_steps: int = 1200  # updates of each network of the profile
  batch_size: int = 8  # images an update, synthetic and real alike
  num_label_maps: int = 512  # anatomies to synthesise from
  num_real: int = 512  # real images, of other anatomies
  widths: tuple[int, ...] = (8, 16, 32)  # channels of the U-Net's levels
  # Adam's first rate for the network; decays to a twentieth along a cosine
  learning_rate: float = 3e-3
  # Adam's first rate for the raw noise parameter, in image intensities; decays likewise
  theta_learning_rate: float = 3e-3
  # initial noise level of seed 0, 1, ..., cyclic, in image intensities
  initial_sigma: tuple[float, ...] = (0.03, 0.08, 0.20)
  log_every: int = 50  # steps between two log rows

  def __post_init__(self):
    study.check_fields(self)


class Recovery(NamedTuple):
  """One preset's outcome; noise levels in image intensities.

  Attributes:
    preset: the hidden level.
    minimiser, minimiser_error: of the profile (mean over seeds), and its standard error over seeds.
    estimate, estimate_error: the method's (mean of the last 20 % of steps), likewise.
    estimates: the method's, seed by seed.
    profile_passes: the minimiser lies within max(0.005, 5 %) of the preset.
    method_passes: the estimate lies within max(0.005, 5 %) of the minimiser.
  """

  preset: float
  minimiser: float
  minimiser_error: float
  estimate: float
  estimate_error: float
  estimates: tuple[float, ...]
  profile_passes: bool
  method_passes: bool


class Found(NamedTuple):
  """All that a report needs.

  Attributes:
    recoveries: outcomes, one a preset.
    losses: of the profile, [preset, seed, level].
    learned: preset -> trainings by the method, seed by seed.
    profiled: trainings of the profile.
    examples: preset -> a real image.
  """

  recoveries: tuple[Recovery, ...]
  losses: np.ndarray
  learned: dict[float, list[study.Trained]]
  profiled: list[study.Trained]
  examples: dict[float, np.ndarray]


def run(config: Config, seed: int, directory: train.RunDirectory) -> Found:
  """Profile first, then the method, resumable run by run."""
  task = make_task(config.widths)
  maps, real_maps = (data.stack(source) for source in sources(config, seed).values())
  real_key = rng.stream(jax.random.key(seed), "real images")
  real = {sigma: real_images(task, real_key, real_maps, sigma) for sigma in config.presets}

  losses = np.zeros((len(config.presets), config.num_seeds, len(config.profile)))
  profile_step = methods.supervised(
    task.fixed_loss, _network_optimiser(config, config.profile_steps)
  )
  profiled = []
  for s in range(config.num_seeds):
    for j, sigma in enumerate(config.profile):
      draws = data.batches(maps, config.batch_size, seed + s, name="synthetic")
      job = study.Job(
        f"profile-{sigma:.2f}-{s}",
        profile_step,
        synthetic_training.with_theta(draws, theta_of(sigma)),
        task.first_params(jax.random.key(seed + s), config.shape),
        rng.stream(jax.random.key(seed + s), "profile"),  # one stream for all levels: paired
        config.profile_steps,
      )
      one = study.train_job(job, directory, log_every=config.log_every)
      profiled.append(one)
      on_real = lambda one=one: study.Scored(  # noqa: E731
        [], more={"losses": np.array([task.mean_loss(one.params, own) for own in real.values()])}
      )
      losses[:, s, j] = study.kept(directory, one.name, one.params, on_real).more["losses"]

  learned: dict[float, list[study.Trained]] = {preset: [] for preset in config.presets}
  for preset in config.presets:
    for s in range(config.num_seeds):
      initial = config.initial_sigma[s % len(config.initial_sigma)]
      step = methods.learn2synth(
        task.inner_loss,
        task.outer_loss,
        _network_optimiser(config, config.num_steps),
        theta_of(initial),
        optax.adam(decaying(config.theta_learning_rate, config.num_steps)),
        describe=task.augmentation.describe,
      )
      stream = data.zip_streams(
        inner=data.batches(maps, config.batch_size, seed + s, name="synthetic"),
        outer=data.batches(real[preset], config.batch_size, seed + s, name="real"),
      )
      job = study.Job(
        f"learn2synth-{preset:.2f}-{s}",
        step,
        stream,
        task.first_params(jax.random.key(seed + s), config.shape),
        rng.stream(jax.random.key(seed + s), "learn2synth"),
        config.num_steps,
      )
      periods = {"log_every": config.log_every, "checkpoint_every": 10 * config.log_every}
      learned[preset].append(study.train_job(job, directory, **periods))

  recoveries = tuple(
    recovery(
      config,
      preset,
      losses[i],
      [estimate(one.fit.history, config.num_steps) for one in learned[preset]],
    )
    for i, preset in enumerate(config.presets)
  )
  examples = {sigma: real[sigma].image[0, ..., 0] for sigma in config.presets}
  return Found(recoveries, losses, learned, profiled, examples)


def sources(config: Config, seed: int) -> dict[str, data.ProceduralAnatomy]:
  """Anatomies to synthesise from, and others that become the real images."""
  return {
    "label maps": data.ProceduralAnatomy(config.num_label_maps, config.shape, NUM_CLASSES, seed),
    "real": data.ProceduralAnatomy(config.num_real, config.shape, NUM_CLASSES, seed + 1),
  }


def make_task(
  widths: tuple[int, ...], augmentation: synth.ParametricAugmentation = _AUGMENTATION
) -> synthetic_training.Task:
  """The augmentation, noise by default, is all there is to learn; the generator is the truth."""
  mixture = synth.Mixture(
    mean=tuple((m, m) if m == 0 else (m - _PLAY, m + _PLAY) for m in _MEANS),
    std=(0.0, 0.03),
    zero_background=1.0,
    dark_background=0.0,
  )
  return synthetic_training.Task(
    model=synthetic_training.unet(NUM_CLASSES, widths),
    generator=synth.Generator(synth.identity(NUM_CLASSES), mixture=mixture, quantiles=None),
    augmentation=augmentation,
    loss=synthetic_training.dice_and_cross_entropy,
  )


def real_images(task: synthetic_training.Task, key: Key, maps: Batch, sigma: float) -> Batch:
  """Images of `maps` by the generator plus noise of level sigma; equal anatomy for all levels."""

  @jax.jit
  def one(label, index):
    generator_key, noise_key = rng.streams(jax.random.fold_in(key, index), "generator", "noise")
    image, _ = synth.generate(task.generator, generator_key, label)
    return image + sigma * jax.random.normal(noise_key, image.shape)

  images = jax.vmap(one)(jnp.asarray(maps.label), jnp.asarray(maps.index))
  return maps.replace(image=np.asarray(images))


def theta_of(sigma: float) -> PyTree:
  """theta of a noise level; 0 is as near as its parametrisation comes (below 1e-6)."""
  return _AUGMENTATION.init(sigma=max(sigma, 1e-6))


def estimate(rows: Sequence[Mapping[str, Any]], num_steps: int, name: str = "theta/sigma") -> float:
  """Mean of a parameter over the last 20 % of steps, from rows that hold means of equal windows."""
  return float(np.mean([row[name] for row in rows if row["step"] > 0.8 * num_steps]))


def parabola_minimiser(levels: Sequence[float], losses: Sequence[float]) -> float:
  """Vertex of the parabola through the three lowest points, kept inside the levels.

  Three points that do not bend upwards have no vertex to find: the lowest level is returned.

  >>> round(parabola_minimiser([0.0, 1.0, 2.0, 3.0], [1.69, 0.09, 0.49, 2.89]), 6)
  1.3
  """
  order = np.argsort(losses, kind="stable")[:3]
  x, y = np.asarray(levels, float)[order], np.asarray(losses, float)[order]
  curvature, slope, _ = np.polyfit(x, y, 2)
  if curvature <= 0:
    return float(x[0])
  return float(np.clip(-slope / (2 * curvature), min(levels), max(levels)))


def recovery(config: Config, preset: float, losses: np.ndarray, estimates: list[float]) -> Recovery:
  """Outcome of one preset from its profile, `losses` [seed, level], and the method's estimates."""
  minimiser = parabola_minimiser(config.profile, losses.mean(0))
  by_seed = [parabola_minimiser(config.profile, row) for row in losses]
  mean = float(np.mean(estimates))
  return Recovery(
    preset=preset,
    minimiser=minimiser,
    minimiser_error=_standard_error(by_seed),
    estimate=mean,
    estimate_error=_standard_error(estimates),
    estimates=tuple(estimates),
    profile_passes=abs(minimiser - preset) <= max(0.005, 0.05 * preset),
    method_passes=abs(mean - minimiser) <= max(0.005, 0.05 * minimiser),
  )


def _standard_error(values: Sequence[float]) -> float:
  return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _network_optimiser(config: Config, num_steps: int) -> optax.GradientTransformation:
  return optax.adam(decaying(config.learning_rate, num_steps), eps_root=1e-16)


def decaying(rate: float, num_steps: int) -> optax.Schedule:
  """A cosine to a twentieth."""
  return optax.cosine_decay_schedule(rate, num_steps, alpha=0.05)
