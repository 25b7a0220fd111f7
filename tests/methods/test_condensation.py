"""Distilled pictures: gradients against closed forms and other derivations, privacy, bad input."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import check, data, federated, nets, ops, privacy, train
from medjax.data import augmentation
from medjax.methods import condensation
from medjax.privacy import audit
from medjax.transforms import Fixed, one_of
from medjax.types import Batch

RANDOM = np.random.default_rng(0)
SHAPE = (4, 4, 2)
KEY = jax.random.key(0)


def store(size=12, classes=2):
  labels = np.arange(size) % classes
  count = np.arange(size, dtype=np.int32)
  image = RANDOM.normal(size=(size, *SHAPE)).astype(np.float32)
  return Batch(image, labels.astype(np.int32), count, count, count, np.ones(size, np.float32))


def pixels(network, image, change=lambda x: x):
  del network
  return change(image).ravel()


def by_class(size=3, **options):
  return data.class_batches(store(), size, 0, **{"num_classes": 2, **options})(0)


def pictures(count=2):
  return jnp.asarray(RANDOM.normal(size=(2, count, *SHAPE)), jnp.float32)


# --- blocks


def test_uncertain_statistics_are_those_of_the_equations():
  images = RANDOM.normal(size=(5, *SHAPE)).astype(np.float32)
  noise = RANDOM.normal(size=(5, 2, 2)).astype(np.float32)

  @functools.partial(jax.jit, static_argnums=2)
  def run(x, e, roles):
    one = lambda x, e: ops.uncertain_statistics(x, e, "b", roles)  # noqa: E731
    return jax.vmap(one, axis_name="b")(x, e)

  mean, std = images.mean((1, 2)), images.std((1, 2))
  new_mean = mean + noise[:, 0] * mean.std(0)  # Eqs. 1 and 2: the deviation over the batch
  new_std = std + noise[:, 1] * std.std(0)
  found = np.asarray(run(images, noise, "corrected"))
  np.testing.assert_allclose(found.mean((1, 2)), new_mean, atol=1e-5)
  np.testing.assert_allclose(found.std((1, 2)), np.abs(new_std), atol=1e-5)
  printed = np.asarray(run(images, noise, "printed"))
  np.testing.assert_allclose(printed.mean((1, 2)), new_std, atol=1e-5)
  np.testing.assert_allclose(printed.std((1, 2)), np.abs(new_mean), atol=1e-5)
  np.testing.assert_allclose(run(images, 0 * noise, "corrected"), images, atol=1e-5)


def test_siamese_operations_have_their_closed_forms():
  image = np.asarray(RANDOM.normal(size=(8, 6, 2)), np.float32)
  own = jnp.asarray(image)
  moved = augmentation.Translated(0.25).apply(jnp.array([-2, 1]), own)
  np.testing.assert_array_equal(moved[:6, 1:], image[2:, :-1])
  assert not moved[6:].any() and not moved[:, :1].any()
  cut = augmentation.Cutout(0.5).apply(jnp.array([4, 3]), own)
  want = image.copy()
  want[2:6, 2:5] = 0  # 4 of 8 rows from 4 - 2, 3 of 6 columns from 3 - 1
  np.testing.assert_array_equal(cut, want)
  still = augmentation.Spatial(0.0, 0.0, scaling_probability=0.0, mirror_probability=0.0)
  same = augmentation.Moved(still)
  found = jax.jit(lambda x: same.apply(same.draw(KEY, x.shape), x))(own)
  np.testing.assert_allclose(found, image, atol=1e-6)


def test_an_instance_norm_takes_gain_and_offset_of_the_picture_away_but_at_the_borders():
  network = nets.InstanceConvNet(0, width=3, depth=1)
  image = jnp.asarray(RANDOM.normal(size=(12, 12, 1)), jnp.float32)
  params = network.init(KEY, image)
  inner = lambda x: network.apply(params, x).reshape(6, 6, 3)[1:-1, 1:-1]  # noqa: E731
  np.testing.assert_allclose(inner(3 * image), inner(image), atol=1e-3)
  with pytest.raises(check.InputError, match="lower depth"):
    nets.InstanceConvNet(2, width=2, depth=5).init(KEY, image)


# --- matching


def test_the_gradient_of_matching_pixels_is_the_distance_of_the_means():
  batch, images = by_class(), pictures()
  match = jax.jit(condensation.distribution_matching(pixels))
  loss, grad = match(images, batch, {}, KEY)
  apart = np.asarray(images.mean(1)) - batch.image.mean(1)
  np.testing.assert_allclose(loss, (apart**2).sum(), rtol=1e-5)
  want = 2 / images.shape[1] * apart[:, None]  # of each of the k pictures of a class
  np.testing.assert_allclose(grad, np.broadcast_to(want, grad.shape), atol=1e-5)


@pytest.mark.parametrize(("rate", "falls"), [(0.45, True), (0.55, False)])
def test_the_rate_at_which_gdd_diverges_is_half_the_number_of_pictures(rate, falls):
  shift = condensation.Uncertain(probability=0.0)  # both terms, nothing shifted
  match = condensation.distribution_matching(pixels, shift=shift)
  step = condensation.condensed(match, lambda key: {}, optax.sgd(rate), limit=20.0)
  batch, images = by_class(), pictures(1)
  state = step.init(images, KEY)
  update = jax.jit(step.update)
  for number in range(40):
    state, metrics = update(state, batch, jax.random.fold_in(KEY, number))
  apart = np.abs(np.asarray(state.params[:, 0]) - batch.image.mean(1)).max()
  first = np.abs(np.asarray(images[:, 0]) - batch.image.mean(1)).max()
  np.testing.assert_allclose(apart, first * abs(1 - 4 * rate) ** 40, rtol=0.05, atol=1e-5)
  assert bool(metrics["diverged"]) != falls and "learning rate" in step.hints["diverged"]


@pytest.mark.parametrize("where", ["pixels", "features"])
def test_the_shifted_term_is_that_of_the_shifted_pictures(where):
  batch, images = by_class(), pictures()
  one = functools.partial(condensation.Uncertain, where=where, probability=1.0)
  text = condensation.distribution_matching(pixels, shift=one(keeps_plain=False))
  both = condensation.distribution_matching(pixels, shift=one())
  plain = condensation.distribution_matching(pixels)

  @jax.jit
  def losses_of(images):
    return [match(images, batch, {}, KEY)[0] for match in (both, text, plain)]

  together, shifted, alone = losses_of(images)
  np.testing.assert_allclose(together, shifted + alone, rtol=1e-5)
  assert abs(float(shifted - alone)) > 1e-3  # statistics did move


def test_both_sets_undergo_the_same_change_and_classes_others():
  drawn = one_of(negate=Fixed(lambda x: -x), same=Fixed(lambda x: x))
  batch = by_class()
  images = jnp.asarray(batch.image)  # distilled pictures that are the real ones
  match = jax.jit(condensation.distribution_matching(pixels, change=drawn))
  for number in range(6):
    loss, _ = match(images, batch, {}, jax.random.fold_in(KEY, number))
    assert float(loss) < 1e-10


class Smooth(nn.Module):
  @nn.compact
  def __call__(self, image):
    x = nn.softplus(nn.Conv(3, (3, 3))(image[None]))
    return nn.Dense(2)(x.reshape(-1))


def test_the_gradient_of_gradient_matching_is_the_second_derivative():
  with jax.enable_x64(True):
    images = jnp.asarray(RANDOM.normal(size=(2, 2, *SHAPE)))
    batch = by_class()
    batch = batch.replace(image=jnp.asarray(batch.image, jnp.float64))
    network = Smooth().init(KEY, images[0, 0])["params"]
    network = jax.tree.map(lambda x: x.astype(jnp.float64), network)

    def loss_fn(params, example, key):
      logits = Smooth().apply({"params": params}, example["image"])
      return optax.softmax_cross_entropy_with_integer_labels(logits, example["label"])

    def gradient(pictures, label):
      each = lambda p, x: loss_fn(p, {"image": x, "label": label}, KEY)  # noqa: E731
      return jax.grad(lambda p: jax.vmap(each, (None, 0))(p, pictures).mean())(network)

    def whole(own):
      pairs = [(gradient(own[c], c), gradient(batch.image[c], c)) for c in range(2)]
      return sum(condensation.layer_distance(*pair) for pair in pairs)

    run = jax.jit(jax.value_and_grad(whole))
    want, by_reverse = run(images)
    loss, grad = jax.jit(condensation.gradient_matching(loss_fn))(images, batch, network, KEY)
    np.testing.assert_allclose(loss, want, rtol=1e-9)
    np.testing.assert_allclose(grad, by_reverse, rtol=1e-7, atol=1e-12)
    way = jnp.asarray(RANDOM.normal(size=images.shape))
    ends = [run(images + e * way)[0] for e in (1e-5, -1e-5)]
    np.testing.assert_allclose((grad * way).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


def test_a_class_that_a_client_lacks_keeps_its_pictures():
  lone = store()
  lone = lone.replace(label=np.zeros_like(lone.label))
  batch = data.class_batches(lone, 2, 0, num_classes=2)(0)
  step = condensation.condensed(
    condensation.distribution_matching(pixels), lambda key: {}, optax.sgd(0.1)
  )
  images = pictures()
  after, _ = jax.jit(step.update)(step.init(images, KEY), batch, KEY)
  np.testing.assert_array_equal(after.params[1], images[1])
  assert np.abs(after.params[0] - images[0]).max() > 0
  with pytest.raises(check.InputError, match="labels"):
    data.class_batches(store(), 2, 0, num_classes=1)


def test_a_network_is_kept_and_trained_for_as_long_as_asked():
  step = condensation.condensed(
    lambda images, batch, network, key: (network.sum(), jnp.zeros_like(images)),
    lambda key: jax.random.uniform(key, (1,)),
    optax.sgd(0.1),
    network_every=3,
    between=lambda network, images, key: network + 1,
  )
  state, losses = step.init(pictures(), KEY), []
  update = jax.jit(step.update)
  for number in range(6):
    state, metrics = update(state, {}, jax.random.fold_in(KEY, number))
    losses.append(float(metrics["loss"]))
  assert np.allclose(np.diff(losses[:3]), 1) and np.allclose(np.diff(losses[3:]), 1)
  assert 0 < losses[3] < 1 and losses[3] != losses[0]


# --- one round of bytes


def test_pictures_travel_as_bytes_and_come_back_within_half_a_step():
  images = RANDOM.uniform(-0.2, 1.4, size=(20, 4, 4, 3))
  sent = federated.published(images, np.arange(20) % 2, bounds=(-0.2, 1.4))
  assert sent.image.dtype == np.uint8 and sent.num_bytes == 20 * 4 * 4 * 3 + 20
  assert np.abs(sent.pixels - images).max() <= 1.6 / 510 + 1e-6
  beyond = federated.published(
    images[:2] + [[[[-9.0]]], [[[9.0]]]], np.arange(2), bounds=(-0.2, 1.4)
  )
  assert (beyond.image[0] == 0).all() and (beyond.image[1] == 255).all()
  union = federated.received([sent, sent])
  assert union.domain.tolist() == [0] * 20 + [1] * 20 and len(union.image) == 40


def test_what_cannot_be_sent_or_joined_is_refused():
  sent = federated.published(np.zeros((1, 4, 4, 1)), np.array([0]))
  larger = federated.published(np.zeros((1, 6, 4, 1)), np.array([0]))
  with pytest.raises(check.InputError, match=r"\(6, 4, 1\) of client 1"):
    federated.received([sent, larger])
  for bounds in ((0.0, 2.0), (-1.0, 1.0)):
    other = federated.published(np.zeros((1, 4, 4, 1)), np.array([0]), bounds=bounds)
    with pytest.raises(check.InputError, match="of client 1"):
      federated.received([sent, other])
  with pytest.raises(check.InputError, match="diverged"):
    federated.published(np.full((1, 4, 4, 1), np.nan), np.array([0]))
  with pytest.raises(check.InputError, match="labels from 0 to 255"):
    federated.published(np.zeros((1, 4, 4, 1)), np.array([300]))


# --- privacy


def released(noise_multiplier, cases, steps=1, norm=None):
  networks = condensation.RandomNetworks.draw(
    lambda network, image: jnp.tanh(network @ image.ravel()),
    lambda key: jax.random.normal(key, (3, 32)),
    KEY,
    count=2,
    shape=SHAPE,
  )
  size = len(cases.label)
  plan = privacy.DPPlan(
    num_examples=size,
    expected_batch_size=size,
    num_steps=steps,
    delta=1e-3,
    max_norm=norm or networks.norm,
    unit="example",
    noise_multiplier=noise_multiplier,
    vault=privacy.Vault.from_seed(0),
  )
  return networks, plan


def test_the_released_means_are_the_class_means_where_there_is_no_noise():
  cases = store()
  networks, plan = released(0.0, cases)
  step = condensation.statistics_step(networks, plan)
  start = {"sum": jnp.zeros((2, 2 * 3 + 1))}
  fit = train.fit(step, plan.stream(cases, chunk=5), start, KEY, num_steps=1, progress=False)
  found = condensation.released_means(fit.state.params, networks)
  each = np.asarray(jax.vmap(networks.every)(cases.image))
  np.testing.assert_allclose(np.linalg.norm(each, axis=-1), 1, atol=1e-5)
  want = np.stack([each[cases.label == c].mean(0) for c in (0, 1)])
  np.testing.assert_allclose(found.means, want, atol=1e-5)
  np.testing.assert_allclose(found.counts, [0.5, 0.5], atol=1e-5)
  loss, _ = condensation.statistic_matching(networks)(
    jnp.asarray(np.stack([cases.image[cases.label == c] for c in (0, 1)])),
    {"means": found.means, "weight": jnp.ones((2, 1))},
    {},
    KEY,
  )
  assert float(loss) < 1e-8  # the data match their own statistics
  assert "Protected: nothing" in plan.statement()  # there is no noise, and the statement says so
  assert released(1.0, cases)[1].statement().startswith("Protected: one image.")
  with pytest.raises(check.InputError, match="num_steps=1"):
    condensation.statistics_step(networks, released(0.0, cases, steps=2)[1])
  with pytest.raises(check.InputError, match="max_norm="):
    condensation.statistics_step(networks, released(0.0, cases, norm=1.0)[1])


@pytest.mark.slow
def test_games_cannot_refute_what_the_released_statistics_claim():
  """A release without its noise would be refuted at once; see the second half."""
  cases = store(6)
  weighed = cases.replace(weight=np.ones(6, np.float32))
  start = {"sum": jnp.zeros((2, 2 * 3 + 1))}
  for multiplier, verdict in ((1.0, "not refuted"), (0.25, "refuted")):
    networks, plan = released(multiplier, cases)
    step = condensation.statistics_step(networks, plan)
    vector = np.append(np.asarray(networks.every(jnp.asarray(cases.image[0]))).ravel(), 1.0)

    def score(seen, vector=vector):
      return seen["sum"][0] @ vector

    absent = weighed.replace(weight=np.array([0, 1, 1, 1, 1, 1], np.float32))
    game = audit.Game("one picture", absent, weighed, score)
    release = audit.of_step(step, step.init(start, KEY))
    found = audit.audit_step(release, [game], claim=1.0, key=KEY, trials=4000, held_out=1000)
    assert found.verdict == verdict
