"""Prompts in tables, label maps on the images' own grids, one line where something is wrong."""

import os
import pathlib

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax import adapt, nets, predict, predict_prompts
from medjax.check import InputError
from medjax.inference.prompted import PixelPrompt, Prompted
from medjax.nets import MaskOutput

SIZE = 16
HERE = pathlib.Path(__file__).parent
DATA = pathlib.Path(os.environ.get("MEDJAX_DATA", HERE.parents[1] / "shared" / "data"))
LITE = DATA.parent / "weights" / "lite_medsam.safetensors"


def decode(params, embedding, prompts):
  """Draws the box that it is asked for, surer where the image is bright; mask 0 of two."""
  low, high = prompts.coordinates[0], prompts.coordinates[1]
  y, x = jnp.meshgrid(jnp.arange(float(SIZE)), jnp.arange(float(SIZE)), indexing="ij")
  is_in = (
    (x >= low[0] - 0.01) & (x <= high[0] + 0.01) & (y >= low[1] - 0.01) & (y <= high[1] + 0.01)
  )
  logits = jnp.where(is_in, 1.0 + embedding[..., 0], -1.0) * params["scale"]
  return MaskOutput(jnp.stack([logits, -logits], -1), jnp.array([0.9, 0.1]))


def reader(cache=None, embed=lambda params, image: image):
  params = {"scale": jnp.float32(1.0), "encoder": jnp.zeros(1)}
  return Prompted(embed, decode, params, size=SIZE, channels=3, cache=cache)


def test_middles_of_pixels_stay_middles_whatever_the_scale():
  """A pixel of a 4 x 4 picture is 2 x 2 pixels of the network's 8 x 8, and its middle theirs."""

  def seen(params, embedding, prompts):
    x, y = prompts.coordinates[0]
    return MaskOutput(jnp.zeros((8, 8, 1)), (10 * x + y)[None])

  own = Prompted(lambda params, image: image, seen, {"encoder": jnp.zeros(1)}, size=8, channels=1)
  picture = np.arange(16.0).reshape(4, 4)
  for x, y in ((0, 0), (1, 2), (3, 3)):
    asked = PixelPrompt(np.array([[x, y]], np.float32), np.array([1]))
    _, found = own.masks(own.embedded(picture), [asked])
    assert found[0] == pytest.approx(10 * (2 * x + 0.5) + 2 * y + 0.5)


@pytest.fixture
def pictures(tmp_path):
  folder = tmp_path / "images"
  folder.mkdir()
  draw = np.random.default_rng(0).integers(0, 255, (16, 12), np.uint8)
  Image.fromarray(draw).save(folder / "grey.png")
  Image.fromarray(np.stack([draw] * 3, -1)).save(folder / "colour.png")
  return folder


def table(tmp_path, text):
  path = tmp_path / "asked.csv"
  path.write_text(text)
  return path


def read(path):
  return np.asarray(Image.open(path))


def test_boxes_of_pictures_of_one_and_three_channels(tmp_path, pictures):
  boxes = table(
    tmp_path,
    "case,x_min,y_min,x_max,y_max,label\ngrey,2,3,6,9,7\ngrey,8,0,10,4,2\ncolour,0,0,3,3,1\n",
  )
  predict_prompts.predict_prompts(reader(), pictures, tmp_path / "out", boxes=boxes, progress=False)
  wanted = np.zeros((16, 12), int)
  wanted[3:10, 2:7], wanted[0:5, 8:11] = 7, 2
  np.testing.assert_array_equal(read(tmp_path / "out" / "grey.png"), wanted)
  assert read(tmp_path / "out" / "colour.png").sum() == 16
  rows = (tmp_path / "out" / predict_prompts.TABLE).read_text().splitlines()
  assert rows[0] == "case,slice,label,quality/all,pixels/all"
  assert rows[1].startswith("grey,0,7,0.89") and rows[1].endswith(",35.0")


