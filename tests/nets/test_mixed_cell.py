"""Searched cells and unrolled networks: what a mixture is, what is derived, what is consistent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check, nets
from medjax.ops import cartesian

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)


def size_of(params):
  return sum(x.size for x in jax.tree.leaves(params))


def test_a_mixture_of_weight_one_is_the_operation_alone():
  edge = nets.MixedEdge(3, ("conv3", "dilated2", "separable5"))
  x = jnp.asarray(RANDOM.normal(size=(1, 6, 6, 3)), jnp.float32)
  params = edge.init(KEY, x, jnp.ones(3))
  run = jax.jit(edge.apply)
  each = []
  for number, name in enumerate(edge.operations):
    alone = nets.MixedEdge(3, (name,))
    own = {k: v for k, v in params["params"].items() if k.startswith(name)}
    each.append(alone.apply({"params": own}, x, jnp.ones(1)))
    np.testing.assert_allclose(run(params, x, jnp.eye(3)[number]), each[-1], atol=1e-5)
  both = run(params, x, jnp.array([0.2, 0.3, 0.5]))
  np.testing.assert_allclose(both, 0.2 * each[0] + 0.3 * each[1] + 0.5 * each[2], atol=1e-5)


def test_a_derived_network_has_the_two_largest_operations_and_fewer_numbers():
  alpha = np.zeros((3, 8))
  alpha[0, [0, 7]], alpha[1, [2, 3]], alpha[2, [4, 5]] = 1, 1, 1
  kept = nets.derived_operations(alpha)
  assert kept == (("conv3", "separable7"), ("conv7", "dilated2"), ("dilated3", "separable3"))
  image = jnp.zeros((8, 8, 2))
  shapes = [
    jax.eval_shape(nets.CellDenoiser(1, 4, own).init, KEY, image)
    for own in (kept, (nets.OPERATIONS,) * 3)
  ]
  assert size_of(shapes[0]) < size_of(shapes[1]) / 2
  assert all(len(set(edge)) == 2 for edge in nets.random_operations(1))
  with pytest.raises(check.InputError, match="keep one"):
    nets.CellDenoiser(1, 4, ((), (), ())).init(KEY, image)


def test_the_entropy_of_an_architecture_runs_from_1_to_0():
  assert float(nets.architecture_entropy(jnp.zeros((3, 8)))) == pytest.approx(1)
  assert float(nets.architecture_entropy(100.0 * jnp.eye(8)[:3])) == pytest.approx(0, abs=1e-6)


def test_an_unrolled_network_that_trusts_the_data_keeps_the_measured_frequencies():
  mask = jnp.asarray(cartesian.line_mask((8, 8), 2, RANDOM))
  image = jnp.asarray(RANDOM.normal(size=(8, 8)), jnp.complex64)
  kspace = cartesian.acquired(image, mask)
  denoiser = nets.CellDenoiser(1, 3, nets.random_operations(0))
  network = nets.Unrolled(denoiser, num_unrolls=2, start=1e-6)
  params = network.init(KEY, kspace, mask)
  found = jax.jit(network.apply)(params, kspace, mask)
  np.testing.assert_allclose(cartesian.acquired(found, mask), kspace, atol=1e-3)
  free = nets.Unrolled(denoiser, num_unrolls=2, is_consistent=False)
  apart = cartesian.acquired(jax.jit(free.apply)(params, kspace, mask), mask) - kspace
  assert float(jnp.abs(apart).max()) > 1e-2
  with pytest.raises(check.InputError, match="of one size"):
    network.init(KEY, kspace, mask[:4])
