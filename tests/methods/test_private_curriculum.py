"""A curriculum under differential privacy: what one example can do, and whose data it may hold."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import methods, privacy, synth, train
from medjax.check import InputError
from medjax.methods.adversaries import (
  affine,
  bias_field,
  chain,
  lgs_fusion,
  noise,
  style_statistics,
)
from medjax.methods.private_curriculum import private_curriculum
from medjax.types import Batch

KEY = jax.random.key(3)
SPACE = (4, 4)
PARAMS = jnp.asarray(np.random.default_rng(9).normal(size=(*SPACE, 1)), jnp.float32)


def batch_of(size=6, seed=0, subjects=None):
  random = np.random.default_rng(seed)
  return Batch(
    image=random.normal(size=(size, *SPACE, 1)).astype(np.float32),
    label=random.integers(0, 2, (size, *SPACE)).astype(np.int32),
    domain=np.zeros(size, np.int32),
    subject=np.arange(size, dtype=np.int32) if subjects is None else np.asarray(subjects, np.int32),
    index=np.arange(size, dtype=np.int32),
    weight=np.ones(size, np.float32),
  )


def square(params, example, key):
  del key
  return 0.5 * (jnp.sum(params * example.image) - example.label.mean()) ** 2


def inverted(key, image):
  del key
  return 1 - 2 * image


def plan(releases, sigma=0.0, **options):
  defaults: dict[str, Any] = dict(
    num_examples=1000, expected_batch_size=6, num_steps=3, delta=1e-5, max_norm=0.5
  )
  defaults |= dict(unit="example", noise_multiplier=sigma, releases_per_sample=releases)
  return privacy.DPPlan(**{**defaults, "vault": privacy.Vault.from_seed(1), **options})


def step_of(adversary, num_updates, rate=0.1, **options):
  filter = private_curriculum(adversary, num_updates=num_updates)
  return methods.private(square, optax.sgd(rate), plan(num_updates, **options), filter=filter)


def fused(**options):
  adversary = lgs_fusion(inverted, **{"direction": "chain", "pool": 2, **options})
  return adversary._replace(provenance="own example")


def bank(subjects=None, **options):
  random = np.random.default_rng(5)
  images = [random.random((*SPACE, 1)) for _ in range(4)]
  return synth.style_bank(images, how=synth.wavelet_style(1), subjects=subjects, **options)


def test_three_releases_are_what_numpy_makes_of_one_sample():
  batch, rate, bound = batch_of(), 0.1, 0.5
  x, y = batch.image.astype(np.float64), batch.label.mean((1, 2))
  z, gamma, phi = 1 - 2 * x, np.zeros_like(x), np.asarray(PARAMS, np.float64)
  for _ in range(3):
    seen = gamma * z + (1 - gamma) * x
    error = ((phi * seen).sum((1, 2, 3)) - y)[:, None, None, None]
    gradient = error * seen
    lengths = np.sqrt((gradient**2).sum((1, 2, 3), keepdims=True))
    cells = (error * phi * (z - x)).reshape(-1, 2, 2, 2, 2).sum((2, 4))
    gamma = gamma + np.kron(0.25 * (cells > 0), np.ones((2, 2)))[..., None]
    phi = phi - rate * (gradient * np.minimum(1, bound / lengths)).sum(0) / 6
  step = step_of(fused(), 3)
  state, metrics = jax.jit(step.update)(step.init(PARAMS, KEY), batch, KEY)
  np.testing.assert_allclose(state.params, phi, rtol=1e-5, atol=1e-6)
  assert set(metrics) == {"release_norm"} and int(state.step) == 1
  assert step.releases_per_sample == 3


@pytest.mark.slow
def test_chunks_and_padding_change_nothing_but_rounding():
  adversary = fused(direction="random")  # whose cells must not know the chunk
  whole = batch_of()
  padded = jax.tree.map(lambda x: np.concatenate([x, x[:2]]), whole)
  padded = padded.replace(weight=np.array([1.0] * 6 + [0.0] * 2, np.float32))
  chunks = [jax.tree.map(lambda x, i=i: x[i : i + 4], padded) for i in (0, 4)]
  found = [
    train.fit(step_of(adversary, 3, sigma=0.5), lambda t, b=b: b, PARAMS, KEY, num_steps=2,
              progress=False)
    for b in (whole, chunks)
  ]  # fmt: skip
  np.testing.assert_allclose(*(one.state.params for one in found), rtol=1e-5, atol=1e-6)


def test_an_example_moves_a_release_by_no_more_than_the_bound():
  """At rate 1 the parameters move by the release: two samples differ by one example's share."""
  batch = batch_of()
  extra = batch.replace(weight=np.array([1, 1, 1, 1, 1, 0], np.float32))
  step = step_of(fused(), 1, rate=1.0)
  update, state = jax.jit(step.update), step.init(PARAMS, KEY)
  released = [np.asarray(PARAMS - update(state, b, KEY)[0].params) for b in (batch, extra)]
  assert 0 < np.linalg.norm(released[0] - released[1]) <= 0.5 / 6 * (1 + 1e-5)