def test_a_box_in_several_slices_of_a_volume_lies_on_its_axes(tmp_path):
  affine = np.diag([2.0, 3.0, 4.0, 1.0])
  image = np.random.default_rng(0).normal(size=(16, 10, 5)).astype(np.float32)
  nibabel.Nifti1Image(image, affine).to_filename(tmp_path / "scan.nii.gz")
  boxes = table(tmp_path, "case,x_min,y_min,x_max,y_max,z_min,z_max\nscan,9,1,14,4,1,3\n")
  predict_prompts.predict_prompts(
    reader(), tmp_path / "scan.nii.gz", tmp_path / "out", boxes=boxes, progress=False
  )
  found = nibabel.load(tmp_path / "out" / "scan.nii.gz")
  wanted = np.zeros((16, 10, 5))
  wanted[9:15, 1:5, 1:4] = 1
  np.testing.assert_array_equal(found.get_fdata(), wanted)
  np.testing.assert_array_equal(found.affine, affine)


def test_embeddings_are_kept_by_content(tmp_path, pictures):
  boxes = table(tmp_path, "case,x_min,y_min,x_max,y_max\ngrey,2,3,6,9\n")
  cache, calls = tmp_path / "kept", []

  def embed(params, image):
    jax.debug.callback(lambda: calls.append(1))
    return image

  for name in ("one", "two"):
    predict_prompts.predict_prompts(
      reader(cache, embed), pictures, tmp_path / name, boxes=boxes, progress=False
    )
  jax.effects_barrier()
  assert len(calls) == 1
  assert len(list(cache.iterdir())) == 1
  one, two = (read(tmp_path / name / "grey.png") for name in ("one", "two"))
  np.testing.assert_array_equal(one, two)


HEADER = "case,x_min,y_min,x_max,y_max\n"


@pytest.mark.parametrize("text, said", [
  (HEADER + "nobody,1,1,5,5\n", r"a case of the input .*line 2 of .*got 'nobody'"),
  (HEADER + "grey,5,1,5,5\n", r"0 <= x_min < x_max <= 11 .*line 2"),
  (HEADER + "grey,1,1,12,5\n", r"0 <= x_min < x_max <= 11 .*got 1, 1, 12, 5"),
  ("case,x_min,y_min,x_max\ngrey,1,1,5\n", "y_max"),
  (HEADER, "a row in .*asked.csv, got none"),
])  # fmt: skip
def test_bad_boxes_end_in_one_line(tmp_path, pictures, text, said):
  with pytest.raises(InputError, match=said):
    predict_prompts.predict_prompts(
      reader(), pictures, tmp_path / "out", boxes=table(tmp_path, text), progress=False
    )
  assert not (tmp_path / "out").exists()


def test_a_picture_of_other_channels_is_refused_before_anything_is_computed(tmp_path):
  """The folder's first case is fine; nothing of it is left behind."""
  folder, out = tmp_path / "images", tmp_path / "out"
  folder.mkdir()
  for name, channels in (("a", 1), ("b", 5)):
    affine, values = np.eye(4), np.zeros((6, 5, 2, channels), np.float32)
    nibabel.save(nibabel.Nifti1Image(values, affine), folder / f"{name}.nii.gz")
  rows = "".join(f"{name},1,1,3,3,0,1\n" for name in "ab")
  boxes = table(tmp_path, HEADER.strip() + ",z_min,z_max\n" + rows)
  with pytest.raises(InputError, match=r"b.nii.gz, a picture of 1 or 3 channels, got 5"):
    predict_prompts.predict_prompts(reader(), folder, out, boxes=boxes, progress=False)
  assert not out.exists()


