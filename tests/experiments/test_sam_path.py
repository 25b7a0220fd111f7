"""The start of SAM-Path's decoder, and tissue whose kinds no mean tells apart."""

import jax
import numpy as np
import pytest

from experiments import sam_path, tissue_quilts
from experiments.class_decoders import Head, Kind
from medjax import check, nets
from tests.data.folders import nnunet


def test_every_class_starts_with_the_filter_of_the_first_mask():
  module = nets.PromptableSegmenter(
    encoder=nets.ViT(patch=8, width=8, depth=1, num_heads=2, grid=(2, 2), out_width=16),
    prompts=nets.PromptEncoder(width=16, mask_width=8),
    decoder=nets.MaskDecoder(width=16, num_masks=2, depth=1, num_heads=2, mlp_width=8),
    stride=8,
  )
  shape = jax.ShapeDtypeStruct((16, 16, 1), np.float32)
  kinds = jax.eval_shape(nets.promptable(module).init, jax.random.key(0), shape)
  random = np.random.default_rng(0)
  params = jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), kinds)
  head = Head(module, params, 3, 16)
  seen = random.normal(size=(2, 2, 20)).astype(np.float32)
  start = head.start(Kind(), jax.random.key(0), seen)
  own, trained = start["decoder"], params["decoder"]
  assert own["mask_tokens"].shape == (3, 16) and start["neck"]["narrow"]["kernel"].shape[2] == 20
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)  # noqa: E731
  for k in range(3):
    same(own[f"filter{k}"], trained["filter0"])
  same(own["transformer"], trained["transformer"])
  same(own["quality"]["layer1"], trained["quality"]["layer1"])
  logits, quality = jax.eval_shape(head.answer, start, seen)
  assert logits.shape == (16, 16, 3) and quality.shape == (3,)
  scores = jax.jit(head.scores)(start, seen, np.zeros((16, 16), np.int32))
  assert np.isfinite(scores[2]) and scores[0].shape == (2,)


def test_kinds_of_tissue_have_one_mean_and_one_spread():
  random = np.random.default_rng(0)
  drawn = np.stack([tissue_quilts.texture(k, 64, random) for k in range(5)])
  np.testing.assert_allclose(drawn.mean((1, 2)), 0, atol=0.02)
  np.testing.assert_allclose(drawn.std((1, 2)), 1.02, atol=0.08)
  own = tissue_quilts.quilts(6, 32, 0)
  assert own.image.min() >= 0 and own.image.max() <= 1
  assert all(len(np.unique(x)) >= 2 for x in own.label)


def test_one_file_of_weights_is_refused():
  with pytest.raises(check.InputError, match="two files of weights, or none"):
    sam_path.Config(segmenter="a.safetensors")


def test_pictures_that_are_not_square_are_refused(tmp_path):
  root = nnunet(tmp_path / "wide", shape=(6, 5))
  with pytest.raises(check.InputError, match="square pictures of 1 or 3 channels"):
    tissue_quilts.folder(root, "")
