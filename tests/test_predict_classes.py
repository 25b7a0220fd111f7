"""Pictures through classifiers: the table, names of classes, what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from medjax import cli, loading, predict
from medjax.check import InputError
from medjax.data import ClassFolders, Preprocessing
from medjax.data.manifest import file_digest
from medjax.inference import Member
from medjax.metrics import case_table
from medjax.predict_classes import predict_classes
from medjax.types import Model

GREYS = {"a.png": 30, "deep/b.PNG": 200, "deep/c.jpg": 120}


def reader(params, image, **options):
  """Logit of class 1 is how far the mean is above params."""
  del options
  return 4 * (image.mean() - params) * jnp.array([-1.0, 1.0]), {}


def member(threshold=0.5, answers="classes"):
  model = Model(lambda key, image: (jnp.float32(0), {}), reader)
  how = Preprocessing.of_pictures(("dark", "bright"), ("grey",), (6, 6), answers=answers)
  return Member(model, jnp.float32(threshold), how, "reader")


@pytest.fixture
def folder(tmp_path):
  for name, grey in GREYS.items():
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 9), grey, np.uint8)).save(path)
  return tmp_path / "in"


def test_a_row_a_picture_with_the_mean_over_networks(tmp_path, folder):
  pair = [member(0.3), member(0.6)]
  path = predict_classes(pair, folder, tmp_path / "out", progress=False)
  rows = case_table.read_cases(path)
  assert [row["case"] for row in rows] == ["a.png", "deep/b.PNG", "deep/c.jpg"]
  for row, grey in zip(rows, GREYS.values(), strict=True):
    odds = [4 * (grey / 255 - t) for t in (0.3, 0.6)]
    want = np.mean([1 / (1 + np.exp(-2 * o)) for o in odds])
    np.testing.assert_allclose(row["probability/bright"], want, atol=1e-2)  # jpeg rounds
    np.testing.assert_allclose(row["probability/dark"] + row["probability/bright"], 1, atol=1e-6)
    assert row["class"] == ("bright" if want > 0.5 else "dark")
  with pytest.raises(InputError, match="pass --overwrite"):
    predict_classes(pair, folder, tmp_path / "out", progress=False)


def test_findings_have_a_probability_each(tmp_path, folder):
  path = predict_classes(
    [member(answers="findings")], folder / "a.png", tmp_path / "out", progress=False
  )
  (row,) = case_table.read_cases(path)
  odds = 4 * (30 / 255 - 0.5)
  np.testing.assert_allclose(row["probability/bright"], 1 / (1 + np.exp(-odds)), rtol=1e-4)
  assert "class" not in row and row["case"] == "a.png"


def test_a_bad_picture_is_named_and_the_others_are_written(tmp_path, folder):
  (folder / "bad.png").write_bytes(b"x")
  with pytest.raises(InputError, match="got 1 that cannot: bad.png .*the other 3 are in"):
    predict_classes([member()], folder, tmp_path / "out", progress=False)
  assert len(case_table.read_cases(tmp_path / "out" / "predictions.csv")) == 3


def test_prediction_sees_the_pixels_of_training(folder, tmp_path):
  for name in ("x", "y"):
    (tmp_path / "train" / name).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train" / name / "1.png")
  trained = ClassFolders(tmp_path / "train", size=(6, 6))[0].image

  def looks(params, image, **options):
    return jnp.stack([image.mean(), (image**2).mean()]) + params, {}

  spy = member()._replace(model=Model(lambda key, image: (0, {}), looks), params=jnp.float32(0))
  path = predict_classes([spy], tmp_path / "train" / "x", tmp_path / "out", progress=False)
  (row,) = case_table.read_cases(path)
  logits = np.array([trained.mean(), (trained**2).mean()])
  want = np.exp(logits) / np.exp(logits).sum()
  np.testing.assert_allclose(row["probability/dark"], want[0], rtol=1e-5)


def test_the_command_line_predicts_with_a_saved_classifier(tmp_path, folder, capsys):
  import jax

  from medjax import nets
  from medjax.nets import spec

  network = nets.SmallCNN(num_outputs=2) if "SmallCNN" in spec.CLASSES else None
  network = network or nets.DenseNet(
    num_outputs=(2,), num_layers=(1,), growth=2, width=2, norm="group"
  )
  params, _ = nets.from_linen(network).init(jax.random.key(0), jnp.zeros((32, 32, 1)))
  how = Preprocessing.of_pictures(("dark", "bright"), ("grey",), (32, 32))
  assert Preprocessing.from_dict(json.loads(json.dumps(how.to_dict()))) == how
  run = tmp_path / "run"
  loading.save_member(run / "weights" / "plain-0.safetensors", params, how, network=network)
  digest = file_digest(folder / "a.png")
  (run / "config.json").write_text(json.dumps({"data": {"files": {"x/a.png": digest}}}))
  words = ["--run", run, "--input", folder, "--output", tmp_path / "out"]
  cli.command(predict.Config, predict.run, None, args=[str(w) for w in words])
  assert "1 of these pictures belong to the data set of the training" in capsys.readouterr().out
  rows = case_table.read_cases(tmp_path / "out" / "predictions.csv")
  assert [row["of_the_training"] for row in rows] == ["yes", "no", "no"]
