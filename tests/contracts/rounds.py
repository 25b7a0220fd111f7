"""The table of federations: each row runs through the properties in `test_rounds.py`."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import federated, methods
from medjax.federated import aggregate
from medjax.types import Step
from tests.contracts.methods import NUM_FEATURES, batch_of

NUM_CLIENTS, COHORT, LOCAL_STEPS, BATCH = 5, 3, 1, 3


class Row(NamedTuple):
  """A federation on a small linear problem.

  Attributes:
    name: what is special about it.
    step: `step(across) -> Step`.
  """

  name: str
  step: Callable[[str], Step]


def params():
  return {"w": jnp.full(NUM_FEATURES, 0.1, jnp.float32), "b": jnp.zeros((), jnp.float32)}


def store():
  """Examples [60, feature] whose label is the sum of the features."""
  return batch_of(0, 0, size=60)


def parts():
  return federated.evenly(store().subject, NUM_CLIENTS, seed=0)


def stream(**options):
  defaults = {"size": COHORT, "local_steps": LOCAL_STEPS, "batch_size": BATCH, "dropout": 0.3}
  return federated.cohorts(store(), parts(), seed=3, **{**defaults, **options})


def loss_fn(params, example, key):
  del key
  return 0.5 * (params["w"] @ example.image + params["b"] - example.label) ** 2


def loss_with_statistics(params, example, key, model_state):
  mean = 0.9 * model_state["mean"] + 0.1 * example.image
  noisy = example.replace(label=example.label + 0.1 * jax.random.uniform(key))
  return loss_fn(params, noisy, key), {"mean": mean}


def _federated(client, **options):
  return federated.federated(client, num_clients=NUM_CLIENTS, cohort=COHORT, **options)


def _averaged(across):
  statistics = {"mean": jnp.zeros(NUM_FEATURES)}
  step = methods.supervised(loss_with_statistics, optax.sgd(0.1), model_state=statistics)
  server = optax.sgd(1.0, momentum=0.6)
  return _federated(federated.local(step), server=server, across=across)


def _robust(across):
  client = federated.local(methods.supervised(loss_fn, optax.adam(0.05)), keep=("opt_state",))
  mixed = aggregate.nearest_neighbour_mixing(1, aggregate.centred_clipping(0.5))
  compress = federated.top_k(0.5)
  return _federated(
    client, aggregate=mixed, compress=compress, across=across, skips_small_rounds=True
  )


def _personal(across):
  head = federated.Part("head", lambda path: path == "b", None)
  body = federated.Part("body", lambda path: path == "w", aggregate.median())
  client = federated.local(methods.supervised(loss_fn, optax.sgd(0.1)))
  return _federated(client, parts=(head, body), compress=federated.int8(), across=across)


ROWS = (
  Row("FedAvgM with running statistics", _averaged),
  Row("mixing, centred clipping, kept optimisers, top-k", _robust),
  Row("own heads, median, int8", _personal),
)
