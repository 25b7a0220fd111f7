"""A federation of four simulated hospitals, and the ways to forget one of them.

Not a study: what the study of unlearning compares. A way is `forget(task, leaving) -> (parameters,
further rounds of federation)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import data, federated, losses, methods, nets, rng, study
from medjax.federated import restart, unlearning
from medjax.train import RunDirectory
from medjax.types import Array, Batch, Key, Params, Source

HOSPITALS = ("decathlon", "endorectal", "promise", "prostatex")  # in the order of their ids
GONE, _CLASSES, _FEATURES = 1, 5, 16


def hospital(name: str, num: int, seed: int) -> Source:
  """Vectors around one centre a class; those of the hospital that leaves lie elsewhere."""
  random = np.random.default_rng(11)
  centres, others = random.normal(size=(2, _CLASSES, _FEATURES))
  if name == HOSPITALS[GONE]:
    centres = 0.35 * centres + 0.95 * others
  return data.feature_vectors("simulated features", num, seed, centres, noise=1.1, domain=name)


class Task:
  """A perceptron, its federation, and one seed's training with its past."""

  def __init__(self, config: Any, train: Batch, server: Batch, directory: RunDirectory):
    self.config, self.train, self.server, self.directory = config, train, server, directory
    layers = [lambda x: x.ravel(), nn.Dense(32), nn.silu, nn.Dense(_CLASSES)]
    self.model = nets.from_linen(nn.Sequential(layers))
    client = federated.local(
      methods.supervised(self.loss_fn, optax.sgd(config.learning_rate)), max_unrolled=1
    )
    number = len(HOSPITALS)
    self.step = federated.federated(client, num_clients=number, cohort=number, across="vmap")
    self.held = federated.by_domain(train.domain)
    self.predict = study.ChunkedPredictor(self.logits, chunk=64)
    self.distilled = methods.supervised(self.apart, optax.sgd(config.learning_rate))

  def logits(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0]

  def loss_fn(self, params: Params, example: Batch, key: Key) -> Array:
    del key
    return losses.cross_entropy(self.logits(params, example.image), example.label)

  def apart(self, params: Params, example: Any, key: Key) -> Array:
    del key
    return ((self.logits(params, example["image"]) - example["teacher"]) ** 2).mean()

  def mean_loss(self, clients: list[int]) -> unlearning.MeanLoss:
    rows = np.concatenate([self.held[c] for c in clients])
    image, label = self.train.image[rows], self.train.label[rows]

    def loss(params: Params) -> Array:
      logits = jax.vmap(self.logits, (None, 0))(params, image)
      return jax.vmap(losses.cross_entropy)(logits, jnp.asarray(label)).mean()

    return loss

  def stream(self, seed: int, *, all_stay: bool) -> federated.CohortStream:
    weights = np.ones(len(HOSPITALS))
    weights[GONE] = float(all_stay)
    return federated.cohorts(
      self.train,
      self.held,
      batch_size=self.config.batch_size,
      seed=seed,
      local_steps=self.config.local_steps,
      weights=weights,
    )

  def federate(
    self, name: str, params: Params, seed: int, rounds: int, *, all_stay: bool = False
  ) -> study.Trained:
    stream, key = self.stream(seed, all_stay=all_stay), jax.random.key(seed)
    job = study.Job(f"{name}-{seed}", self.step, stream, params, key, rounds)
    return study.train_job(job, self.directory, log_every=self.config.log_every, progress=False)


class Leaving(NamedTuple):
  """One seed: what was trained with and without the hospital, and the recomputed history."""

  seed: int
  start: Params
  full: study.Trained
  scratch: study.Trained
  history: federated.History
  past: unlearning.Past


def leaving(task: Task, seed: int) -> Leaving:
  key, rounds = jax.random.key(seed), task.config.num_rounds
  start, _ = task.model.init(rng.stream(key, "parameters"), task.train.image[0])
  full = task.federate("full", start, seed, rounds, all_stay=True)
  scratch = task.federate("scratch", start, seed, rounds)
  history = federated.History(task.step, task.stream(seed, all_stay=True), start, key)
  past = unlearning.recollect(history, GONE, rounds)
  return Leaving(seed, start, full, scratch, history, past)


def fine_tuned(task: Task, own: Leaving) -> tuple[Params, int]:
  rounds = task.config.num_further
  return task.federate("fine-tune", own.full.params, own.seed, rounds).params, rounds


def eraser(task: Task, own: Leaving) -> tuple[Params, int]:
  config = task.config
  found = unlearning.erased(own.history, own.past, GONE, config.num_rounds, every=config.every)
  return found, -(-config.num_rounds // config.every)


def subtracted(task: Task, own: Leaving) -> tuple[Params, int]:
  """Subtraction, then distillation of the full network on the server's pictures."""
  store = {"image": task.server.image, "teacher": task.predict(own.full.params, task.server.image)}
  stream = data.batches(store, task.config.batch_size, own.seed)
  start, key = own.past.subtracted, jax.random.key(own.seed)
  job = study.Job(f"ukd-{own.seed}", task.distilled, stream, start, key, 100)
  done = study.train_job(job, task.directory, log_every=100, progress=False)
  return done.params, 0


def ascended(task: Task, own: Leaving) -> tuple[Params, int]:
  centre, rounds = own.past.others, task.config.num_further
  apart = optax.tree.norm(jax.tree.map(jnp.subtract, centre, own.start))
  found = unlearning.ascended(
    task.mean_loss([GONE]), own.full.params, centre, radius=float(apart) / 3, rate=0.05
  )
  return task.federate("pga", found, own.seed, rounds).params, rounds


class Noise(NamedTuple):
  """Where IFU restarts: the drift Psi that its noise shall cover, and the noise."""

  limit: float
  sigma: float

  def round_of(self, own: Leaving) -> int:
    return restart.restart_round(own.past.drift, self.limit)


def usual_noise(task: Task, own: Leaving) -> Noise:
  """A fixed share of the drift and little noise; epsilon comes out as it may."""
  return Noise(task.config.kept_fraction * float(own.past.drift[-1]), task.config.sigma)


def private_noise(task: Task, own: Leaving) -> Noise:
  """Noise and epsilon are fixed; they say how much drift can be covered."""
  del own
  config = task.config
  per_drift = restart.noise_of(1.0, config.private_epsilon, config.delta)
  return Noise(config.private_sigma / per_drift, config.private_sigma)


def informed(
  task: Task, own: Leaving, *, noise: Callable[[Task, Leaving], Noise], name: str
) -> tuple[Params, int]:
  found, key = noise(task, own), rng.stream(jax.random.key(own.seed), name)
  back = found.round_of(own)
  start = restart.perturbed(own.history.state(back).params, found.sigma, key)
  rounds = task.config.num_rounds - back
  return task.federate(name, start, own.seed, rounds).params, rounds


def influence(task: Task, own: Leaving) -> tuple[Params, int]:
  loss = task.mean_loss([c for c in range(len(HOSPITALS)) if c != GONE])
  damping = task.config.damping
  return unlearning.influence_removed(loss, own.full.params, damping=damping), 0
