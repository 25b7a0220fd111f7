"""The table of methods: a further one is one more row, and every shared property runs on it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import methods, privacy
from medjax.types import Batch, Step

NUM_FEATURES = 3


class Row(NamedTuple):
  """A method on a small linear problem.

  Attributes:
    name: of the method.
    step: factory of the Step.
    stream: step number -> batch of 4 examples.
    params: initial parameters.
    metrics: what it shows at least.
  """

  name: str
  step: Callable[[], Step]
  stream: Callable[[int], Any]
  params: Callable[[], Any]
  metrics: frozenset[str] = frozenset({"loss", "grad_norm"})


def batch_of(seed: int, name: int, size: int = 4) -> Batch:
  """Images [batch, feature] whose label is the sum of the features."""
  random = np.random.Generator(np.random.Philox(key=[seed, name]))
  image = random.normal(size=(size, NUM_FEATURES)).astype(np.float32)
  return Batch(
    image=image,
    label=image.sum(-1),
    domain=np.zeros(size, np.int32),
    subject=np.arange(size, dtype=np.int32),
    index=np.arange(size, dtype=np.int32) + size * seed,
    weight=np.ones(size, np.float32),
  )


def _params():
  return {"w": jnp.full(NUM_FEATURES, 0.1, jnp.float32), "b": jnp.zeros((), jnp.float32)}


def _residual(params, image, label):
  return params["w"] @ image + params["b"] - label


def _loss(params, example, key):
  noisy = example.image + 0.01 * jax.random.normal(key, example.image.shape)
  return 0.5 * _residual(params, noisy, example.label) ** 2


def _inner(params, theta, example, key):
  noisy = example.image + theta * jax.random.normal(key, example.image.shape)
  return 0.5 * _residual(params, noisy, example.label) ** 2


def _outer(params, example, key):
  del key
  return 0.5 * _residual(params, example.image, example.label) ** 2


def _private():
  """Without noise, so that it learns like the others; each call starts with the same vault."""
  plan = privacy.DPPlan(
    num_examples=10_000,
    expected_batch_size=4,
    num_steps=300,
    delta=1e-5,
    max_norm=100.0,
    unit="example",
    noise_multiplier=0.0,
    vault=privacy.Vault.from_seed(0),
  )
  reference = privacy.public_reference(threshold=-1.0)
  return methods.private(_loss, optax.adam(3e-2), plan, filter=reference)


ROWS = (
  Row(
    "supervised",
    lambda: methods.supervised(_loss, optax.adam(3e-2)),
    lambda t: batch_of(t, 0),
    _params,
  ),
  Row(
    "averaged",
    lambda: methods.averaged(methods.supervised(_loss, optax.adam(3e-2)), 0.9),
    lambda t: batch_of(t, 0),
    _params,
  ),
  Row(
    "l2sp",
    lambda: methods.l2sp(_loss, optax.adam(3e-2), alpha=1e-3),
    lambda t: batch_of(t, 0),
    _params,
  ),
  Row(
    "private",
    _private,
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"release_norm"}),
  ),
  Row(
    "learn2synth",
    lambda: methods.learn2synth(
      _inner,
      _outer,
      # Not Adam: its first hypergradient is rounding noise, which theta's Adam would normalise.
      optax.sgd(0.1, momentum=0.5),
      jnp.float32(0.3),
      optax.adam(1e-2),
      describe=lambda theta: {"sigma": theta},
    ),
    lambda t: {"inner": batch_of(t, 0), "outer": batch_of(t, 1)},
    _params,
  ),
)
