"""SurgicalSAM's parts: scenes, prompts, boxes as answers, Dice of objects, what is taken over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import prompt_free, prompt_mosaics, spoiled_answers, surgical_sam
from medjax import check, data, nets, tree


def test_scenes_are_their_seeds_and_instruments_come_in_from_the_border():
  scenes, again = (data.instrument_scenes(6, 48, seed=3) for _ in range(2))
  for i in range(6):
    image, label = np.asarray(scenes[i].image), np.asarray(scenes[i].label)
    np.testing.assert_array_equal(image, again[i].image)
    assert image.min() >= 0 and image.max() <= 1 and set(np.unique(label)) <= {0, 1, 2, 3}
    edge = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    for kind in np.unique(label[label > 0]):
      assert (edge == kind).any()
    # Metal is grey and tissue is red, also where noise was added.
    redness = image[..., 0] - image[..., 2]
    assert redness[label == 0].mean() > 0.1 > abs(redness[label > 0].mean())
  assert len({len(np.unique(np.asarray(scenes[i].label))) for i in range(6)}) == 2
  with pytest.raises(check.InputError, match="side >= 16"):
    data.instrument_scenes(1, 8, seed=0)


def labels():
  """Two pictures: a bent object of class 2, whose centre of mass lies outside, and two objects."""
  label = np.zeros((2, 16, 16), np.int32)
  label[0, 2:12, 3] = label[0, 11, 3:12] = 2
  label[1, 1:5, 1:5], label[1, 8:12, 6:14] = 1, 3
  return label


def test_every_class_of_a_picture_is_an_object_and_its_click_lies_inside():
  own = prompt_free.objects(labels())
  np.testing.assert_array_equal(own["picture"], [0, 1, 1])
  np.testing.assert_array_equal(own["class"], [2, 1, 3])
  np.testing.assert_array_equal(own["box"], [[3, 2, 11, 11], [1, 1, 4, 4], [6, 8, 13, 11]])
  for mask, (x, y) in zip(own["mask"], own["point"].astype(int), strict=True):
    assert mask[y, x]
  # A box as the answer: the square objects are their boxes, the bent one has 18 pixels of 90.
  found = prompt_free.filled(own["box"], 16)
  dice = spoiled_answers.dice(found, own, 2)
  np.testing.assert_allclose(dice, [2 * 18 / (18 + 90), 1])
  half = found & (np.arange(3) != 1)[:, None, None]  # the second picture misses one of its two
  np.testing.assert_allclose(spoiled_answers.dice(half, own, 2)[1], 0.5)


def test_in_a_mosaic_the_object_lies_in_one_of_four_pictures():
  own = prompt_mosaics.of_many_kinds(32, 0)
  assert own["image"].shape == (*own["mask"].shape, 3) and own["mask"].any((1, 2)).all()
  mosaics = own["mask"][-800:].reshape(-1, 2, 16, 2, 16)
  np.testing.assert_array_equal(mosaics.any((2, 4)).sum((1, 2)), 1)
  assert 0 <= own["image"].min() and own["image"].max() <= 1


def test_boxes_widen_by_a_share_of_the_side_and_stay_inside():
  wide = prompt_free.widened(np.array([[3.0, 2, 11, 15]]), 0.25, 16)
  np.testing.assert_array_equal(wide, [[0, 0, 15, 15]])
  np.testing.assert_array_equal(
    prompt_free.widened(np.array([[6.0, 7, 8, 9]]), 0.125, 16), [[4, 5, 10, 11]]
  )


def test_asking_for_nothing_is_no_prompt_and_a_point_is_a_click():
  box, point = jnp.array([1.0, 2.0, 8.0, 9.0]), jnp.array([4.0, 5.0])
  assert set(np.asarray(prompt_free.asked("none", box, point).labels)) == {nets.IGNORED}
  for kind, wanted in (
    ("box", nets.box_prompt(box)),
    ("point", nets.point_prompt(point[None], jnp.ones(1, jnp.int32))),
  ):
    for found, own in zip(prompt_free.asked(kind, box, point)[:2], wanted[:2], strict=True):
      np.testing.assert_array_equal(found, own)


def test_a_spoiled_picture_is_drawn_once_for_all_severities():
  image = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32)
  found = spoiled_answers.spoiled(image, "brightness", (1, 5), seed=0)
  np.testing.assert_allclose(found[0], np.clip(image + 0.1, 0, 1), atol=1e-6)
  np.testing.assert_allclose(found[1], np.clip(image + 0.5, 0, 1), atol=1e-6)


def test_class_masks_take_over_what_fits_and_low_rank_updates_are_q_and_v_alone():
  problem = prompt_free.Problem(nets.mini_promptable(num_masks=1), 3, 64)
  image = jax.ShapeDtypeStruct((64, 64, 3), jnp.float32)
  shapes = jax.eval_shape(problem.net.init, jax.random.key(0), image)
  params = jax.tree.map(lambda x: np.full(x.shape, 7.0, np.float32), shapes)
  fresh = jax.eval_shape(lambda: problem.fresh(params, jax.random.key(0)))
  assert fresh["decoder"]["mask_tokens"].shape == (4, 64)
  small, _ = problem.take(params, jax.random.key(0), 4)
  names = set(small.factors)
  assert names == {
    f"encoder/block{b}/attention/{part}/kernel" for b in range(2) for part in ("query", "value")
  }
  assert tree.size(small.factors) == 2 * 2 * 4 * (64 + 64)  # q and v of 2 blocks, rank 4
  own = set(tree.named_leaves(small.leaves))
  assert {name for name in tree.named_leaves(params) if name.startswith("decoder/")} < own
  assert own - {"prompts/no_mask"} == {n for n in own if n.startswith("decoder/")}


def test_cells_above_the_severity_before_are_named():
  rows = [
    {"arm": "box", "role": "corrupted", "domain": "noise", "case": f"p noise-{s}",
     "dice/object": value}
    for s, value in ((1, 0.9), (3, 0.5), (5, 0.6))
  ]  # fmt: skip
  found = spoiled_answers.tables(rows)
  assert found["robustness"]["box"]["noise"] == {"1": 0.9, "3": 0.5, "5": 0.6}
  assert found["rises"] == {"box": ["noise 5"]}
  assert surgical_sam.PRESETS["lite"].severities == (1, 3, 5)
