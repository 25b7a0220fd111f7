"""The style bank: what it draws, from whom, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.synth.style_bank import style_bank, wavelet_style
from medjax.types import Batch

KEY = jax.random.key(0)


def images(count, space=(16, 16), seed=0):
  # Means and deviations of the images grow with their number.
  random = np.random.default_rng(seed)
  return [(i + 1) * (3 + random.random((*space, 1))) for i in range(count)]


def example(image, subject):
  return Batch(image=image, label=None, domain=0, subject=jnp.int32(subject), index=0, weight=1.0)


def level(image):
  """Which of `images` a stylised image looks like: their means are about 3.5 (i + 1)."""
  return np.round(np.asarray(image).mean((-3, -2, -1)) / 3.5).astype(int) - 1


def test_a_drawn_style_is_that_of_an_image_of_the_pool():
  pool = images(3)
  bank = style_bank(pool, how=wavelet_style(2))
  content = jnp.asarray(images(1, (12, 20), seed=9)[0], jnp.float32)
  draw = jax.jit(bank.__call__)
  found = style_bank([draw(KEY, content)], how=wavelet_style(2)).statistics
  want = style_bank(pool, how=wavelet_style(2)).statistics
  assert np.abs(np.asarray(want - found)).max((1, 2)).min() < 1e-4


def test_pool_images_may_differ_in_size():
  assert len(style_bank([np.ones((8, 8, 1)), np.ones((9, 30, 1))], how=wavelet_style(1))) == 2


def test_chances_follow_the_weights():
  bank = style_bank(images(3), how=wavelet_style(1), weights=[1, 0, 3])
  drawn = np.asarray(bank.styles(KEY, 4000))
  which = np.abs(drawn[:, None] - np.asarray(bank.statistics)).max((-2, -1)).argmin(1)
  share = np.bincount(which, minlength=3) / 4000
  assert share[1] == 0
  assert abs(share[2] - 0.75) < 0.04  # standard deviation 0.007


def test_many_are_single_transfers_of_drawn_styles():
  bank = style_bank(images(4), how=wavelet_style(2))
  content = jnp.asarray(images(1, seed=9)[0], jnp.float32)
  many = jax.jit(lambda x: bank.many(KEY, x, 5))(content)
  one = jax.jit(jax.vmap(bank.how.transfer, (None, 0)))(content, bank.styles(KEY, 5))
  np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-4)


def test_own_subject_draws_only_from_the_same_person():
  bank = style_bank(images(4), how=wavelet_style(2), subjects=[7, 8, 7, 9])
  assert bank.provenance == "other subjects"
  own = bank.own_subject()
  assert own.provenance == "own subject"
  content = jnp.asarray(images(1, seed=9)[0], jnp.float32)
  keys = jax.random.split(KEY, 64)
  draw = jax.jit(jax.vmap(lambda k, s: own.of_example(k, example(content, s)), (0, None)))
  assert set(level(draw(keys, 7))) == {0, 2}
  assert set(level(draw(keys, 8))) == {1}
  np.testing.assert_array_equal(draw(keys, 5)[0], content)  # nobody: left as it is


def test_without_subjects_nobody_is_one_own():
  with pytest.raises(InputError, match="knows subjects"):
    style_bank(images(2)).own_subject()
  assert style_bank(images(2), is_public=True).provenance == "public"


@pytest.mark.parametrize(
  "pool, options, said",
  [
    ([], {}, "at least one style image"),
    ([np.ones((8, 8, 1)), np.ones((8, 8, 2))], {}, "agree in channels"),
    ([np.full((8, 8, 1), np.nan)], {}, "finite"),
    ([np.ones((8, 8, 1))], {"subjects": [1, 2]}, "one per style image"),
    ([np.ones((8, 8, 1))], {"weights": [0.0]}, "one above"),
    ([np.ones((4, 4, 1))], {}, "at least 8 voxels"),
  ],
)
def test_pools_that_do_not_fit_are_refused(pool, options, said):
  with pytest.raises(InputError, match=said):
    style_bank(pool, **options)
