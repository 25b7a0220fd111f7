"""The promptable segmenter against PyTorch: SAM with random weights, LiteMedSAM with its own."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import check, nets
from medjax.nets import MaskDecoder, PromptableSegmenter, PromptEncoder, ViT, spec
from medjax.nets.attention import unwindowed, windows
from medjax.train import weights

HERE = pathlib.Path(__file__).parent
TINY = HERE.parent / "oracles" / "sam_tiny.safetensors"
FOLDER = os.environ.get("MEDJAX_DATA", HERE.parents[2] / "shared" / "data")
WEIGHTS = pathlib.Path(FOLDER).parent / "weights"
LITE = WEIGHTS / "lite_medsam.safetensors"
needs_weights = pytest.mark.skipif(not LITE.exists(), reason="LiteMedSAM's weights are not here")


def near(found, wanted, share=1e-4):
  """Within a share of the largest absolute value: other orders of summation, float32."""
  np.testing.assert_allclose(found, wanted, rtol=0, atol=share * np.abs(wanted).max())


@functools.cache
def tiny():
  """A segmenter of the shape of the fixture, the fixture's arrays, and its program."""
  module = PromptableSegmenter(
    encoder=ViT(
      patch=4,
      width=16,
      depth=2,
      num_heads=2,
      grid=(8, 8),
      out_width=16,
      window=3,
      global_blocks=(1,),
      has_relative=True,
    ),
    prompts=PromptEncoder(width=16, mask_width=8),
    decoder=MaskDecoder(width=16, num_heads=2, mlp_width=16),
    stride=4,
  )
  names = nets.sam_hub_names(module)
  names = names._replace(passed_over=(*names.passed_over, "oracle."))
  params, state, _ = nets.import_torch(TINY, module, names=names)
  assert state == {}
  found = weights.read_weights(TINY).arrays
  oracle = {name[7:]: jnp.asarray(x) for name, x in found.items() if name.startswith("oracle.")}
  return nets.promptable(module), params, oracle


@functools.cache
def decode():
  return jax.jit(tiny()[0].decode)


def clicks():
  oracle = tiny()[2]
  asked = nets.point_prompt(oracle["points"], oracle["labels"])
  return asked._replace(mask=oracle["mask"])


def test_the_encoder_of_sam_agrees_with_transformers():
  net, params, oracle = tiny()
  near(jax.jit(net.embed)(params, oracle["image"]), oracle["embedding"])


def test_masks_and_qualities_agree_with_transformers():
  _, params, oracle = tiny()
  found = decode()(params, oracle["embedding"], nets.box_prompt(oracle["box"]))
  near(found.logits, oracle["box_logits"])
  near(found.quality, oracle["box_quality"])
  found = decode()(params, oracle["embedding"], clicks())
  near(found.logits[..., 1:], oracle["points_logits"])
  near(found.quality[1:], oracle["points_quality"])


def test_an_ignored_token_changes_nothing_whatever_it_holds():
  _, params, oracle = tiny()
  asked = clicks()
  more = nets.Prompts(
    jnp.concatenate([asked.coordinates, jnp.full((2, 2), jnp.nan)]),
    jnp.concatenate([asked.labels, jnp.full(2, nets.IGNORED, jnp.int32)]),
    asked.mask,
  )
  found, wanted = (decode()(params, oracle["embedding"], p) for p in (more, asked))
  near(found.logits, wanted.logits, 1e-6)


def test_coordinates_are_differentiable_and_frequencies_get_no_gradient():
  """Tokens of clicks and corners against finite differences, in float64."""
  _, params, oracle = tiny()
  with jax.enable_x64(True):
    cast = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)  # noqa: E731
    own, wave = cast(params["prompts"]), np.sin(np.arange(64.0)).reshape(4, 16)
    at = np.array([[4.0, 6.0], [18.0, 9.0], [3.0, 5.0], [20.0, 25.0]])
    labels = jnp.array([nets.FOREGROUND, nets.BACKGROUND, nets.TOP_LEFT, nets.BOTTOM_RIGHT])

    @jax.jit
    def score(coordinates, own):
      asked = nets.Prompts(coordinates, labels)
      shapes = ((8, 8), (32, 32))
      return (PromptEncoder(16, 8).apply({"params": own}, asked, *shapes)[0] * wave).sum()

    slope, others = jax.jit(jax.grad(score, (0, 1)))(at, own)
    for place in ((0, 0), (1, 1), (2, 0), (3, 1)):
      move = np.zeros((4, 2))
      move[place] = 1e-5
      found = (score(at + move, own) - score(at - move, own)) / 2e-5
      np.testing.assert_allclose(found, slope[place], rtol=1e-6)
  assert not np.any(others["frequencies"])
  assert np.any(others["foreground"])


@pytest.mark.parametrize("shape", [(6, 6), (7, 4), (2, 5)])
def test_windows_come_back(shape):
  x = jnp.arange(shape[0] * shape[1] * 2.0).reshape(*shape, 2)
  tokens, counts = windows(x, 3)
  assert tokens.shape[1] == 9
  np.testing.assert_array_equal(unwindowed(tokens, counts, shape), x)


