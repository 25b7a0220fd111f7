"""What a round costs beside one model on the union of its clients' batches."""

import flax.linen as nn
import jax
import numpy as np
import optax

from medjax import federated, losses, methods, nets
from medjax.study import flops
from medjax.types import Batch

CLIENTS, STEPS, BATCH, SIDE = 3, 1, 8, 8


class Small(nn.Module):
  """Two convolutions."""

  @nn.compact
  def __call__(self, image):
    x = nn.avg_pool(nn.relu(nn.Conv(8, (3, 3))(image)), (2, 2), (2, 2))
    x = nn.avg_pool(nn.relu(nn.Conv(16, (3, 3))(x)), (2, 2), (2, 2))
    return nn.Dense(4)(x.reshape(-1))


def setting():
  """A Step of one model, its union batches, and the federation with its cohort."""
  model = nets.from_linen(Small())
  random = np.random.default_rng(0)
  num = CLIENTS * STEPS * BATCH
  store = Batch(
    image=random.normal(size=(num, SIDE, SIDE, 1)).astype(np.float32),
    label=random.integers(4, size=num).astype(np.int32),
    domain=np.zeros(num, np.int32),
    subject=np.arange(num, dtype=np.int32),
    index=np.arange(num, dtype=np.int32),
    weight=np.ones(num, np.float32),
  )

  def loss_fn(params, example, key):
    del key
    return losses.cross_entropy(model.apply(params, example.image)[0], example.label)

  params, _ = model.init(jax.random.key(0), store.image[0])
  local = methods.supervised(loss_fn, optax.sgd(0.1))
  parts = np.array_split(np.arange(num), CLIENTS)
  stream = federated.cohorts(store, parts, batch_size=BATCH, local_steps=STEPS, seed=0)
  step = federated.federated(federated.local(local), num_clients=CLIENTS, cohort=CLIENTS)
  union = jax.tree.map(lambda x: x[: CLIENTS * BATCH], store)
  return params, local, union, step, stream


def test_a_round_does_the_work_of_one_model_on_the_union_of_the_batches():
  params, local, union, step, stream = setting()
  one, whole = flops(local, params, union), flops(step, params, stream(0)[0])
  # Beside the clients' updates: weights are moved and joined for each client.
  assert STEPS * one < whole < 1.05 * STEPS * one
