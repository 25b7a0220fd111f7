"""Many trainings at once are the same trainings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods, train
from medjax.check import InputError

RUNS = 4


class Net(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.gelu(nn.GroupNorm(2)(nn.Conv(4, (3, 3))(x)))
    return nn.Dense(1)(x.mean((0, 1)))[0]


net = Net()


def loss(params, example, key):
  image = example["image"] + 0.1 * jax.random.normal(key, example["image"].shape)
  return (net.apply(params, image) - example["target"]) ** 2


step = methods.supervised(loss, optax.adam(1e-2))


def stream_of(run):
  def stream(t):
    random = np.random.default_rng((run, t))
    image = random.normal(size=(3, 8, 8, 2)).astype(np.float32)
    return {"image": image, "target": image.mean((1, 2, 3)) + run}

  return stream


KEYS = [jax.random.key(r) for r in range(RUNS)]
STREAMS = [stream_of(r) for r in range(RUNS)]
PARAMS = [net.init(jax.random.key(10 + r), jnp.zeros((8, 8, 2))) for r in range(RUNS)]
EVALUATORS = [
  {"w": lambda s, r=r: {"sum": float(s.params["params"]["Dense_0"]["kernel"].sum()) + r}}
  for r in range(RUNS)
]
OPTIONS = dict(num_steps=4, log_every=2, progress=False)


@pytest.fixture(scope="module")
def alone():
  return [
    train.fit(step, *of_run, evaluators=own, name=f"run-{r}", **OPTIONS)
    for r, (*of_run, own) in enumerate(zip(STREAMS, PARAMS, KEYS, EVALUATORS, strict=True))
  ]


def together(mode, **options):
  return train.fit_many(
    step, STREAMS, PARAMS, KEYS, mode=mode, evaluators=EVALUATORS, **OPTIONS, **options
  )


@pytest.mark.parametrize("mode", ["sequential", "map"])
def test_a_run_in_company_is_the_run_alone_bit_for_bit(alone, mode):
  for one, other in zip(alone, together(mode), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert one.history == other.history


@pytest.mark.parametrize("mode", ["vmap", "sharded"])
def test_stacked_runs_differ_by_rounding(alone, mode):
  for one, other in zip(alone, together(mode), strict=True):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one.state, other.state
    )
    assert [list(row) for row in one.history] == [list(row) for row in other.history]


def test_runs_resume_together(alone, tmp_path):
  class Stop(Exception):
    pass

  def failing(t):
    if t == 3:
      raise Stop
    return STREAMS[0](t)

  where = dict(workdir=tmp_path, checkpoint_every=2, mode="map", evaluators=EVALUATORS, **OPTIONS)
  with pytest.raises(Stop):
    train.fit_many(step, [failing, *STREAMS[1:]], PARAMS, KEYS, **where)
  for one, other in zip(alone, train.fit_many(step, STREAMS, PARAMS, KEYS, **where), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one.state, other.state)
    assert one.history == other.history


def test_what_does_not_fit_is_refused():
  with pytest.raises(InputError, match="keys for each of 4 runs"):
    train.fit_many(step, STREAMS, PARAMS, KEYS[:2], **OPTIONS)
  with pytest.raises(InputError, match="2 devices divide"):
    train.fit_many(step, STREAMS[:3], PARAMS[:3], KEYS[:3], mode="sharded", **OPTIONS)
  with pytest.raises(InputError, match="a mesh for mode='sharded'"):
    train.fit_many(step, STREAMS, PARAMS, KEYS, mode="map", mesh=train.data_mesh(), **OPTIONS)
