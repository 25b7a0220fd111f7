"""The table of methods: a further one is one more row, and every shared property runs on it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import grads, methods, privacy
from medjax.types import Batch, Step

NUM_FEATURES = 3
_OF_DOMAINS = frozenset({"loss", "worst_loss", "grad_norm", "unknown_domains"})


class Row(NamedTuple):
  """A method on a small linear problem.

  Attributes:
    name: of the method.
    step: factory of the Step; of a private one step(noise_multiplier=0.0).
    stream: step number -> batch of 4 examples.
    params: initial parameters.
    metrics: what it shows at least.
    like: name of a row whose program it shares but for a term; the tests of whole trainings are
      then slow ones, and those of single updates are not.
  """

  name: str
  step: Callable[..., Step]
  stream: Callable[[int], Any]
  params: Callable[[], Any]
  metrics: frozenset[str] = frozenset({"loss", "grad_norm"})
  like: str = ""


def batch_of(seed: int, name: int, size: int = 4) -> Batch:
  """Images [batch, feature] whose label is the sum of the features."""
  random = np.random.Generator(np.random.Philox(key=[seed, name]))
  image = random.normal(size=(size, NUM_FEATURES)).astype(np.float32)
  return Batch(
    image=image,
    label=image.sum(-1),
    domain=np.zeros(size, np.int32),
    subject=np.arange(size, dtype=np.int32),
    index=np.arange(size, dtype=np.int32) + size * seed,
    weight=np.ones(size, np.float32),
  )


def _params():
  return {"w": jnp.full(NUM_FEATURES, 0.1, jnp.float32), "b": jnp.zeros((), jnp.float32)}


def _residual(params, image, label):
  return params["w"] @ image + params["b"] - label


def _loss(params, example, key):
  noisy = example.image + 0.01 * jax.random.normal(key, example.image.shape)
  return 0.5 * _residual(params, noisy, example.label) ** 2


def _inner(params, theta, example, key):
  noisy = example.image + theta * jax.random.normal(key, example.image.shape)
  return 0.5 * _residual(params, noisy, example.label) ** 2


def _outer(params, example, key):
  del key
  return 0.5 * _residual(params, example.image, example.label) ** 2


def _held_out(params, anchor, example, key):
  return _loss(params, example, key) + 0.1 * jnp.sum((params["w"] - anchor["w"]) ** 2)


def _image_batch(seed: int) -> Batch:
  """The same with a channel, so that the features are an image of one axis."""
  batch = batch_of(seed, 0)
  return batch.replace(image=batch.image[..., None])


def _image_loss(params, example, key):
  return _loss(params, example.replace(image=example.image[..., 0]), key)


def _fusestyle():
  """The least similar partner lends a little of its image."""

  def loss(params, pair, key):
    share = 0.05 * jax.random.uniform(key)
    image = (1 - share) * pair.example.image + share * pair.partner.image
    label = (1 - share) * pair.example.label + share * pair.partner.label
    return 0.5 * _residual(params, image[..., 0], label) ** 2

  choose = methods.fusestyle.least_similar(lambda params, image: image, similarity="raw")
  return methods.mixing.paired(methods.supervised(loss, optax.adam(3e-2)), choose=choose)


def _two_domains(t: int) -> Batch:
  """Domains 0 and 1 in turn, two examples of each."""
  batch = batch_of(t, 0)
  return batch.replace(domain=batch.index % 2)


def _predict(params, example, key):
  noisy = example.image + 0.01 * jax.random.normal(key, example.image.shape)
  return params["w"] @ noisy + params["b"]


def _cost(logits, example):
  return 0.5 * (logits - example.label) ** 2


def _rolled(key, image):
  """A style that keeps the sum of the features, and so the label."""
  del key
  return jnp.roll(image, 1, 0)


def _private_curriculum(noise_multiplier=0.0):
  """Two releases of a sample."""
  plan = _plan(releases_per_sample=2, noise_multiplier=noise_multiplier)
  adversary = methods.adversaries.pgd(eps=0.01)
  hardened = methods.private_curriculum(adversary, num_updates=2)
  return methods.private(_image_loss, optax.adam(3e-2), plan, filter=hardened)


def _private(noise_multiplier=0.0):
  reference = privacy.public_reference(threshold=-1.0)
  plan = _plan(noise_multiplier=noise_multiplier)
  return methods.private(_loss, optax.adam(3e-2), plan, filter=reference)


def _plan(**options):
  """Mostly without noise, to learn like the others; each call starts with the same vault."""
  return privacy.DPPlan(
    num_examples=10_000,
    expected_batch_size=4,
    num_steps=300,
    delta=1e-5,
    max_norm=100.0,
    unit="example",
    vault=privacy.Vault.from_seed(0),
    **options,
  )


def _two_tasks():
  """The weight and the offset of one line, each trained by a task of its own."""
  return {
    "slope": methods.cooperative.Task(
      _predict, _cost, lambda name: name == "w", lambda name: False
    ),
    "offset": methods.cooperative.Task(
      _predict, _cost, lambda name: name == "b", lambda name: False
    ),
  }


ROWS = (
  Row(
    "supervised",
    lambda: methods.supervised(_loss, optax.adam(3e-2)),
    lambda t: batch_of(t, 0),
    _params,
  ),
  Row(
    "averaged",
    lambda: methods.averaged(methods.supervised(_loss, optax.adam(3e-2)), 0.9),
    lambda t: batch_of(t, 0),
    _params,
  ),
  Row(
    "segment_mean",
    lambda: methods.segment_mean(methods.supervised(_loss, optax.adam(3e-2)), 2),
    lambda t: batch_of(t, 0),
    _params,
    like="averaged",
  ),
  Row(
    "l2sp",
    lambda: methods.l2sp(_loss, optax.adam(3e-2), alpha=1e-3),
    lambda t: batch_of(t, 0),
    _params,
  ),
  Row(
    "ewc",
    lambda: methods.ewc(
      _loss, optax.adam(3e-2), methods.Anchor(_params(), _params()), strength=0.01
    ),
    lambda t: batch_of(t, 0),
    _params,
  ),
  Row(
    "a-gem",
    lambda: methods.agem(_loss, optax.adam(3e-2)),
    lambda t: {"current": batch_of(t, 0), "memory": batch_of(t, 1)},
    _params,
  ),
  Row(
    "episodic",
    lambda: methods.episodic.episodic(_loss, _held_out, optax.adam(3e-2)),
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"loss", "test_loss", "alignment", "grad_norm"}),
  ),
  Row(
    "episodic-alternate",
    lambda: methods.episodic.episodic(
      _loss, _held_out, optax.adam(3e-2), mode="alternate", period=2
    ),
    lambda t: batch_of(t, 0),
    _params,
    like="episodic",
  ),
  Row(
    "multitask",
    lambda: methods.multitask(
      {"noisy": _loss, "plain": _outer},
      optax.adam(3e-2),
      combine=grads.combine.upgrad(),
      method="ghost",
    ),
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"loss", "grad_norm", "conflicts", "loss/noisy", "skipped/plain"}),
  ),
  Row(
    "instancewise",
    lambda: methods.instancewise(_loss, optax.adam(3e-2), combine=grads.combine.mgda()),
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"loss", "grad_norm", "skipped", "conflicts"}),
  ),
  Row(
    "domainwise",
    lambda: methods.domainwise(_loss, optax.adam(3e-2), 2, combine=grads.combine.upgrad()),
    _two_domains,
    _params,
    _OF_DOMAINS - {"worst_loss"},
    like="multitask",
  ),
  Row(
    "vrex",
    lambda: methods.vrex(_loss, optax.adam(3e-2), 2, strength=1.0),
    _two_domains,
    _params,
    _OF_DOMAINS,
  ),
  Row(
    "irm",
    lambda: methods.irm(_predict, _cost, optax.adam(3e-2), 2, strength=0.1),
    _two_domains,
    _params,
    _OF_DOMAINS,
    like="vrex",
  ),
  Row(
    "ib-irm",
    lambda: methods.ib_irm(
      lambda p, e, k: (_predict(p, e, k), jnp.zeros(1)), _cost, optax.adam(3e-2), 2, strength=0.1
    ),
    _two_domains,
    _params,
    _OF_DOMAINS,
    like="vrex",
  ),
  Row(
    "groupdro",
    lambda: methods.groupdro(_loss, optax.adam(3e-2), 2),
    _two_domains,
    _params,
    _OF_DOMAINS,
    like="vrex",
  ),
  Row("fish", lambda: methods.fish(_loss, optax.adam(3e-2), 2), _two_domains, _params, _OF_DOMAINS),
  Row(
    "fishr",
    lambda: methods.fishr(
      _loss, optax.adam(3e-2), 2, classifier=lambda name: name == "w", strength=0.1
    ),
    _two_domains,
    _params,
    _OF_DOMAINS,
    like="vrex",
  ),
  Row(
    "weighted",
    lambda: methods.weighted(_predict, _cost, optax.adam(3e-2), weigh=grads.weights.focal(0.5)),
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"loss", "weighted_loss", "grad_norm", "largest_weight", "unused"}),
    like="supervised",
  ),
  Row(
    "cooperative",
    lambda: methods.cooperative.cooperative(_two_tasks(), optax.adam(3e-2), radius=0.02, samples=2),
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"loss", "grad_norm", "clamped", "loss/slope", "kl/offset"}),
  ),
  Row(
    "bilevel",
    lambda: methods.cooperative.bilevel(_two_tasks(), optax.sgd(0.1)),
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"loss", "grad_norm", "hyper_norm"}),
    like="learn2synth",
  ),
  Row(
    "spottune",
    lambda: methods.spottune(
      _loss,
      optax.adam(3e-2),
      lambda policy, example: policy,
      jnp.full(2, 8.0, jnp.float32),  # nearly all is tuned: the test looks at the tuned copy
      optax.sgd(1e-2),
    ),
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"loss", "grad_norm", "tuned"}),
  ),
  Row(
    "fusestyle",
    _fusestyle,
    _image_batch,
    _params,
    frozenset({"loss", "grad_norm", "partners", "hub"}),
  ),
  Row(
    "private",
    _private,
    lambda t: batch_of(t, 0),
    _params,
    frozenset({"release_norm"}),
  ),
  Row(
    "lscl",
    lambda: methods.lscl(
      _image_loss, optax.adam(3e-2), _rolled, pool=NUM_FEATURES, direction="chain", num_updates=2
    ),
    _image_batch,
    _params,
  ),
  Row(
    "adversarial fgsm",
    lambda: methods.adversarial(
      _image_loss, optax.adam(3e-2), methods.adversaries.fgsm(eps=0.01), num_updates=2
    ),
    _image_batch,
    _params,
  ),
  Row(
    "adversarial pgd",
    lambda: methods.adversarial(
      _image_loss, optax.adam(3e-2), methods.adversaries.pgd(eps=0.01), num_updates=2
    ),
    _image_batch,
    _params,
  ),
  Row(
    "private curriculum",
    _private_curriculum,
    _image_batch,
    _params,
    frozenset({"release_norm"}),
  ),
  Row(
    "learn2synth",
    lambda: methods.learn2synth(
      _inner,
      _outer,
      # Not Adam: its first hypergradient is rounding noise, which theta's Adam would normalise.
      optax.sgd(0.1, momentum=0.5),
      jnp.float32(0.3),
      optax.adam(1e-2),
      describe=lambda theta: {"sigma": theta},
    ),
    lambda t: {"inner": batch_of(t, 0), "outer": batch_of(t, 1)},
    _params,
  ),
)