def test_a_grid_below_0_is_refused(tmp_path, pictures):
  with pytest.raises(InputError, match="grid"):
    predict_prompts.predict_prompts(reader(), pictures, tmp_path / "out", grid=-1, progress=False)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text, said", [
  ("case,x,y\ngrey,1,1\n", "inside"),
  ("case,x,y,inside\ngrey,1,16,1\n", "a point in 12 x 16 pixels"),
  ("case,x,y,inside\ngrey,1,1,2\n", "inside 0 or 1"),
])  # fmt: skip
def test_bad_points_end_in_one_line(tmp_path, pictures, text, said):
  with pytest.raises(InputError, match=said):
    predict_prompts.read_points(table(tmp_path, text), {"grey": (12, 16)})


def test_points_of_an_object_are_one_prompt(tmp_path):
  text = "case,x,y,inside,object\nscan,1,2,1,a\nscan,5,6,0,a\nscan,3,3,1,b\n"
  (first, second) = predict_prompts.read_points(table(tmp_path, text), {"scan": (12, 16)})["scan"]
  np.testing.assert_array_equal(first.asked.labels, [1, 0, nets.NOT_A_POINT])
  np.testing.assert_array_equal(first.asked.coordinates[:2], [[1, 2], [5, 6]])
  assert (first.label, second.label) == (1, 2)


def test_a_saved_network_and_a_small_file_of_it_answer_a_grid(tmp_path, pictures):
  module = nets.PromptableSegmenter(
    encoder=nets.ViT(patch=8, width=16, depth=1, num_heads=2, grid=(4, 4), out_width=16),
    prompts=nets.PromptEncoder(width=16, mask_width=4),
    decoder=nets.MaskDecoder(width=16, num_masks=2, depth=1, num_heads=2, mlp_width=8),
    stride=8,
  )
  net = nets.promptable(module)
  shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((32, 32, 1)))
  draw = np.random.default_rng(0).normal
  params = jax.tree.map(lambda x: jnp.asarray(draw(size=x.shape), jnp.float32), shapes)
  base, small_file = tmp_path / "weights" / "mini.safetensors", tmp_path / "small.safetensors"
  predict_prompts.save_promptable(base, params, module, size=32, channels=1)
  small, _ = adapt.take(params, trains=adapt.under("decoder/mask_tokens"))
  adapt.save_small(small_file, jax.tree.map(lambda x: x + 1, small), base)
  _, found, size, channels = predict_prompts.load_promptable(tmp_path)
  assert (size, channels) == (32, 1)
  np.testing.assert_array_equal(found["decoder"]["mask_tokens"], params["decoder"]["mask_tokens"])
  _, found, *_ = predict_prompts.load_promptable(small_file, base=base)
  np.testing.assert_array_equal(
    found["decoder"]["mask_tokens"], params["decoder"]["mask_tokens"] + 1
  )
  with pytest.raises(InputError, match="pass them with --base"):
    predict_prompts.load_promptable(small_file)
  config = predict.Config(
    run=(tmp_path,), input=pictures / "grey.png", output=tmp_path / "out", grid=2
  )
  predict.run(config)
  assert read(tmp_path / "out" / "grey.png").shape == (16, 12)


@pytest.mark.slow
@pytest.mark.skipif(not LITE.exists(), reason="LiteMedSAM's weights are not here")
def test_lite_medsam_finds_a_lesion_from_its_box(tmp_path):
  """Real weights on a real picture; with the box of the truth its Dice is .95."""
  name = "benign_010"
  truth = read(DATA / "busi150" / "labelsTr" / f"{name}.png") > 0
  rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
  boxes = table(
    tmp_path,
    f"{HEADER}{name}_0000,{columns[0]},{rows[0]},{columns[-1]},{rows[-1]}\n",
  )
  config = predict.Config(
    run=(LITE,),
    network="lite_medsam",
    input=DATA / "busi150" / "imagesTr" / f"{name}_0000.png",
    output=tmp_path / "out",
    boxes=boxes,
  )
  predict.run(config)
  found = read(tmp_path / "out" / f"{name}_0000.png") > 0
  assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
