"""The decoder of Kim et al.: clicks reach it through the image alone, and it starts from SAM's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check, nets
from medjax.nets import MaskDecoder, RefiningDecoder, spec

FIELDS = {"width": 16, "num_heads": 2, "mlp_width": 8, "num_masks": 1}


@functools.cache
def case():
  random = np.random.default_rng(0)
  net = RefiningDecoder(**FIELDS)
  image, places = (jnp.asarray(random.normal(size=(4, 4, 16)), jnp.float32) for _ in range(2))
  tokens = jnp.asarray(random.normal(size=(3, 16)), jnp.float32)
  params = jax.jit(net.init)(jax.random.key(0), image, places, tokens, jnp.ones(3, bool))
  return jax.jit(net.apply), params, image, places, tokens


def test_a_token_that_is_seen_changes_the_mask_and_an_ignored_one_does_not():
  apply, params, image, places, tokens = case()
  seen = jnp.array([True, True, False])
  logits = apply(params, image, places, tokens, seen).logits
  assert logits.shape == (16, 16, 1)
  held = apply(params, image, places, tokens.at[2].set(jnp.nan), seen).logits
  np.testing.assert_array_equal(held, logits)
  moved = apply(params, image, places, tokens.at[1].set(0.0), seen).logits
  assert np.abs(moved - logits).max() > 1e-3


def test_without_what_tokens_tell_the_image_the_mask_does_not_see_them():
  """The paper's point: there is no product of a token and the embedding."""
  apply, params, image, places, tokens = case()
  own = params["params"]
  mute = dict(own["transformer"])
  for layer in range(2):
    name = f"layer{layer}_to_tokens"
    mute[name] = {**mute[name], "out": jax.tree.map(jnp.zeros_like, mute[name]["out"])}
  params = {"params": {**own, "transformer": mute}}
  seen = jnp.ones(3, bool)
  one, other = (apply(params, image, places, x, seen) for x in (tokens, 2 * tokens + 1))
  np.testing.assert_array_equal(one.logits, other.logits)
  assert np.any(one.quality != other.quality)


def test_it_starts_from_a_trained_decoder_and_refuses_one_of_another_width():
  _, params, *_ = case()
  shapes = [jax.ShapeDtypeStruct(s, t) for s, t in (
    ((4, 4, 16), jnp.float32), ((4, 4, 16), jnp.float32), ((3, 16), jnp.float32), ((3,), bool)
  )]  # fmt: skip
  kinds = jax.eval_shape(MaskDecoder(**FIELDS).init, jax.random.key(0), *shapes)["params"]
  trained = jax.tree.map(lambda x: np.full(x.shape, 7, np.float32), kinds)
  started = nets.warm_started(params["params"], trained)
  assert set(started) == set(params["params"])
  assert all(np.all(x == 7) for x in jax.tree.leaves(started["transformer"]))
  assert not np.any(np.asarray(started["global"]["query"]["kernel"]) == 7)
  assert spec.build(spec.describe(RefiningDecoder(**FIELDS))) == RefiningDecoder(**FIELDS)
  other = MaskDecoder(**{**FIELDS, "width": 32})
  shapes = [s if s.shape == (3,) else jax.ShapeDtypeStruct((*s.shape[:-1], 32), s.dtype)
            for s in shapes]  # fmt: skip
  wide = jax.eval_shape(other.init, jax.random.key(0), *shapes)["params"]
  with pytest.raises(check.InputError, match="decoders of equal fields"):
    nets.warm_started(params["params"], wide)