def test_behind_a_stem_a_token_stands_beside_a_patch():
  """Without blocks the map moves by a token where the picture moves by a patch."""
  net = ViT(patch=4, width=3, depth=0, num_heads=1, grid=(6, 6), stem=(2, 4))
  picture = np.zeros((24, 24, 1), np.float32)
  picture[9:14, 8:13] = np.random.default_rng(0).normal(size=(5, 5, 1))
  params = jax.jit(net.init)(jax.random.key(0), picture)["params"]
  assert params["patches"]["kernel"].shape == (1, 1, 4, 3)
  params["positions"] = 0 * params["positions"]
  apply = jax.jit(net.apply)
  found, moved = (apply({"params": params}, np.roll(picture, n, (0, 1))) for n in (0, 4))
  assert found.shape == (6, 6, 3)
  np.testing.assert_allclose(moved[1:, 1:], found[:-1, :-1], atol=1e-6)
  with pytest.raises(check.InputError, match="a patch that 4 divides, for 2 halvings, got 6"):
    net.clone(patch=6)


@pytest.mark.parametrize("make, channels, size", [
  (nets.lite_medsam, 3, 9_786_628),  # 9,801,439 less the folded BatchNorms' moments
  (nets.sam_vit_b, 3, 93_735_728),  # SAM ViT-B as published: 93.7 M
])  # fmt: skip
def test_presets_have_the_published_sizes(make, channels, size):
  side = make().stride * 64
  net = nets.promptable(make())
  image = jax.ShapeDtypeStruct((side, side, channels), jnp.float32)
  params = jax.eval_shape(net.init, jax.random.key(0), image)
  assert sum(x.size for x in jax.tree.leaves(params)) == size


def test_a_segmenter_is_saved_with_its_parts():
  module = nets.mini_promptable()
  assert spec.build(spec.describe(module)) == module


def test_an_image_that_the_stride_does_not_divide_is_refused():
  net = nets.promptable(nets.mini_promptable())
  with pytest.raises(check.InputError, match="an image whose sides 8 divides, got 60 x 64"):
    jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((60, 64, 1), jnp.float32))


def test_an_image_of_other_channels_is_refused():
  net = nets.promptable(nets.mini_promptable())
  image = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)
  params = jax.eval_shape(net.init, jax.random.key(0), image)
  with pytest.raises(check.InputError, match=r"channels of the weights.*\(64, 64, 1\)"):
    jax.eval_shape(net.embed, params, jax.ShapeDtypeStruct((64, 64, 1), jnp.float32))


def test_points_without_labels_are_refused():
  with pytest.raises(check.InputError, match="labels and points of one shape"):
    nets.point_prompt(jnp.ones((2, 2)), jnp.ones(3, jnp.int32))


# --- LiteMedSAM: real weights, values of PyTorch 2.13


@functools.cache
def lite():
  module = nets.lite_medsam()
  params, state, _ = nets.import_torch(LITE, module)
  assert state == {}
  return nets.promptable(module), params, dict(np.load(WEIGHTS / "lite_medsam_oracle.npz"))


@needs_weights
def test_another_network_is_refused_with_its_first_keys():
  with pytest.raises(check.InputError, match="missing.*encoder.blocks.0.*and .* more; unused"):
    nets.import_torch(LITE, nets.mini_promptable())


@needs_weights
def test_lite_medsam_decodes_as_in_pytorch():
  net, params, oracle = lite()
  embedding = jnp.asarray(oracle["embedding_full_0"].transpose(1, 2, 0))
  decode = jax.jit(jax.vmap(net.decode, (None, None, 0)))
  box, point = jnp.asarray(oracle["boxes_xyxy"][0]), jnp.asarray(oracle["points_xy"][:1])
  asked = [nets.box_prompt(box), nets.point_prompt(point, jnp.array([1]))]
  out = decode(params, embedding, jax.tree.map(lambda *x: jnp.stack(x), *asked))
  near(out.logits[0, ..., 0], oracle["box_logits"][0, 0])
  near(out.quality[0, :1], oracle["box_iou"][0])
  near(out.logits[1, ::4, ::4, 1:].transpose(2, 0, 1), oracle["point_multimask_logits"][0])
  near(out.quality[1, 1:], oracle["point_multimask_iou"][0])
  shapes = ((64, 64), (256, 256))
  sparse, _, places = PromptEncoder().apply({"params": params["prompts"]}, asked[0], *shapes)
  near(sparse, oracle["box_sparse"][0, 0])
  near(places.transpose(2, 0, 1)[:, ::8, ::8], oracle["dense_pe"][0])


@needs_weights
@pytest.mark.slow
def test_lite_medsam_embeds_as_in_pytorch():
  net, params, oracle = lite()
  embed, decode = jax.jit(net.embed), jax.jit(net.decode)
  for i in range(2):
    found = embed(params, jnp.asarray(oracle["images"][i]))
    near(found.transpose(2, 0, 1)[:, ::8, ::8], oracle["embedding_sub"][i])
    out = decode(params, found, nets.box_prompt(jnp.asarray(oracle["boxes_xyxy"][i])))
    near(out.logits[..., 0], oracle["box_logits"][i, 0])
    near(out.quality[:1], oracle["box_iou"][i])
