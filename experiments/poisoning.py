"""Federations under attack: simulated lesions, a small network, rules that join, wrong clients.

Not a study: what the study of wrong updates compares. A rule is made from the number of wrong
clients, an attack from that and from what they know, their own lesions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax

from experiments import federations
from medjax import data, federated, losses, methods, nets, study
from medjax.federated import aggregate, attacks
from medjax.types import Batch, Key, Metrics, Params, Source, Step, TrainState

_CLASSES, _FEATURES = 7, 16


def lesions(num: int, seed: int) -> Source:
  """Vectors around one centre a class: what a frozen network makes of a picture."""
  centres = np.random.default_rng(7).normal(size=(_CLASSES, _FEATURES))
  return data.feature_vectors("simulated lesions", num, seed, centres, noise=1.2)


class Task:
  """A perceptron, its loss, and what the wrong clients know."""

  def __init__(self, num_clients: int, learning_rate: float):
    self.num_clients, self.learning_rate = num_clients, learning_rate
    layers = [lambda x: x.ravel(), nn.Dense(32), nn.silu, nn.Dense(_CLASSES)]
    self.model = nets.from_linen(nn.Sequential(layers))

  def logits(self, params: Params, image: jax.Array) -> jax.Array:
    return self.model.apply(params, image)[0]

  def loss_fn(self, params: Params, example: Batch, key: Key) -> jax.Array:
    del key
    return losses.cross_entropy(self.logits(params, example.image), example.label)

  def step(self, rule: str, attack: str, wrong: int) -> Step:
    """A federation under attack, on (cohort of a round, the wrong clients' pooled lesions).

    The pooled lesions are data of the update, so all splits and seeds share one program.
    """
    sgd = methods.supervised(self.loss_fn, optax.sgd(self.learning_rate))

    def federation(pooled: Batch | None) -> Step:
      return federated.federated(
        federated.local(sgd, max_unrolled=1),
        num_clients=self.num_clients,
        cohort=self.num_clients,
        aggregate=RULES[rule].make(wrong),
        attack=None if pooled is None else ATTACKS[attack].make(self, wrong, pooled),
        across="vmap",  # of small dense networks; compiles fastest
      )

    def update(state: TrainState, sample: Any, key: Key) -> tuple[TrainState, Metrics]:
      cohort, pooled = sample
      return federation(pooled).update(state, cohort, key)

    honest = federation(None)
    return dataclasses.replace(
      honest,
      update=update,
      manifest={**honest.manifest, "attack": f"{attack} of {wrong}"},
      chunked=None,  # one block a round: one program
    )


RULES = study.arms(
  study.Arm("mean", "FedAvg", lambda f: aggregate.mean()),
  study.Arm(
    "krum",
    "the most central client",
    lambda f: dataclasses.replace(aggregate.krum(f), least=1),  # beyond its condition, see above
  ),
  study.Arm("trimmed", "coordinates without their extremes", aggregate.trimmed_mean),
  study.Arm("dos", "weights by outlier scores of distances", lambda f: aggregate.dos()),
  study.Arm(
    "mixed-trimmed",
    "trimmed mean of means of nearest neighbours",
    lambda f: aggregate.nearest_neighbour_mixing(f, aggregate.trimmed_mean(f)),
  ),
  study.Arm(
    "bucketed-krum",
    "Krum for one wrong of pairs",
    lambda f: dataclasses.replace(aggregate.bucketing(2, aggregate.krum(1)), least=1),
  ),
)
ATTACKS = study.arms(
  study.Arm("none", "all clients are honest", lambda task, f, pooled: None),
  study.Arm("lie", "deviations below the mean", lambda task, f, pooled: attacks.lie(f)),
  study.Arm("min-max", "back as far as they lie apart", lambda task, f, pooled: attacks.min_max(f)),
  study.Arm(
    "random",
    "anywhere as far as they lie apart: the control",
    lambda task, f, pooled: attacks.random_direction(f),
  ),
  study.Arm(
    "disbelieve",
    "up the loss as far as they lie apart",
    lambda task, f, pooled: attacks.disbelieve_parameters(f, task.loss_fn, pooled),
  ),
)


def attacked(job: study.Job, train: Batch, held: Sequence[np.ndarray], wrong: int) -> study.Job:
  """The job with the first `wrong` clients' lesions pooled beside the cohort of every round."""
  # As many rows for every split: smaller pools are filled up with rows of weight 0.
  rows = np.concatenate(held[:wrong])
  pooled = data.streams.take(train, np.resize(rows, len(train.label)))
  pooled = pooled.replace(weight=(np.arange(len(train.label)) < len(rows)).astype(np.float32))
  cohort = federations.in_one_block(job).stream
  return job._replace(stream=lambda t: (cohort(t), pooled))
