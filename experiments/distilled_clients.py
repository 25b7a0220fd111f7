"""Clients that send distilled pictures, and a server that trains on them.

Not a study: what `gdd_fl` trains.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import distilled_sets, federations
from medjax import data, federated, losses, methods, nets, privacy, rng, study, train
from medjax.data import augmentation
from medjax.methods import condensation
from medjax.types import Array, Batch, Key, Params, Step

AVERAGE = "average"


@dataclasses.dataclass(frozen=True)
class Settings(study.Settings):
  """What clients and server do."""

  num_seeds: int = 2
  num_clients: int = 4
  per_class: int = 1  # pictures that a client sends of each class
  width: int = 32  # channels of the network
  depth: int = 2  # its blocks
  num_updates: int = 300  # updates of a client's pictures
  real_batch: int = 32  # real pictures of each class in an update
  image_rate: float = 0.03  # of the descent on pixels, times the pictures of a class
  image_momentum: float = 0.5
  unit_factor: float = 30.0  # on the rate where features have length 1, as in the private release
  num_rounds: int = 30  # of federated averaging
  local_steps: int = 5  # updates of a client in a round
  num_server_steps: int = 300  # updates on what was sent
  batch_size: int = 32  # pictures an update of server or client
  learning_rate: float = 1e-3  # Adam's, of the server's network
  client_rate: float = 0.05  # of descent, of federated clients
  num_networks: int = 8  # public random networks of the private release
  target_epsilon: float = 8.0  # of each client's release
  delta: float = 1e-3


class Way(NamedTuple):
  """What a client sends.

  Attributes:
    kind: "random", "mean", "dm", "gdd", "dc", "dsa", "private" or "average".
    is_even: whether all clients have equal shares of the classes.
    shift: of GDD.
    num_rounds: of averaging; 0: those of the settings.
  """

  kind: str
  is_even: bool = False
  shift: condensation.Uncertain | None = None
  num_rounds: int = 0


class Task:
  """Networks, and what is compiled once for all clients and seeds."""

  def __init__(self, config: Settings, shape: tuple[int, ...], num_classes: int):
    self.config, self.shape, self.num_classes = config, shape, num_classes
    self.network = nets.InstanceConvNet(num_classes, config.width, config.depth)
    self.features = nets.InstanceConvNet(0, config.width, config.depth)
    self.model = nets.from_linen(self.network)
    self.change = augmentation.siamese()
    self.networks = condensation.RandomNetworks.draw(
      self.embed,
      self.new_features,
      jax.random.key(0),
      count=config.num_networks,
      shape=shape,
    )
    self.distilling, self.averaging = (
      functools.cache(self._distilling),
      functools.cache(self._averaging),
    )
    self.serving = methods.supervised(self._augmented_loss, optax.adam(config.learning_rate))

  def new_features(self, key: Key) -> Params:
    return self.features.init(key, jnp.zeros(self.shape))["params"]

  def new_network(self, key: Key) -> Params:
    return self.network.init(key, jnp.zeros(self.shape))["params"]

  def embed(self, network: Params, image: Array, change: Any = None) -> Array:
    found: Any = self.features.apply({"params": network}, image, change)
    return found

  def logits(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0]

  def loss(self, params: Params, example: Any, key: Key) -> Array:
    del key
    image, label = (example[k] if isinstance(example, dict) else getattr(example, k)
                    for k in ("image", "label"))  # fmt: skip
    return losses.cross_entropy(self.logits(params, image), label)

  def _augmented_loss(self, params: Params, example: Batch, key: Key) -> Array:
    moved = self.change.apply(self.change.draw(key, self.shape), example.image)
    return self.loss(params, example.replace(image=moved), key)

  def _distilling(self, way: Way) -> Step:
    change = None if way.kind == "dc" else self.change
    if way.kind in ("dc", "dsa"):
      match = condensation.gradient_matching(self.loss, change=change)
      new = self.new_network
    elif way.kind == "private":
      match, new = condensation.statistic_matching(self.networks), lambda key: ()
    else:
      match = condensation.distribution_matching(self.embed, change=change, shift=way.shift)
      new = self.new_features
    # A picture has 1 / per_class of the gradient of its class's mean; see `distribution_matching`.
    rate = self.config.image_rate * self.config.per_class
    rate *= self.config.unit_factor if way.kind == "private" else 1.0
    return condensation.condensed(match, new, optax.sgd(rate, self.config.image_momentum))

  def _averaging(self) -> Step:
    number = self.config.num_clients
    client = federated.local(
      methods.supervised(self.loss, optax.sgd(self.config.client_rate)), max_unrolled=1
    )
    whole = federated.federated(client, num_clients=number, cohort=number, across="map")
    return dataclasses.replace(whole, chunked=None)


class Run:
  """One seed of the study in its directory."""

  def __init__(
    self,
    task: Task,
    pictures: distilled_sets.Pictures,
    directory: train.RunDirectory,
    seed: int,
    alpha: float,
    trained: dict[str, list[study.Trained]],
  ):
    self.task, self.config, self.pictures = task, task.config, pictures
    self.directory, self.seed, self.trained = directory, seed, trained
    self.alpha, self.statement = alpha, ""

  def sets(self, way: Way) -> distilled_sets.ClientSets:
    alpha = 1e4 if way.is_even else self.alpha
    return distilled_sets.clients(self.pictures.pool, self.config.num_clients, alpha, self.seed)

  def job(self, name: str, kind: str, *rest: Any) -> study.Trained:
    one = study.train_job(
      study.Job(f"{name}-{self.seed}", *rest),
      self.directory,
      log_every=self.config.log_every,
      progress=False,
    )
    self.trained.setdefault(kind, []).append(one)
    return one

  def sent(self, arm: str, way: Way, client: int, own: Batch) -> federated.PublishedSet | None:
    """What a client publishes; None if it holds nothing."""
    config, classes = self.config, range(self.task.num_classes)
    rows = {k: np.flatnonzero(own.label == k) for k in classes}
    if way.kind in ("random", "mean"):
      random = np.random.default_rng([self.seed, client])
      images, labels = [], []
      for k in (k for k in classes if len(rows[k])):
        drawn = random.permutation(rows[k])[: config.per_class]
        shown = own.image[rows[k]].mean(0)[None] if way.kind == "mean" else own.image[drawn]
        images, labels = [*images, *shown], [*labels, *[k] * len(shown)]
      return self.published(np.stack(images), np.array(labels))
    key = jax.random.fold_in(jax.random.key(self.seed), client)
    low, high = self.pictures.bounds
    noise = np.random.default_rng([self.seed, client, 1]).normal(
      size=(len(classes), config.per_class, *self.task.shape)
    )
    start = jnp.asarray((low + high) / 2 + (high - low) / 8 * noise, jnp.float32)
    if way.kind == "private":
      batch = self.released(arm, client, own, key)
      stream: Any = lambda step: batch  # noqa: E731
      is_there = batch["weight"][:, 0] > 0
    else:
      stream = data.class_batches(own, config.real_batch, key, num_classes=len(classes))
      is_there = np.array([len(rows[k]) > 0 for k in classes])
    name, step = f"{arm}-{client}", self.task.distilling(way._replace(is_even=False))
    one = self.job(name, f"{arm} pictures", step, stream, start, key, config.num_updates)
    images = np.asarray(one.params)[is_there].reshape(-1, *self.task.shape)
    return self.published(images, np.repeat(np.flatnonzero(is_there), config.per_class))

  def published(self, images: np.ndarray, labels: np.ndarray) -> federated.PublishedSet | None:
    bounds = self.pictures.bounds
    return federated.published(images, labels, bounds=bounds) if len(labels) else None

  def released(self, arm: str, client: int, own: Batch, key: Key) -> dict[str, np.ndarray]:
    """Noised statistics of a client, the same in every update."""
    networks, size, classes = self.task.networks, len(own.label), self.task.num_classes
    plan = privacy.DPPlan(
      num_examples=size,
      expected_batch_size=size,
      num_steps=1,
      delta=self.config.delta,
      max_norm=networks.norm,
      unit="example",
      target_epsilon=self.config.target_epsilon,
      repeated_subjects=len(set(own.subject.tolist())) < size,
      vault=privacy.Vault.from_seed(1000 * self.seed + client),
    )
    width = jax.eval_shape(networks.every, own.image[0]).size
    step, start = condensation.statistics_step(networks, plan), jnp.zeros((classes, width + 1))
    stream = plan.stream(own, chunk=32)
    rest = (step, stream, {"sum": start}, key, 1)
    one = self.job(f"{arm}-release-{client}", f"{arm} release", *rest)
    self.statement = self.statement or plan.statement()
    found = condensation.released_means(one.params, networks)
    weight = (np.asarray(found.counts) > 0.05).astype(np.float32)[:, None]
    return {"means": np.asarray(found.means), "weight": weight}

  def pictures_of(self, arm: str, way: Way) -> tuple[Params, float, np.ndarray]:
    """The server's weights, megabytes that were sent, and what the pictures betray."""
    held, pool = self.sets(way), self.pictures.pool
    found = [
      self.sent(arm, way, client, jax.tree.map(lambda x, c=client: x[held.rows(c)], pool))
      for client in range(self.config.num_clients)
    ]
    union = federated.received([one for one in found if one is not None])
    key = jax.random.key(self.seed)
    params, _ = self.task.model.init(rng.stream(key, "parameters"), union.image[0])
    stream = data.batches(union, self.config.batch_size, self.seed, name="server")
    steps = self.config.num_server_steps
    one = self.job(arm, arm, self.task.serving, stream, params, key, steps)
    sent = sum(each.num_bytes for each in found if each is not None) / 1e6
    scores = distilled_sets.member_scores(self.task.networks, pool, held.owner, found)
    return one.params, sent, scores

  def averaged(self, arm: str, way: Way) -> tuple[Params, float]:
    held, pool = self.sets(way), self.pictures.pool
    rows = [held.rows(client) for client in range(self.config.num_clients)]
    options = {"batch_size": self.config.batch_size, "local_steps": self.config.local_steps}
    rounds = way.num_rounds or self.config.num_rounds
    if way.num_rounds:  # as many updates of a client in all
      options["local_steps"] *= self.config.num_rounds
    job = federations.job(
      f"{arm}-{self.seed}",
      self.task.averaging(),
      self.task.model,
      pool,
      rows,
      seed=self.seed,
      num_rounds=rounds,
      **options,
    )
    one = study.train_job(
      federations.in_one_block(job), self.directory, log_every=1, progress=False
    )
    self.trained.setdefault(arm, []).append(one)
    megabytes = sum(one.curve("megabytes_up")[1]) + sum(one.curve("megabytes_down")[1])
    return one.params, megabytes
