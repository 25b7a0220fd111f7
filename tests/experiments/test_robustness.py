"""The command over a run: rows for every cell, with a network whose answer is known."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import robustness, trap_sets
from medjax import check
from medjax.data import Preprocessing
from medjax.inference import Member
from medjax.metrics import case_table
from medjax.types import Model


def threshold(params, image, **options):
  """Foreground where a picture is brighter than the parameter."""
  del options
  return jnp.concatenate([params - image, image - params], -1) * 100, {}


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / "set"
  for part in ("imagesTr", "labelsTr"):
    (root / part).mkdir(parents=True)
  for i in range(2):
    label = np.zeros((12, 10), np.uint8)
    label[3:8, 2 + i : 7] = 1
    Image.fromarray(40 + 150 * label).save(root / "imagesTr" / f"p{i}_0000.png")
    Image.fromarray(label).save(root / "labelsTr" / f"p{i}.png")
  about = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "object": 1},
           "numTraining": 2, "file_ending": ".png"}  # fmt: skip
  (root / "dataset.json").write_text(json.dumps(about))
  return root


def test_every_cell_is_scored_and_brightness_is_what_breaks_a_threshold(
  folder, tmp_path, monkeypatch, capsys
):
  preprocess = Preprocessing(
    ("grey",), ("background", "object"), (0, 1), None, ({"name": "none"},), file_ending=".png",
    patch=(12, 10),
  )  # fmt: skip
  model = Model(lambda key, image: (jnp.zeros(()), {}), threshold)
  member = Member(model, jnp.float32(100.0), preprocess, "reader")
  monkeypatch.setattr(robustness, "load_members", lambda path, names: (member,))
  out = tmp_path / "out"
  robustness.run(
    robustness.Config(
      tmp_path, folder, out, corruptions=("contrast", "brightness"), severities=(1, 5)
    )
  )
  rows = case_table.read_cases(out / "robustness.csv")
  assert len(rows) == 2 * (1 + 2 * 2)
  found = json.loads((out / "robustness.json").read_text())["dice/object"]
  assert found["none"]["0"] == found["brightness"]["1"] == 1
  # At severity 5 the background of 40 becomes 40 + .5 * 150 = 115, above the threshold of 100.
  shares = [2 * n / (n + 120) for n in (25, 20)]
  assert found["brightness"]["5"] == pytest.approx(np.mean(shares))
  assert "dice/object: 1.000 as it is" in capsys.readouterr().out


def test_slices_of_a_volume_share_a_draw_and_severity_0_is_the_image():
  volume = np.repeat(np.random.default_rng(0).normal(size=(8, 7, 1, 1)), 3, axis=2)
  found = robustness.spoiled(volume, "noise", 2, seed=0, index=1)
  np.testing.assert_array_equal(found[:, :, 0], found[:, :, 2])
  assert robustness.spoiled(volume, "noise", 0, seed=0, index=1) is volume
  other = robustness.spoiled(volume, "noise", 2, seed=0, index=2)
  assert not np.allclose(found, other)


@pytest.fixture
def artefacts(tmp_path):
  """One ruler: a bright bar over the left half of a dark picture."""
  root = tmp_path / "artefacts"
  (root / "templates" / "one").mkdir(parents=True)
  about = {"artefacts": [{"name": "one", "class": "ruler"}]}
  (root / "meta.json").write_text(json.dumps(about))
  plain = np.full((6, 8, 3), 100, np.uint8)
  ruled = plain.copy()
  ruled[:, :4] = 202  # .4 brighter
  Image.fromarray(plain).save(root / "templates" / "one" / "a_without_b.png")
  Image.fromarray(ruled).save(root / "templates" / "one" / "a_with_b.png")
  return root


def test_an_artefact_gets_more_opaque_at_every_pixel_and_is_whole_at_severity_5(artefacts):
  pairs = trap_sets.artefact_pairs(artefacts, ("ruler",))
  image = 50 * np.linspace(0, 1, 6 * 8 * 3).reshape(6, 8, 3) + 7  # intensities of any unit
  found = np.stack([robustness.overlaid(image, pairs, s, 0, 0) for s in range(6)])
  np.testing.assert_allclose(found[0], image)
  assert (np.diff(np.abs(found - image), axis=0) >= -1e-9).all()
  share = (found[5] - 7) / 50
  np.testing.assert_allclose(share[:, :4], np.minimum((image[:, :4] - 7) / 50 + 0.4, 1), atol=1e-5)
  np.testing.assert_allclose(found[5][:, 4:], image[:, 4:], atol=1e-4)
  with pytest.raises(check.InputError, match="pictures of 1 or 3 channels for artefacts"):
    robustness.overlaid(np.zeros((4, 4, 4, 1)), pairs, 1, 0, 0)
  with pytest.raises(check.InputError, match="artefacts of the class bubble"):
    trap_sets.artefact_pairs(artefacts, ("bubble",))
