"""Training a small part: identity at the start, nothing else counted, files bound to their base."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import adapt, check, grads, methods, nets, privacy, train, tree
from medjax.adapt import under
from medjax.train import weights


def params():
  draw = np.random.default_rng(0).normal
  return {
    "body": {"kernel": draw(size=(5, 3)), "bias": draw(size=3)},
    "conv": {"kernel": draw(size=(3, 3, 2, 4))},
    "head": {"kernel": draw(size=(3, 2))},
  }


def float32(values):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), values)


def loss_fn(params, example, key):
  del key
  hidden = jnp.tanh(example @ params["body"]["kernel"] + params["body"]["bias"])
  return jnp.sum((hidden @ params["head"]["kernel"]) ** 2) + params["conv"]["kernel"].sum() ** 2


def test_a_low_rank_update_is_the_identity_at_the_start_to_the_bit():
  start = float32(params())
  factors = adapt.low_rank(jax.random.key(0), start, under("*/kernel"), rank=2)
  assert set(factors) == {"body/kernel", "conv/kernel", "head/kernel"}
  for name, x in tree.named_leaves(adapt.with_low_rank(start, factors)).items():
    assert np.asarray(x).tobytes() == np.asarray(tree.named_leaves(start)[name]).tobytes()
  # And it can leave it: were both factors 0, no gradient would ever move them.
  loss = lambda own: loss_fn(adapt.with_low_rank(start, own), jnp.ones(5), None)  # noqa: E731
  slopes = jax.grad(loss)(factors)
  assert all(float(jnp.abs(own["up"]).max()) > 0 for own in slopes.values())


def test_a_low_rank_update_is_the_product_of_its_factors():
  start = float32(params())
  factors = adapt.low_rank(jax.random.key(0), start, under("conv/*"), rank=2)
  up = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
  factors["conv/kernel"]["up"] = jnp.asarray(up)
  found = adapt.with_low_rank(start, factors, alpha=6)["conv"]["kernel"] - start["conv"]["kernel"]
  wanted = 3.0 * np.asarray(factors["conv/kernel"]["down"]) @ up  # alpha / rank
  np.testing.assert_allclose(found.reshape(18, 4), wanted, rtol=1e-4, atol=1e-5)


def test_an_adapter_is_the_identity_at_the_start_to_the_bit():
  plain = nets.ViT(patch=4, width=8, depth=1, num_heads=2, grid=(2, 2))
  adapted = plain.clone(adapter_width=3)
  image = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 1)), jnp.float32)
  start = jax.jit(adapted.init)(jax.random.key(0), image)["params"]
  is_adapter = under("*/adapter?/*")
  own, frozen = tree.split(start, is_adapter)
  assert tree.size(own) == 2 * (8 * 3 + 3 + 3 * 8 + 8)
  base = {
    name: {k: v for k, v in block.items() if not k.startswith("adapter")}
    if isinstance(block, dict)
    else block
    for name, block in start.items()
  }
  outputs = [
    jax.jit(net.apply)({"params": p}, image) for net, p in ((plain, base), (adapted, start))
  ]
  np.testing.assert_array_equal(*outputs)


def test_per_example_gradients_and_norms_are_those_of_the_small_part():
  """The norm that clipping sees is that of the part's own gradient; `only` counts all of it."""
  start = float32(params())
  small, frozen = adapt.take(start, trains=under("head/*"))
  examples = jnp.asarray(np.random.default_rng(2).normal(size=(4, 5)), jnp.float32)
  summed = jax.jit(grads.clipped_sum(adapt.adapted_loss(loss_fn, frozen), jnp.inf))
  out = summed(small, examples, jax.random.key(0))
  assert list(tree.named_leaves(out.grads)) == ["leaves/head/kernel"]
  each = jax.jit(jax.vmap(jax.grad(loss_fn), (None, 0, None)))(start, examples, jax.random.key(0))
  own = np.sqrt((np.asarray(each["head"]["kernel"]) ** 2).sum((1, 2)))
  np.testing.assert_allclose(out.norms, own, rtol=1e-4)
  assert (jax.vmap(optax.tree.norm)(each) > 1.5 * own).all()


def plan():
  return privacy.DPPlan(
    num_examples=100, expected_batch_size=10, num_steps=2, delta=1e-3, max_norm=1.0,
    unit="example", noise_multiplier=1.0, vault=privacy.Vault.in_memory(),
  )  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda tx: tx, lambda tx: optax.chain(optax.clip(1.0), tx)])
def test_private_training_refuses_an_optimiser_that_freezes_what_it_clips(wrap):
  tx = wrap(methods.only(optax.sgd(0.1), under("head/*")))
  step = methods.private(loss_fn, tx, plan())
  with pytest.raises(check.InputError, match="leaves that methods.only freezes.*adapt.take"):
    step.init(float32(params()), jax.random.key(0))


def test_private_training_of_a_small_part_holds_nothing_else():
  start = float32(params())
  small, frozen = adapt.take(
    start, trains=under("head/*"), low_rank_of=under("body/kernel"), key=jax.random.key(0)
  )
  step = methods.private(adapt.adapted_loss(loss_fn, frozen), optax.adam(0.1), plan())
  state = step.init(small, jax.random.key(0))
  assert tree.size(state.params) == 3 * 2 + 4 * (5 + 3)
  assert tree.size(state.opt_state) == 2 * tree.size(state.params) + 1


def test_a_small_file_holds_the_part_and_knows_its_base(tmp_path):
  start = float32(params())
  base, path = tmp_path / "base.safetensors", tmp_path / "small.safetensors"
  weights.save_weights(base, start)
  small, frozen = adapt.take(
    start, trains=under("head/*"), low_rank_of=under("body/kernel"), key=jax.random.key(0)
  )
  small = jax.tree.map(lambda x: x + 0.5, small)
  adapt.save_small(path, small, base, alpha=2, settings={"classes": ["a", "b"]})
  assert sum(x.size for x in train.weights.read_weights(path).arrays.values()) == tree.size(small)
  found, settings = adapt.load_small(path, start, base)
  assert settings == {"classes": ["a", "b"]}
  wanted = tree.named_leaves(adapt.whole(small, frozen, alpha=2))
  for name, x in tree.named_leaves(found).items():
    np.testing.assert_array_equal(x, wanted[name])
  weights.save_weights(base, jax.tree.map(lambda x: x * 2, start))
  with pytest.raises(check.InputError, match="frozen weights that .* was trained on, base"):
    adapt.load_small(path, start, base)


def test_a_rule_that_chooses_nothing_or_a_vector_is_refused():
  with pytest.raises(check.InputError, match="a rule that chooses a matrix"):
    adapt.low_rank(jax.random.key(0), params(), under("nobody"))
  with pytest.raises(check.InputError, match=r"body/bias of shape \(3,\)"):
    adapt.low_rank(jax.random.key(0), params(), under("body/*"))