def test_an_example_is_the_same_whoever_else_is_in_the_sample():
  """With the parameters at rest, the others' presence leaves what one adds to each release."""
  batch, alone = batch_of(), batch_of()
  alone = alone.replace(weight=np.array([0, 0, 1, 0, 0, 0], np.float32))
  without = batch.replace(weight=np.array([1, 1, 0, 1, 1, 1], np.float32))
  adversary = lgs_fusion(bank(is_public=True), direction="chain", pool=2)
  step = step_of(adversary, 2, rate=0.0)
  update = jax.jit(lambda b: _last_release(step, b))
  np.testing.assert_allclose(update(batch) - update(without), update(alone), rtol=1e-4, atol=1e-6)


def _last_release(step, batch):
  """The accumulator after the last sweep, before noise."""
  state, chunked = step.init(PARAMS, KEY), step.chunked
  acc, carry = chunked.begin(state), chunked.carry(batch, KEY)
  for number, sweep in enumerate(chunked.sweeps):
    acc, carry = sweep.accumulate(state, acc, batch, carry, KEY)
    if number + 1 < len(chunked.sweeps):
      state, acc, _ = sweep.finish(state, acc, KEY)
  return acc.total


def test_a_plan_has_to_pay_for_every_release():
  with pytest.raises(InputError, match="a Step of 1 releases per sample"):
    methods.private(square, optax.sgd(0.1), plan(1), filter=private_curriculum(fused()))
  assert plan(4, sigma=1.0).epsilon() > plan(1, sigma=1.0).epsilon()


@pytest.mark.parametrize("style", ["undeclared", "bank"])
def test_other_peoples_images_are_refused_as_styles(style):
  style_fn = bank() if style == "bank" else lambda key, image: image
  with pytest.raises(InputError, match="may draw on other subjects") as error:
    step_of(lgs_fusion(style_fn), 2)
  assert "is_public=True" in str(error.value) and "\n" not in str(error.value)


def test_a_chain_is_as_private_as_its_least_private_link():
  assert chain(noise(), bias_field()).provenance == "own example"
  assert chain(noise(), style_statistics(bank(is_public=True))).provenance == "public"
  with pytest.raises(InputError, match="other subjects"):
    step_of(chain(noise(), style_statistics(bank())), 2)


def test_styles_of_the_own_subject_need_whole_people_as_units():
  own = lgs_fusion(bank(subjects=[0, 0, 1, 1]).own_subject(), pool=2)
  with pytest.raises(InputError, match="unit='group'"):
    step_of(own, 2, repeated_subjects=True)
  assert step_of(own, 2).manifest["filter_adversary_provenance"] == "own subject"


@pytest.mark.slow
def test_people_with_several_images_train_a_few_steps():
  """Groups: each member is changed on its own, by styles of its own person."""
  data = batch_of(size=12, subjects=np.repeat(np.arange(4), 3))
  own = bank(subjects=[0, 1, 2, 3]).own_subject()
  people = plan(2, sigma=0.5, unit="group", num_examples=4, expected_batch_size=2, delta=0.1)
  hardened = private_curriculum(lgs_fusion(own, pool=2), num_updates=2)
  step = methods.private(square, optax.sgd(0.01), people, filter=hardened)
  stream = people.stream(data, chunk=2)
  fitted = train.fit(step, stream, PARAMS, KEY, num_steps=3, progress=False)
  assert np.isfinite(np.asarray(fitted.state.params)).all()
  assert not np.array_equal(fitted.state.params, PARAMS)


def test_a_group_of_one_is_its_member():
  batch = batch_of()
  grouped = {
    "members": jax.tree.map(lambda x: x[:, None], batch),
    "index": batch.index,
    "weight": batch.weight,
  }
  step, group_step = (
    step_of(fused(), 3, unit=unit, num_examples=1000) for unit in ("example", "group")
  )
  found = [
    jax.jit(s.update)(s.init(PARAMS, KEY), b, KEY)[0].params
    for s, b in ((step, batch), (group_step, grouped))
  ]
  np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_an_adversary_that_moves_labels_trains_a_few_private_steps():
  data = batch_of(size=8)
  own = plan(2, sigma=0.5, num_examples=8, expected_batch_size=4, delta=0.01)

  def loss(params, example, key):
    del key
    known = example.label >= 0
    return jnp.mean(jnp.where(known, (params * example.image)[..., 0] - example.label, 0.0) ** 2)

  hardened = private_curriculum(chain(affine()), num_updates=2)
  step = methods.private(loss, optax.sgd(0.1), own, filter=hardened)
  fitted = train.fit(step, own.stream(data, chunk=4), PARAMS, KEY, num_steps=2, progress=False)
  assert np.isfinite(np.asarray(fitted.state.params)).all()
  assert int(fitted.state.step) == 2
