"""Adversaries: what all of them promise, and what each does in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.check import InputError
from medjax.methods import adversaries
from medjax.methods.adversaries import chain
from medjax.ops import fields, warp
from medjax.synth.style_bank import style_bank, wavelet_style
from medjax.types import IGNORE, Batch

KEY = jax.random.key(0)
SPACE = (8, 12)
RANDOM = np.random.default_rng(0)
IMAGE = jnp.asarray(RANDOM.normal(size=(*SPACE, 2)), jnp.float32)
GRADIENT = jnp.asarray(RANDOM.normal(size=IMAGE.shape), jnp.float32)
STYLES = tuple(RANDOM.gamma(2.0, size=(*SPACE, 2)) for _ in range(3))
EXAMPLE = Batch(
  image=IMAGE,
  label=jnp.asarray(RANDOM.integers(0, 2, SPACE), jnp.int32),
  domain=jnp.int32(0),
  subject=jnp.int32(0),
  index=jnp.int32(0),
  weight=jnp.float32(1),
)


@functools.cache
def bank():
  return style_bank(STYLES, how=wavelet_style(2))


KINDS = {
  "fgsm": lambda: adversaries.fgsm(eps=0.1),
  "pgd": lambda: adversaries.pgd(eps=0.1),
  "free": lambda: adversaries.free(eps=0.1),
  "bias field": lambda: chain(adversaries.bias_field()),
  "chain": lambda: chain(
    adversaries.noise(),
    adversaries.bias_field(),
    adversaries.morph(squarings=1),
    adversaries.affine(),
    start=0.5,
  ),
  "style": lambda: chain(adversaries.style_statistics(bank())),
  "lgs": lambda: adversaries.lgs_fusion(bank(), direction="chain"),
  "scl": lambda: adversaries.scl_fusion(bank(), direction="chain"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_adversary_climbs_and_stays_in_its_set(kind):
  adversary = KINDS[kind]()

  @jax.jit
  def begin(gradient):
    a = adversary.parameters(KEY, EXAMPLE)
    image, pull_back = jax.vjp(lambda a: adversary.render(a, EXAMPLE), a)
    return a, image, pull_back(gradient)[0]

  project = jax.jit(lambda a, gradient: adversary.project(a, gradient, EXAMPLE, KEY))
  a, image, slope = begin(GRADIENT)
  after, scaled, still = (project(a, c * GRADIENT) for c in (1, 2.0**-40, 0))
  far = after
  for _ in range(5):
    far = project(far, GRADIENT)
  a, image, slope, after, far = jax.tree.map(np.asarray, (a, image, slope, after, far))
  assert image.shape == IMAGE.shape and np.isfinite(image).all()
  # Signs: every term of <slope, step> is 0 or more. The weight of a fusion is constant on cells,
  # so there the sum over a cell is, up to rounding.
  rises = jax.tree.map(lambda s, x, y: float((s * (y - x)).sum()), slope, a, after)
  assert all(rise >= 0 for rise in jax.tree.leaves(rises))
  assert sum(jax.tree.leaves(rises)) > 0
  jax.tree.map(np.testing.assert_array_equal, after, scaled)
  if kind != "scl":  # whose published rule steps at 0
    jax.tree.map(np.testing.assert_array_equal, a, still)
  low = 0 if kind in ("lgs", "scl") else -1
  searched = [x.weight if hasattr(x, "weight") else x for x in (a, after, far)]
  for leaf in jax.tree.leaves(searched):
    assert low <= leaf.min() and leaf.max() <= 1


@pytest.mark.parametrize("kind", ["fgsm", "pgd", "free"])
def test_perturbations_reach_the_corner_that_a_linear_loss_points_to(kind):
  adversary = KINDS[kind]()

  @jax.jit
  def last():
    a = adversary.parameters(KEY, EXAMPLE)
    for _ in range(8):  # steps of a quarter cross the whole range
      a = adversary.project(a, GRADIENT, EXAMPLE, KEY)
    return adversary.render(a, EXAMPLE)

  np.testing.assert_allclose(last(), IMAGE + 0.1 * jnp.sign(GRADIENT), atol=1e-6)


def test_fgsm_forgets_what_it_did_before():
  adversary = adversaries.fgsm(eps=0.1)
  there = adversary.project({"noise": jnp.zeros_like(IMAGE)}, GRADIENT, EXAMPLE, KEY)
  back = adversary.project(there, -GRADIENT, EXAMPLE, KEY)
  np.testing.assert_array_equal(back["noise"], -jnp.sign(GRADIENT))


def test_pgd_starts_anywhere_and_the_others_at_the_image():
  starts = {kind: KINDS[kind]().parameters(KEY, EXAMPLE)["noise"] for kind in ("pgd", "free")}
  assert np.asarray(starts["pgd"]).std() > 0.5  # of the uniform distribution: 0.577
  assert not starts["free"].any()


def test_a_bias_field_of_equal_nodes_is_one_factor():
  field = adversaries.bias_field(strength=0.5, nodes=3)
  biased = jax.jit(field.apply)(jnp.full((3, 3, 1), -1.0), IMAGE)
  np.testing.assert_allclose(biased, np.exp(-0.5) * IMAGE, rtol=1e-5)


def test_a_bias_field_stays_between_its_bounds():
  field = adversaries.bias_field(strength=0.5, nodes=3)
  nodes = jnp.asarray(RANDOM.uniform(-1, 1, (3, 3, 1)), jnp.float32)
  factor = np.asarray(jax.jit(field.apply)(nodes, jnp.ones((*SPACE, 1))))
  assert np.exp(-0.5) <= factor.min() < 1 < factor.max() <= np.exp(0.5)


def test_a_morph_moves_by_no_more_than_its_bound_and_does_not_fold():
  voxels, space = 1.5, (16, 16)
  morph = adversaries.morph(voxels=voxels, nodes=4)
  nodes = jnp.asarray(RANDOM.choice([-1.0, 1.0], (4, 4, 2)), jnp.float32)
  grid = warp.identity_coordinates(space)
  # The image holds its own coordinates, so what it shows is where it was read.
  moved = (jax.jit(morph.apply)(nodes, grid) - grid)[2:-2, 2:-2]  # further out is the border
  assert 0.3 < np.abs(np.asarray(moved)).max() <= voxels
  assert np.asarray(fields.jacobian_determinant(moved)).min() > 0


def test_a_quarter_turn_is_rot90_of_image_and_label():
  affine = adversaries.affine(90.0, scaling=0.0, translation_fraction=0.0)
  p = jnp.array([1.0, 0, 0, 0, 0])
  image, label = IMAGE[:8, :8], EXAMPLE.label[:8, :8]
  np.testing.assert_allclose(jax.jit(affine.apply)(p, image), np.rot90(image), atol=1e-5)
  np.testing.assert_array_equal(jax.jit(affine.relabel)(p, label), np.rot90(label))


def test_labels_move_as_an_image_of_them_would_and_nothing_enters():
  adversary = chain(adversaries.affine(), adversaries.noise(), start=1.0)
  a = jax.jit(adversary.parameters)(KEY, EXAMPLE)
  label = np.asarray(jax.jit(adversary.relabel)(a, EXAMPLE))
  inside = label != IGNORE
  assert inside.any() and not inside.all()
  picture = EXAMPLE.replace(image=EXAMPLE.label[..., None].astype(jnp.float32))
  shown = jax.jit(adversaries.affine().apply)(a["affine"], picture.image)[..., 0]
  near = np.abs(np.asarray(shown) - 0.5) < 1e-4  # where rounding decides
  np.testing.assert_array_equal(label[inside & ~near], np.round(shown)[inside & ~near])


def test_the_style_search_is_affine_between_the_quantiles_of_the_bank():
  component = adversaries.style_statistics(bank(), quantiles=(0.0, 1.0))
  apply, statistics = jax.jit(component.apply), jax.jit(bank().how.statistics)
  found = np.asarray(bank().statistics)
  for p, extreme in ((-1.0, found.min(0)), (1.0, found.max(0))):
    styled = apply(jnp.full(extreme.shape, p), IMAGE)
    np.testing.assert_allclose(statistics(styled), extreme, atol=2e-5)
  p, q = (jnp.asarray(RANDOM.uniform(-1, 1, found[0].shape), jnp.float32) for _ in range(2))
  middle = apply((p + q) / 2, IMAGE)
  np.testing.assert_allclose(middle, (apply(p, IMAGE) + apply(q, IMAGE)) / 2, atol=1e-5)


def test_a_style_of_the_bank_is_where_the_search_starts():
  own = jnp.asarray(STYLES[0], jnp.float32)
  component = adversaries.style_statistics(bank(), quantiles=(0.0, 1.0))
  start = jax.jit(lambda x: component.apply(component.identity(x), x))
  np.testing.assert_allclose(start(own), own, atol=1e-5)


def test_components_apply_in_order_and_need_different_names():
  adversary = chain(adversaries.noise(0.5), adversaries.bias_field(1.0, nodes=2))
  a = {"noise": jnp.ones_like(IMAGE), "bias_field": jnp.ones((2, 2, 1))}
  np.testing.assert_allclose(adversary.render(a, EXAMPLE), (IMAGE + 0.5) * np.e, rtol=1e-5)
  with pytest.raises(InputError, match="different names"):
    chain(adversaries.noise(), adversaries.noise())
  with pytest.raises(InputError, match="step"):
    adversaries.pgd(eps=0.1, step=0.3)


def test_a_fusion_is_between_image_and_style():
  adversary = adversaries.lgs_fusion(lambda key, image: image + 1, pool=2, eps=0.5)
  a = adversary.parameters(KEY, EXAMPLE)
  np.testing.assert_array_equal(adversary.render(a, EXAMPLE), IMAGE)  # Gamma_0 = 0
  half = adversary.project(a, jnp.ones_like(IMAGE), EXAMPLE, KEY)
  np.testing.assert_allclose(adversary.render(half, EXAMPLE), IMAGE + 0.5, atol=1e-6)
  np.testing.assert_array_equal(adversary.project(half, -(GRADIENT**2), EXAMPLE, KEY).weight, 0.5)


def test_the_published_direction_ignores_where_the_style_lies_and_the_chain_rule_does_not():
  darker = {"style_fn": lambda key, image: image - 1, "pool": 1}
  paper, sound = (adversaries.lgs_fusion(direction=d, **darker) for d in ("paper", "chain"))
  a = paper.parameters(KEY, EXAMPLE)
  rising = jnp.sum(GRADIENT, -1, keepdims=True) > 0
  np.testing.assert_array_equal(paper.project(a, GRADIENT, EXAMPLE, KEY).weight, 0.25 * rising)
  np.testing.assert_array_equal(sound.project(a, GRADIENT, EXAMPLE, KEY).weight, 0.25 * ~rising)
  assert paper.describe(a, GRADIENT, EXAMPLE)["wrong_way"] == 1


def test_random_cells_ignore_the_gradient():
  adversary = adversaries.lgs_fusion(lambda key, image: image, direction="random", pool=2)
  a = adversary.parameters(KEY, EXAMPLE)
  once, other = (adversary.project(a, g, EXAMPLE, KEY).weight for g in (GRADIENT, -GRADIENT))
  np.testing.assert_array_equal(once, other)
  assert set(np.unique(once)) == {0, 0.25}


def test_a_style_that_changes_the_shape_is_refused():
  adversary = adversaries.lgs_fusion(lambda key, image: image[:4])
  with pytest.raises(InputError, match="one shape"):
    adversary.parameters(KEY, EXAMPLE)
