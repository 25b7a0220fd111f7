"""Reconstruction networks that clients search for and train together.

Not a study: what `fedautomri` trains.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import federations
from experiments.reconstruction_sets import Acquisitions, unpacked
from medjax import federated, methods, nets, rng, study, train
from medjax.methods import architecture
from medjax.types import Array, Batch, Key, Model, Params, Step


class Design(NamedTuple):
  """A network that is trained.

  Attributes:
    operations: of each edge.
    width: channels.
    is_consistent: whether what was measured is kept.
  """

  operations: tuple[tuple[str, ...], ...]
  width: int
  is_consistent: bool = True


class Task:
  """Networks, searches and trainings of one run."""

  def __init__(self, config: Any, found: Acquisitions):
    self.config, self.data = config, found
    self.trained: dict[str, list[study.Trained]] = {}
    self.entropies: dict[str, list[float]] = {}
    self.predictor = functools.cache(self._predictor)
    self.searching = functools.cache(self._searching)
    self.training = functools.cache(self._training)

  def denoiser(self, design: Design) -> nets.CellDenoiser:
    return nets.CellDenoiser(self.config.num_cells, design.width, design.operations)

  def network(self, design: Design) -> nets.Unrolled:
    config = self.config
    return nets.Unrolled(
      self.denoiser(design),
      num_unrolls=config.num_unrolls,
      iterations=config.iterations,
      is_consistent=design.is_consistent,
    )

  def everything(self) -> Design:
    return Design((nets.OPERATIONS,) * len(nets.EDGES), self.config.width)

  def shown(self, design: Design, params: Params, image: Array, alpha: Any = None) -> Array:
    """Magnitude of the reconstruction of one example."""
    kspace, mask = unpacked(image)
    x: Any = self.network(design).apply(
      {"params": params}, kspace, mask, self.data.sensitivities, alpha
    )
    square = jnp.square(x.real) + jnp.square(x.imag)
    return jnp.sqrt(square + 1e-12)

  def loss(self, design: Design, params: Params, alpha: Any, example: Batch, key: Key) -> Array:
    del key
    apart = self.shown(design, params, example.image, alpha) - example.label
    return jnp.sqrt(jnp.square(apart).mean() + 1e-12)  # |f(A^H k) - x|_2, Eq. 4

  def start(self, design: Design, key: Key) -> Params:
    kspace, mask = unpacked(jnp.asarray(self.data.parts["train"].image[0]))
    alpha = jnp.zeros((len(nets.EDGES), len(nets.OPERATIONS)))
    own = alpha if design == self.everything() else None
    # Not compiled as a whole: a program that draws all weights takes longer to build than to run.
    found: Any = self.network(design).init(key, kspace, mask, self.data.sensitivities, own)
    return found["params"]

  def size(self, design: Design) -> int:
    """Parameters: those of the cells, and the weight of data consistency."""
    image = jnp.zeros((*self.data.parts["train"].label.shape[1:], 2))
    shapes = jax.eval_shape(self.denoiser(design).init, jax.random.key(0), image)
    return sum(x.size for x in jax.tree.leaves(shapes)) + 1

  # --- the search

  def _searching(self, method: architecture.SearchMethod) -> Step:
    config, design = self.config, self.everything()
    alpha_tx = optax.chain(
      optax.add_decayed_weights(1e-3), optax.scale_by_adam(), optax.scale(-config.alpha_rate)
    )
    loss = functools.partial(self.loss, design)
    tx = optax.adam(config.learning_rate, eps_root=1e-12)
    step = methods.architecture_search(loss, tx, alpha_tx, method=method, beta=config.beta)
    metrics = ("loss", "validation_loss")
    client = federated.local(step, keep=("opt_state",), metrics=metrics)
    number = config.num_clients
    return federated.federated(client, num_clients=number, cohort=number)

  def searched(
    self, method: architecture.SearchMethod, seed: int, directory: train.RunDirectory
  ) -> tuple[tuple[str, ...], ...]:
    """Operations that the clients agree on."""
    config, key = self.config, jax.random.key(seed)
    streams = {
      part: self.cohorts(part, seed, name) for name, part in
      (("train", "train"), ("validation", "validation"))
    }  # fmt: skip

    def stream(step: int) -> list[federated.Cohort]:
      both = {part: own(step) for part, own in streams.items()}
      return [
        a.replace(batches={"train": a.batches, "validation": b.batches})
        for a, b in zip(both["train"], both["validation"], strict=True)
      ]

    start = {
      "weights": self.start(self.everything(), rng.stream(key, "parameters")),
      "architecture": jnp.zeros((len(nets.EDGES), len(nets.OPERATIONS))),
    }
    name = f"search-{method}-{seed}"
    job = study.Job(name, self.searching(method), stream, start, key, config.num_search_rounds)
    one = study.train_job(job, directory, log_every=config.log_every, progress=False)
    self.trained.setdefault(f"search {method}", []).append(one)
    alpha = np.asarray(one.params["architecture"])
    self.entropies.setdefault(method, []).append(
      float(nets.architecture_entropy(jnp.asarray(alpha)))
    )
    return nets.derived_operations(alpha)

  def cohorts(self, part: str, seed: int, name: str) -> Any:
    config = self.config
    return federated.cohorts(
      self.data.parts[part],
      self.data.held[part],
      seed=rng.stream(jax.random.key(seed), name),
      batch_size=config.batch_size,
      local_steps=config.local_steps,
      chunk=1,
    )

  # --- the training

  def _training(self, design: Design) -> Step:
    config = self.config
    loss = functools.partial(self.loss, design)
    step = methods.supervised(
      lambda params, example, key: loss(params, None, example, key),
      optax.adamw(config.learning_rate),
    )
    client = federated.with_moving_average(federated.local(step, keep=("opt_state",)), config.decay)
    number = config.num_clients
    return federated.federated(client, num_clients=number, cohort=number)

  def train(
    self, arm: str, design: Design, seed: int, directory: train.RunDirectory
  ) -> tuple[Params, Params]:
    """Weights of the server, and the moving average that its clients keep."""
    config = self.config
    model = Model(lambda key, image: (self.start(design, key), {}), lambda *a, **k: ((), {}))
    job = federations.job(
      f"{arm}-{seed}",
      self.training(design),
      model,
      self.data.parts["train"],
      self.data.held["train"],
      seed=seed,
      num_rounds=config.num_rounds,
      batch_size=config.batch_size,
      local_steps=config.local_steps,
      chunk=1,
    )
    one = study.train_job(job, directory, log_every=config.log_every, progress=False)
    if all(one.name != known.name for known in self.trained.get(arm, [])):
      self.trained.setdefault(arm, []).append(one)
    means, _ = federated.averages_of(one.state.extra.clients.kept, config.decay)
    # All clients take part in every round, so that all averages are one.
    return one.params, jax.tree.map(lambda x: x[0], means)

  def _predictor(self, design: Design) -> study.ChunkedPredictor:
    return study.ChunkedPredictor(functools.partial(self.shown, design), chunk=8)


def of_equal_size(task: Task, size: int, seed: int) -> Design:
  """Operations drawn at random, out of 40 draws those whose network is nearest in size."""
  draws = {nets.random_operations(200 * seed + n) for n in range(40)}
  width = task.config.width
  return min((Design(own, width) for own in sorted(draws)), key=lambda d: abs(task.size(d) - size))


def hand_made(task: Task, size: int, factor: float = 1.0) -> Design:
  """Convolutions of 3 x 3 on all edges, as wide as it takes to have `factor` times the size."""
  plain = (("conv3",),) * len(nets.EDGES)
  designs = [Design(plain, width) for width in range(2, 8 * task.config.width)]
  return min(designs, key=lambda d: abs(task.size(d) - factor * size))


@dataclasses.dataclass(frozen=True)
class Settings(study.Settings):
  """What is measured, searched and trained."""

  num_seeds: int = 3
  margin: float = 0.1  # dB
  num_clients: int = 4
  num_coils: int = 1  # 1: the closed form; more: simulated coils and conjugate gradients
  num_people: int = 20  # phantoms of each client
  size: int = 16  # side of a picture in pixels
  coarser: int = 1  # pixels of a scan that are averaged to one along each axis
  acceleration: float = 4.0  # lines over lines that are sampled
  noise: float = 0.01  # deviation of what is measured, the picture's largest value is 1
  subject_pattern: str = r"(person\d+)_"  # finds the person in a file name
  width: int = 6  # channels of a cell
  num_cells: int = 1
  num_unrolls: int = 2
  iterations: int = 6  # of conjugate gradients
  num_search_rounds: int = 40
  num_rounds: int = 120  # of training
  local_steps: int = 1  # updates of a client in a round; a program of two takes long to build
  batch_size: int = 4
  learning_rate: float = 5e-3  # of weights, in search and training
  alpha_rate: float = 3e-2  # Adam's, of the architecture
  beta: float = 1.0  # of MiLeNAS
  decay: float = 0.9  # of the moving average, gamma
  log_every: int = 10  # rounds between two log rows
