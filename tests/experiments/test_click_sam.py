"""Sessions of clicks with a network that is known, people's clicks, and pictures at two scales."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import click_sam, click_sets, painted_prompts, prompt_mosaics
from experiments.click_trials import Asked
from medjax import check, metrics, nets
from medjax.nets import MaskOutput
from tests.data.folders import write_json

SIDE = 16


class Painter:
  """Answers with squares of 5 x 5 around clicks: what a session does can be counted by hand."""

  def decode(self, params, embedding, prompts):
    del params, embedding
    y, x = np.mgrid[:SIDE, :SIDE]
    score = jnp.full((SIDE, SIDE), -1.0)
    for token in range(prompts.labels.shape[0]):  # a later click paints over an earlier one
      label, place = prompts.labels[token], prompts.coordinates[token]
      own = jnp.maximum(abs(x - place[0]), abs(y - place[1])) <= 2
      score = jnp.where(own & (label >= 0), 2.0 * label - 1, score)
    return MaskOutput(score[..., None], jnp.zeros(1))


def asked():
  one = Asked(nets.mini_promptable(num_masks=1), SIDE, 4, 2)
  one.decode = Painter().decode
  return one


def test_a_session_clicks_at_the_largest_error_and_holds_what_is_right():
  truth = np.zeros((1, SIDE, SIDE), bool)
  truth[0, 2:7, 2:7] = truth[0, 9:14, 8:13] = True
  sessions = asked().sessions()
  nobody = np.zeros(1)
  found = sessions["simulated"](None, np.zeros((1, 1)), truth, nobody, nobody)
  np.testing.assert_allclose(found, [[0.5, 1, 1, 1]])  # two squares, a click each, then no error
  assert metrics.clicks_needed(found, 0.85).number.tolist() == [2]
  places = np.array([[[10, 11], [4, 4], [12, 2]]], np.float32)
  labels = np.array([[1, 1, 0]], np.int32)
  people = sessions["people"](None, np.zeros((1, 1)), truth, places, labels)
  np.testing.assert_allclose(people, [[0.5, 1, 1, 1]])  # beside the objects it takes nothing away


def test_clicks_needed_refuses_what_is_no_overlap():
  with pytest.raises(check.InputError, match=r"overlaps in \[0, 1\]"):
    metrics.clicks_needed(np.array([[0.2, np.nan]]), 0.8)


def test_blobs_at_twice_the_scale_have_half_the_border():
  border = []
  for scale in (1, 2):
    own = click_sets.blobs(12, 64, scale, 0)
    assert own.image.shape == (12, 64, 64, 1) and 0 <= own.image.min() and own.image.max() <= 1
    assert (0.15 < own.mask.mean((1, 2))).all() and (own.mask.mean((1, 2)) < 0.65).all()
    border.append(np.abs(np.diff(own.mask, axis=1)).sum() / own.mask.sum() ** 0.5)
  assert 1.5 < border[0] / border[1] < 2.6


def test_middles_of_scribbles_are_clicks_on_them(tmp_path):
  drawn = np.zeros((1, 3, 2, 32, 32), bool)
  drawn[0, 0, 0, 8:11, 4:21] = True  # a bar whose middle is (12, 9)
  drawn[0, 0, 1, 28, 2:5] = True
  drawn[0, 1, 0, 2, 2] = drawn[0, 2, 0, 3, 3] = True
  label = np.zeros((1, 32, 32), np.uint8)
  label[0, 4:16, 4:24] = 1
  np.savez(
    tmp_path / "own.npz", images=label * 200, labels=label, dataset=np.array(["A"]),
    case=np.array(["one"]), scribbles_packed=np.packbits(drawn, axis=-1),
  )  # fmt: skip
  own = click_sets.scribbles(tmp_path / "own.npz", 16)
  assert own.labels[0, 0].tolist() == [1, 0, -2, -2, -2] and own.subjects == ("A one",)
  np.testing.assert_allclose(own.places[0, 0, 0], [(12 + 0.5) / 2 - 0.5, (9 + 0.5) / 2 - 0.5])
  assert own.mask[0].sum() == 6 * 10


def test_clicks_anywhere_need_the_decoder_that_they_are_asked_of():
  with pytest.raises(check.InputError, match="modified before random"):
    click_sam.Config(arms=("decoder", "random"))


def test_a_painted_prompt_shows_clicks_over_the_last_answer():
  last = jnp.full((SIDE, SIDE, 1), 20.0)
  places, labels = jnp.array([[3.0, 4.0], [12.0, 11.0], [9.0, 9.0]]), jnp.array([1, 0, -2])
  mask = painted_prompts.painted(nets.Prompts(places, labels, last), SIDE, SIDE).mask[..., 0]
  assert (mask[4, 3], mask[11, 12]) == (8, -8) and mask[15, 0] == 4  # half of the last answer's 8
  # On a grid of half the side pixel (x, y) lies at (x - 0.5) / 2: the disc of 5 pixels is as large.
  mask = painted_prompts.painted(nets.Prompts(places[:1], labels[:1]), SIDE, SIDE // 2).mask[..., 0]
  y, x = np.mgrid[: SIDE // 2, : SIDE // 2]
  np.testing.assert_array_equal(mask > 0, np.hypot(2 * x + 0.5 - 3, 2 * y + 0.5 - 4) <= 5)


def test_an_answer_is_what_the_decoder_adds_to_the_painted_prompt():
  one = asked()
  silent = lambda *given: MaskOutput(jnp.zeros((SIDE, SIDE, 1)), jnp.zeros(1))  # noqa: E731
  decode = painted_prompts.refined(one.net._replace(decode=silent), SIDE)
  click = nets.Prompts(jnp.array([[3.0, 4.0]]), jnp.array([1]))
  found = decode({}, jnp.zeros((SIDE // 4, SIDE // 4, 1)), click).logits[..., 0]
  assert found[4, 3] == 2 and found[15, 15] == 0


def test_attention_that_prefers_equal_places_has_queries_that_are_its_keys():
  own = {"layer0_to_image": 1.0, "layer0_self": 2.0, "last_to_image": 3.0, "layer1_to_tokens": 4.0}
  kinds = {
    k: {"query": {"kernel": v, "bias": 0.0}, "key": {"kernel": 5 * v}} for k, v in own.items()
  }
  found = painted_prompts.local({"decoder": {"transformer": kinds}})["decoder"]["transformer"]
  kernels = {name: own["query"]["kernel"] for name, own in found.items()}
  assert kernels == {"layer0_to_image": 15, "layer0_self": 2, "last_to_image": 45,
                     "layer1_to_tokens": 60}  # fmt: skip


def test_pictures_for_clicks_are_half_quilts_and_every_object_is_seen():
  own = prompt_mosaics.by_clicks(24, 32, 0)
  assert own["image"].shape[1:] == (32, 32, 1) and own["mask"].shape[0] == len(own["image"])
  assert (own["mask"].sum((1, 2)) >= 12).all() and not own["mask"].all((1, 2)).any()
  assert 0 <= own["image"].min() and own["image"].max() <= 1


@pytest.mark.parametrize(("change", "said"), [
  ({"case": None}, "arrays .* in own.npz"),
  ({"labels": np.zeros((1, 32, 32), np.uint8)}, "targets of 12 pixels at 16 x 16, got none"),
  ({"labels": np.ones((1, 32, 30), np.uint8)}, "labels and images of one shape"),
  ({"images": np.ones((1, 40, 40), np.uint8)}, "n a multiple of 16"),
  ({"scribbles_packed": np.zeros((1, 2, 2, 32, 4), np.uint8)}, "scribbles of 3 annotators"),
])  # fmt: skip
def test_scribbles_that_do_not_fit_end_in_one_line(tmp_path, change, said):
  whole = {
    "images": np.ones((1, 32, 32), np.uint8), "labels": np.ones((1, 32, 32), np.uint8),
    "scribbles_packed": np.zeros((1, 3, 2, 32, 4), np.uint8), "dataset": ["A"], "case": ["one"],
  } | change  # fmt: skip
  np.savez(tmp_path / "own.npz", **{k: x for k, x in whole.items() if x is not None})
  with pytest.raises(check.InputError, match=said) as found:
    click_sets.scribbles(tmp_path / "own.npz", 16)
  assert "\n" not in str(found.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path):
  (tmp_path / "own.npz").write_text("images")
  with pytest.raises(check.InputError, match="an npz file .*own.npz, got another file"):
    click_sets.scribbles(tmp_path / "own.npz", 16)


def test_half_a_file_of_scribbles_is_called_damaged(tmp_path):
  path = tmp_path / "own.npz"
  np.savez(path, images=np.ones((1, 32, 32), np.uint8))
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(check.InputError, match="readable npz file .*own.npz, got a damaged one"):
    click_sets.scribbles(path, 16)


def nuclei_folder(root):
  """Two pictures of 40 x 48 with one nucleus of 10 x 12 each; the second has no numbers."""
  random = np.random.default_rng(0)
  mask = np.zeros((40, 48), np.uint8)
  mask[16:26, 18:30] = 1
  for folder in ("imagesTr", "labelsTr", "instancesTr"):
    (root / folder).mkdir(parents=True)
  for name in "ab":
    picture = random.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(picture).save(root / "imagesTr" / f"{name}_0000.png")
    Image.fromarray(mask).save(root / "labelsTr" / f"{name}.png")
  Image.fromarray(mask).save(root / "instancesTr" / "a.png")
  write_json(root, channels=("R", "G", "B"), labels={"background": 0, "nucleus": 1}, ending=".png")
  return root


def test_pictures_without_nuclei_to_click_at_are_refused(tmp_path):
  root = nuclei_folder(tmp_path / "nuclei")
  with pytest.raises(check.InputError, match="a file .*b.png, got nothing there"):
    click_sets.nuclei(root, 32, 1, 6, "")
  mask = np.asarray(Image.open(root / "instancesTr" / "a.png"))
  Image.fromarray(0 * mask).save(root / "instancesTr" / "b.png")  # an empty picture is passed over
  own = click_sets.nuclei(root, 32, 2, 6, "")
  assert own.mask.shape == (1, 32, 32) and own.mask.sum() == 4 * 120 and own.subjects == ("a",)
  with pytest.raises(check.InputError, match="with 64 x 64 pixels of picture around one, got none"):
    click_sets.nuclei(root, 64, 1, 6, "")
