"""The noise's law: tails, moments, no gaps, one grid whatever was summed, one draw a key."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import special, stats

from medjax import methods, train
from medjax.privacy import DPPlan, Vault, noise

KEY = jax.random.key(2)
PLAN = dict(
  num_examples=1000, expected_batch_size=8, num_steps=5, delta=1e-5, max_norm=1.0, unit="example"
)
of_bits = jax.jit(noise.of_bits)


def words(*values):
  return [np.asarray(v, np.uint32) for v in values]


def upper(a, b, c):
  """u of three words, in float64."""
  a, b, c = (np.asarray(x, np.float64) for x in (a, b, np.asarray(c) // 512 * 512 + 256))
  return a * 2.0**-32 + b * 2.0**-64 + c * 2.0**-96


@pytest.mark.parametrize("zeros", [0, 1, 7, 20, 31, 40, 60, 80])
def test_the_values_are_normal_quantiles_down_to_the_last_of_87_bits(zeros):
  draw = np.random.default_rng(zeros)
  bits = [draw.integers(0, 2**32, 2000) for _ in range(4)]
  for i in range(3):  # leading zeros
    bits[i] = bits[i] >> np.clip(zeros - 32 * i, 0, 32)
  z, _ = of_bits(*words(*bits))
  np.testing.assert_allclose(np.abs(z), -special.ndtri(upper(*bits[:3]) / 2), rtol=6e-7, atol=1e-9)
  assert set(np.sign(z)) == {-1, 1}


def test_the_largest_value_is_where_the_law_is_cut():
  z, _ = of_bits(*words(0, 0, 0, [0, 2**31]))
  np.testing.assert_allclose(z, [-noise.LARGEST, noise.LARGEST], rtol=1e-6)
  assert stats.norm.sf(noise.LARGEST) * 2 == pytest.approx(noise.CUT) and noise.LARGEST > 10.8
  z, _ = of_bits(*words(2**32 - 1, 2**32 - 1, 2**32 - 1, 0))
  assert z == 0


@pytest.mark.parametrize("start", [2**31, 2**30, 2**27, 2**20, 2**10, 3])
def test_the_gaps_between_values_are_much_smaller_than_what_is_spread_over_them(start):
  # Numbers u that follow each other in float32, as words.
  u = start + np.spacing(np.float32(start)).astype(float) * np.arange(2**13)
  a = np.floor(u)
  z, _ = of_bits(*words(a, (u - a) * 2.0**32, 0, 0))
  gaps = np.diff(np.unique(z)) * 2.0**27  # in grids
  assert len(gaps) > 2 and gaps.max() < 2**20 / 256


def test_the_dither_is_the_sum_of_two_uniform_numbers_with_bits_of_their_own():
  c, d = np.arange(2**9), np.arange(2**11) << 20
  lowest = [of_bits(*words(1, 1, 0, x))[1] for x in (0, 2**20 - 1)]
  assert [int(x) + 2**20 for x in lowest] == [0, 2**20 - 1]
  second = of_bits(*words(1, 1, *np.broadcast_arrays(c[:, None], d)))[1]
  np.testing.assert_array_equal(np.sort(second, axis=None) + 2**20, np.arange(2**20))
  z = of_bits(*words(1, 1, c, 0))[0]
  assert len(np.unique(z)) == 1  # none of them is a bit of u


def test_moments_and_distribution():
  total = jnp.full(400_000, 3.0)
  x = noise.added(KEY, total, multiplier=0.7, sensitivity=2.0, magnitude=100.0) - total
  z = np.asarray(x, np.float64) / 1.4
  assert abs(z.mean()) < 4.5 / np.sqrt(z.size)
  assert abs(z.var() - 1) < 4.5 * np.sqrt(2 / z.size) + 2e-3  # the dither adds 2^-14
  assert abs((z**4).mean() - 3) < 4.5 * np.sqrt(96 / z.size)
  assert stats.kstest(z, "norm").pvalue > 1e-4


def test_what_is_added_to_moves_the_release_by_a_whole_number_of_grids_and_nothing_else():
  # Mironov's attack on float32 sums: near 0 a sum with the person has fewer digits than one
  # without. Here both worlds have the same values, key by key a constant apart.
  keys = jax.random.split(KEY, 4000)

  @jax.jit
  def release(x):
    return jax.vmap(lambda k: noise.added(k, x, multiplier=4.0, sensitivity=1.0, magnitude=8.0))(
      keys
    )

  grid = 2.0 ** (3 - 27)
  without, person = (np.asarray(release(jnp.array(x)), np.float64) for x in (0.0, 1.0))
  for found in (without, person):
    assert (found % grid == 0).all()
    near = found[np.abs(found) < 0.5] / grid  # float32 holds these exactly
    assert len(near) > 200
    odd = (near % 2 == 1).mean()
    assert abs(odd - 0.5) < 4.5 * 0.5 / np.sqrt(len(near))
  exact = np.abs(without) < 0.25
  np.testing.assert_array_equal((person - without)[exact & (np.abs(person) < 0.5)], 1.0)


def test_sums_of_any_size_come_through_and_what_is_no_number_betrays_nothing():
  total = {"a": jnp.array([1e5, -1e5, 1e-9]), "b": jnp.array([jnp.nan, 0.0])}
  got = noise.added(KEY, total, multiplier=1e-9, sensitivity=1.0, magnitude=1e6)
  spread = 2.0 ** (20 - 50 + 20)  # of the dither, on the grid that holds sums up to 2^20
  np.testing.assert_allclose(got["a"], total["a"], rtol=1e-6, atol=spread)
  np.testing.assert_allclose(got["b"], 0.0, atol=spread)


def test_two_devices_draw_the_bits_of_one():
  draw = jax.jit(lambda x: noise.added(KEY, x, multiplier=1.0, sensitivity=1.0, magnitude=8.0))
  x = jnp.linspace(-1, 1, 64).reshape(16, 4)
  mesh = train.data_mesh(jax.devices()[:2])
  for spec in (PartitionSpec(), PartitionSpec(mesh.axis_names[0])):
    split = jax.device_put(x, NamedSharding(mesh, spec))
    np.testing.assert_array_equal(draw(x), draw(split))


def test_entries_leaves_and_keys_have_numbers_of_their_own():
  tree = {"a": jnp.zeros((7, 3)), "b": jnp.zeros((3, 7)), "c": jnp.zeros(())}
  drawn = [noise.normal_like(key, tree) for key in (KEY, jax.random.key(3))]
  flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(drawn)])
  assert len(np.unique(flat)) == flat.size == 86


@pytest.mark.parametrize("tx", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)], ids=["sgd", "adam"])
def test_parameters_in_bfloat16_get_noise_in_float32(tx):
  def loss(params, example, key):
    return (params["w"].astype(jnp.float32) * example["x"]).sum()

  plan = DPPlan(**PLAN, noise_multiplier=0.5, vault=Vault.from_seed(0))
  step = methods.private(loss, tx, plan)
  params = {"w": jnp.zeros(3, jnp.bfloat16)}
  chunk = {"x": np.eye(4, 3, dtype=np.float32), "index": np.arange(4), "weight": np.ones(4)}
  fitted = train.fit(step, lambda t: chunk, params, KEY, num_steps=2, progress=False)
  assert fitted.state.params["w"].dtype == jnp.bfloat16
  sweep, state = step.chunked.sweeps[0], step.init(params, KEY)
  acc = step.chunked.begin(state)
  assert acc["w"].dtype == jnp.float32
  _, released, _ = sweep.finish(state, acc, KEY)
  assert released["w"].dtype == jnp.float32
  assert (released["w"] != released["w"].astype(jnp.bfloat16)).any()


def test_a_weight_that_is_no_number_lets_nobody_through():
  step = methods.private(
    lambda p, e, k: (p * e["x"]).sum(),
    optax.sgd(1.0),
    DPPlan(**PLAN, noise_multiplier=0.0, vault=Vault.from_seed(0)),
  )
  state = step.init(jnp.zeros(2), KEY)
  chunk = {"x": jnp.eye(2), "index": jnp.arange(2)}
  found = [
    jax.jit(step.update)(state, {**chunk, "weight": jnp.array([1.0, w])}, KEY)[0].params
    for w in (0.0, np.nan)
  ]
  np.testing.assert_array_equal(*found)
