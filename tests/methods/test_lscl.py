"""LSCL: Algorithm 1 against NumPy, what each direction does to the loss, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import data, losses, methods, nets, train
from medjax.check import InputError
from medjax.methods.lscl import RELEASED, lscl
from medjax.synth.style_bank import style_bank
from medjax.types import Batch

KEY = jax.random.key(0)
SPACE = (8, 8)


def batch_of(size=2, space=SPACE, seed=0):
  random = np.random.default_rng(seed)
  return Batch(
    image=jnp.asarray(random.normal(size=(size, *space, 1)), jnp.float32),
    label=jnp.asarray(random.integers(0, 2, (size, *space)), jnp.int32),
    domain=jnp.zeros(size, jnp.int32),
    subject=jnp.arange(size, dtype=jnp.int32),
    index=jnp.arange(size, dtype=jnp.int32),
    weight=jnp.ones(size, jnp.float32),
  )


def square(params, example, key):
  """Half the squared error of a linear model to the mean label."""
  del key
  error = jnp.sum(params * example.image) - example.label.mean()
  return 0.5 * error**2


def linear(params, example, key):
  del key
  return jnp.sum(params * example.image)


def inverted(key, image):
  del key
  return 1 - 2 * image


def run(step, params, batch):
  return jax.jit(step.update)(step.init(params, KEY), batch, KEY)


@pytest.mark.parametrize("order", ["sign_of_mean", "mean_of_sign"])
@pytest.mark.parametrize("direction", ["paper", "chain"])
def test_is_algorithm_1_as_numpy_does_it(order, direction):
  batch, rate, eps, pool = batch_of(), 1e-3, 0.25, 4
  start = np.random.default_rng(1).normal(size=(*SPACE, 1))
  x, y = np.asarray(batch.image, np.float64), np.asarray(batch.label).mean((1, 2))
  z, gamma, phi, curve = 1 - 2 * x, np.zeros_like(x), start.copy(), []
  for _ in range(4):
    fused = gamma * z + (1 - gamma) * x
    error = (phi * fused).sum((1, 2, 3)) - y
    curve.append(np.mean(0.5 * error**2))
    of_image = error[:, None, None, None] * phi
    of_phi = (error[:, None, None, None] * fused).mean(0)
    ascent = of_image * (z - x) if direction == "chain" else of_image
    cells = ascent.reshape(2, 2, pool, 2, pool)
    if order == "sign_of_mean":
      cells = np.sign(cells.mean((2, 4)))
    else:
      cells = np.sign(cells).mean((2, 4))
    gamma = gamma + np.kron(np.maximum(eps * cells, 0), np.ones((pool, pool)))[..., None]
    gamma = np.clip(gamma, 0, 1)
    phi = phi - rate * of_phi
  step = lscl(square, optax.sgd(rate), inverted, order=order, direction=direction)
  state, metrics = run(step, jnp.asarray(start, jnp.float32), batch)
  np.testing.assert_allclose(state.params, phi, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose([metrics[f"loss_{i}"] for i in range(4)], curve, rtol=1e-4)


def test_the_style_is_made_once_a_batch():
  calls = []

  def counted(key, image):
    calls.append(1)
    return image + 1

  run(lscl(square, optax.sgd(0.1), counted, num_updates=4), jnp.zeros((*SPACE, 1)), batch_of())
  assert len(calls) == 1


def test_the_chain_rule_never_lowers_a_linear_loss_and_ends_at_its_largest_fusion():
  # The parameters rest. The loss is linear in Gamma: the largest value has Gamma = 1 in exactly
  # those cells in which sum(phi * (z - x)) > 0, and four steps of 1/4 get there.
  batch = batch_of()
  phi = np.random.default_rng(1).normal(size=(*SPACE, 1)).astype(np.float32)
  step = lscl(linear, optax.sgd(0.0), inverted, direction="chain", num_updates=5)
  _, metrics = run(step, jnp.asarray(phi), batch)
  curve = [float(metrics[f"loss_{i}"]) for i in range(5)]
  assert all(np.diff(curve) > 0)
  x = np.asarray(batch.image)
  gains = (phi * (1 - 3 * x)).reshape(2, 2, 4, 2, 4).sum((2, 4))
  want = (phi * x).sum() / 2 + np.maximum(gains, 0).sum() / 2
  np.testing.assert_allclose(curve[-1], want, rtol=1e-5)


def test_the_published_direction_lowers_the_loss_where_the_style_is_darker():
  # z < x and a gradient of 1 everywhere: the rule fuses, and every step makes the sample easier.
  darker = {"style_fn": lambda key, image: image - 1}
  phi = jnp.ones((*SPACE, 1))
  for direction, rise, fused in (("paper", -0.25 * 64, 0.75), ("chain", 0, 0)):
    step = lscl(linear, optax.sgd(0.0), direction=direction, **darker)
    _, metrics = run(step, phi, batch_of())
    curve = np.array([metrics[f"loss_{i}"] for i in range(4)])
    np.testing.assert_allclose(np.diff(curve), rise, atol=1e-4)
    np.testing.assert_allclose(metrics["fusion_weight"], fused)
    np.testing.assert_allclose(metrics["wrong_way"], 1)


@pytest.mark.parametrize("options", [RELEASED, {"direction": "random"}])
def test_constant_images_and_missing_classes_give_numbers(options):
  batch = batch_of().replace(image=jnp.full((2, *SPACE, 1), 0.3), label=jnp.zeros((2, *SPACE), int))
  bank = style_bank([np.random.default_rng(0).random((*SPACE, 1)), np.full((*SPACE, 1), 0.7)])

  def loss_fn(params, example, key):
    del key
    return losses.soft_dice(params * example.image * jnp.array([[[1.0, 2.0, 3.0]]]), example.label)

  state, metrics = run(
    lscl(loss_fn, optax.sgd(0.1), bank, num_updates=2, **options), jnp.float32(1), batch
  )
  assert np.isfinite(float(state.params))
  assert all(np.isfinite(float(value)) for value in metrics.values())


def test_gamma_is_clipped_where_the_steps_would_exceed_one():
  step = lscl(linear, optax.sgd(0.0), lambda key, image: image + 1, num_updates=4, eps=0.8)
  _, metrics = run(step, jnp.ones((*SPACE, 1)), batch_of())
  np.testing.assert_allclose(metrics["fusion_weight"], 1.0)


def test_images_smaller_than_a_cell_are_refused_in_one_line():
  step = lscl(square, optax.sgd(0.1), inverted, pool=16)
  with pytest.raises(InputError, match="at least one cell of 16x16") as error:
    run(step, jnp.zeros((*SPACE, 1)), batch_of())
  assert "\n" not in str(error.value)


def test_volumes_work_as_slices_do():
  space = (3, 6, 5)
  step = lscl(square, optax.sgd(0.1), inverted, pool=(1, 4, 4))
  _, metrics = run(step, jnp.ones((*space, 1)), batch_of(space=space))
  assert 0 < float(metrics["fusion_weight"]) < 1


def test_the_manifest_says_whose_styles_and_which_rules():
  manifest = lscl(square, optax.sgd(0.1), style_bank([np.eye(8)[..., None]]), **RELEASED).manifest
  assert manifest["adversary_provenance"] == "other subjects"
  assert manifest["adversary_order"] == "mean_of_sign"
  assert manifest["num_updates"] == 4


def flops(num_updates, *, is_compiled):
  """Of a batch: U-Net of width 8 with three downs, GroupNorm, 128 x 128, batch 8; nothing runs.

  `num_updates` 0 is a step of supervised training.
  """
  model = nets.from_linen(nets.UNet(num_outputs=4, widths=(8, 16, 32, 64), norm="group"))
  batch = jax.eval_shape(lambda: batch_of(size=8, space=(128, 128)))
  params = jax.eval_shape(model.init, KEY, batch_of(1, (128, 128)).image[0])[0]
  bank = style_bank([np.random.default_rng(0).random((16, 16, 1))])
  loss = losses.weighted_sum((0.6, losses.cross_entropy), (0.4, losses.soft_dice))

  def loss_fn(params, example, key):
    del key
    return loss(model.apply(params, example.image)[0], example.label)

  tx = optax.sgd(1e-5, momentum=0.9)
  plain = methods.supervised(loss_fn, tx)
  step = lscl(loss_fn, tx, bank, num_updates=num_updates) if num_updates else plain
  state = jax.eval_shape(step.init, params, KEY)
  lowered = jax.jit(step.update).lower(state, batch, KEY)
  return (lowered.compile() if is_compiled else lowered).cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.parametrize(
  "is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["traced", "compiled"]
)
def test_flops_of_an_inner_update_and_of_a_whole_batch(is_compiled):
  plain, one, two = (flops(n, is_compiled=is_compiled) for n in (0, 1, 2))
  assert two - one <= 1.01 * plain
  # Unrolled, every further update is alike: four of them, the stylised images included.
  assert one + 3 * (two - one) <= 1.10 * 4 * plain


def test_a_curriculum_on_two_sites_in_turn():
  """Slots go over from the source to the target, as in MMTL; styles are the source's alone."""

  def slices(site):
    whole = batch_of(size=6, seed=site)
    domain, index = np.full(6, site, np.int32), np.arange(6, dtype=np.int32) + 6 * site
    return jax.tree.map(np.asarray, whole.replace(domain=domain, index=index))

  pools = [slices(site) for site in (0, 1)]
  source, target = (data.batches(pools[i], 4, 0, name=f"site {i}") for i in (0, 1))
  stream = data.mix(source, target, data.mmtl_paper(4, num_epochs=3, steps_per_epoch=1))
  assert [int((stream(t).domain == 1).sum()) for t in range(3)] == [0, 1, 2]
  bank = style_bank(list(pools[0].image), subjects=pools[0].subject)
  step = lscl(square, optax.sgd(1e-3), bank, direction="chain", num_updates=2)
  start = jnp.ones((*SPACE, 1))
  fitted = train.fit(step, stream, start, KEY, num_steps=3, log_every=1, progress=False)
  assert int(fitted.state.step) == 3 and not np.array_equal(fitted.state.params, start)
  assert all(np.isfinite(row["loss"]) for row in fitted.history)
