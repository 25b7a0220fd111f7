"""The forward model against its definition, data consistency against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check
from medjax.ops import cartesian
from medjax.synth.coils import Coil

SHAPE = (6, 5)
RANDOM = np.random.default_rng(0)


def complex_normal(*shape):
  return RANDOM.normal(size=shape) + 1j * RANDOM.normal(size=shape)


def dense(mask, sensitivities):
  """A as a matrix, built from the definition of the Fourier transform and not by an FFT."""
  height, width = mask.shape
  rows = np.exp(-2j * np.pi * np.outer(np.arange(height), np.arange(height)) / height)
  columns = np.exp(-2j * np.pi * np.outer(np.arange(width), np.arange(width)) / width)
  fourier = np.kron(rows, columns) / np.sqrt(height * width)
  return np.concatenate(
    [np.diag(mask.ravel()) @ fourier @ np.diag(s.ravel()) for s in sensitivities]
  )


@pytest.fixture(scope="module")
def case():
  mask = cartesian.line_mask(SHAPE, 2, RANDOM, centre_fraction=0.2).astype(np.float64)
  return mask, complex_normal(3, *SHAPE), complex_normal(*SHAPE)


def test_the_forward_model_is_its_matrix_and_the_adjoint_its_conjugate_transpose(case):
  mask, coils, image = case
  with jax.enable_x64(True):
    arrays = [jnp.asarray(x) for x in (image, mask, coils)]
    found = cartesian.acquired(*arrays)
    matrix = dense(mask, coils)
    np.testing.assert_allclose(np.asarray(found).ravel(), matrix @ image.ravel(), atol=1e-12)
    kspace = complex_normal(3, *SHAPE)
    back = cartesian.adjoint(jnp.asarray(kspace), *arrays[1:])
    np.testing.assert_allclose(
      np.asarray(back).ravel(), matrix.conj().T @ kspace.ravel(), atol=1e-12
    )
    # <A x, k> = <x, A^H k>
    np.testing.assert_allclose(np.vdot(found, kspace), np.vdot(image, back), atol=1e-10)


@pytest.mark.parametrize("num_coils", [1, 3])
def test_data_consistency_solves_the_normal_equations(case, num_coils):
  mask, coils, image = case
  coils = coils[:num_coils]
  own = np.ones_like(coils) if num_coils == 1 else coils
  matrix, weight = dense(mask, own), 0.3
  kspace, prior = (matrix @ image.ravel()).reshape(num_coils, *SHAPE), complex_normal(*SHAPE)
  left = matrix.conj().T @ matrix + weight * np.eye(image.size)
  right = matrix.conj().T @ kspace.ravel() + weight * prior.ravel()
  want = np.linalg.solve(left, right).reshape(SHAPE)
  with jax.enable_x64(True):
    given = None if num_coils == 1 else jnp.asarray(coils)
    arrays = [jnp.asarray(x) for x in (prior, kspace, mask)]

    @jax.jit
    def distance(weight, prior):
      found = cartesian.consistent(prior, *arrays[1:], weight, given, iterations=60)
      return (jnp.abs(found - jnp.asarray(image)) ** 2).sum(), found

    (_, found), slope = jax.jit(jax.value_and_grad(distance, has_aux=True))(weight, arrays[0])
    np.testing.assert_allclose(found, want, atol=1e-9)
    ends = [distance(weight + step, arrays[0])[0] for step in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


def test_few_iterations_give_a_gradient_that_is_linear_in_what_is_asked(case):
  """Two iterations are far from the solution; the derivative must not begin where they did."""
  mask, coils, image = (jnp.asarray(x) for x in case)
  kspace, prior = cartesian.acquired(image, mask, coils), jnp.asarray(complex_normal(*SHAPE))

  def solve(prior):
    return cartesian.consistent(prior, kspace, mask, 0.3, coils, iterations=2)

  _, pull = jax.vjp(solve, prior)
  assert not jnp.any(pull(jnp.zeros_like(prior))[0])
  asked = jnp.asarray(complex_normal(*SHAPE), prior.dtype)
  one, small = pull(asked)[0], pull(1e-3 * asked)[0]
  np.testing.assert_allclose(small, 1e-3 * one, rtol=1e-4, atol=1e-7)


def test_measured_frequencies_stay_where_the_network_is_not_believed(case):
  mask, _, image = case
  arrays = [jnp.asarray(x) for x in (mask.astype(np.float32), image.astype(np.complex64))]
  kspace = cartesian.acquired(arrays[1], arrays[0])
  prior = jnp.asarray(complex_normal(*SHAPE).astype(np.complex64))
  found = cartesian.consistent(prior, kspace, arrays[0], 1e-6)
  np.testing.assert_allclose(cartesian.acquired(found, arrays[0]), kspace, atol=1e-4)
  unseen = cartesian.acquired(found - prior, 1 - arrays[0])
  np.testing.assert_allclose(unseen, 0, atol=1e-5)  # the rest is the network's
  with pytest.raises(check.InputError, match="pass sensitivities"):
    cartesian.consistent(prior, jnp.concatenate([kspace] * 2), arrays[0], 0.1)


def test_masks_hold_their_middle_and_as_many_lines_as_asked():
  for axis, shape in ((0, (16, 8)), (1, (8, 16))):
    mask = cartesian.line_mask(shape, 4, RANDOM, centre_fraction=0.2, axis=axis)
    lines = np.moveaxis(mask, axis, 0)
    assert lines[:, 0].sum() == 4 and (lines == lines[:, :1]).all()
    assert lines[[0, 1, -1], 0].all()  # round(.2 x 16) = 3 lines round frequency 0
  with pytest.raises(check.InputError, match="at least one sampled line"):
    cartesian.line_mask((8, 8), 100, RANDOM)
  with pytest.raises(check.InputError, match="a mask with a sampled line"):
    cartesian.checked_mask(np.zeros(SHAPE), SHAPE)
  with pytest.raises(check.InputError, match="mask of 0 and 1"):
    cartesian.checked_mask(np.full(SHAPE, 0.5), SHAPE)


def test_the_sensitivities_of_a_coil_add_up_to_one_and_have_its_profile():
  coil = Coil(num_elements=4, jitter=0.0)
  drawn = coil.draw(jax.random.key(0), (*SHAPE, 1))
  each = coil.sensitivities(drawn, SHAPE)
  assert each.shape == (4, *SHAPE) and jnp.iscomplexobj(each)
  np.testing.assert_allclose((jnp.abs(each) ** 2).sum(0), 1, atol=1e-5)
  # A quarter turn of the ring is the next element: the pixels turn with it.
  square = coil.sensitivities(drawn, (5, 5))
  np.testing.assert_allclose(jnp.abs(square[1]), jnp.rot90(jnp.abs(square[0])), atol=1e-5)
