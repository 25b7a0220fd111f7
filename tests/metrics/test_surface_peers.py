"""Surface metrics equal those of medpy, MONAI and DeepMind's surface-distance (tests/oracles)."""

import json
import pathlib

import jax
import numpy as np
import pytest

from medjax.metrics import report
from medjax.metrics.surface_distance import assd, hausdorff, hd95
from medjax.metrics.surface_overlap import surface_dice
from tests import oracles
from tests.oracles import masks

FOLDER = pathlib.Path(oracles.__file__).parent
VALUES = json.loads((FOLDER / "surface_values.json").read_text())["pairs"]
PAIRS = masks.pairs()


@pytest.mark.parametrize("name", PAIRS)
def test_every_figure_equals_that_of_each_peer(name):
  pair, peers = PAIRS[name], dict(VALUES[name])
  assert peers.pop("voxels") == [mask.sum() for mask in pair[:2]]  # the recipe is the same
  found = report.segmentation_report(
    [pair.prediction.astype(int)],
    [pair.target.astype(int)],
    num_classes=2,
    spacing=pair.spacing,
    tolerance_mm=masks.TOLERANCE_MM,
  )
  for peer, figures in peers.items():
    for figure, value in figures.items():
      got = found.rows[0][f"{figure}/class_1"]
      assert got == pytest.approx(value, rel=2e-6, abs=2e-6), (peer, figure)


def test_variants_differ_and_functions_are_named_as_in_the_design():
  """With thick slices the three definitions of HD95 are far apart; each function gives its own."""
  pair, peers = PAIRS["3D thick slices"], VALUES["3D thick slices"]
  maps = [mask.astype(np.int32) for mask in pair[:2]]
  settings = {"num_classes": 2, "spacing": pair.spacing}
  expected = {
    "pooled": peers["medpy"]["hd95_pooled"],
    "max_directed": peers["monai"]["hd95_max_directed"],
    "surfel": peers["deepmind"]["hd95_surfel"],
  }
  assert expected["max_directed"] > 1.5 * expected["pooled"]
  for variant, value in expected.items():
    assert hd95(*maps, variant=variant, **settings) == pytest.approx(value, rel=2e-6)
  assert hausdorff(*maps, **settings) == pytest.approx(peers["medpy"]["hausdorff"], rel=2e-6)
  assert assd(*maps, **settings) == pytest.approx(peers["medpy"]["assd"], rel=2e-6)
  for variant in ("voxel", "surfel"):
    got = surface_dice(*maps, tolerance_mm=masks.TOLERANCE_MM, variant=variant, **settings)
    assert got == pytest.approx(peers["monai"][f"surface_dice_{variant}"], rel=2e-6)


def test_under_jit_with_a_traced_spacing_all_is_the_same():
  pair, peers = PAIRS["3D thick slices"], VALUES["3D thick slices"]

  @jax.jit
  def measured(prediction, target, spacing):
    settings = {"num_classes": 2, "spacing": spacing}
    dice = {"tolerance_mm": masks.TOLERANCE_MM, "variant": "surfel"}
    return {
      "hd95_max_directed": hd95(prediction, target, variant="max_directed", **settings),
      "hd95_surfel": hd95(prediction, target, variant="surfel", **settings),
      "assd": assd(prediction, target, **settings),
      "surface_dice_surfel": surface_dice(prediction, target, **settings, **dice),
    }

  maps = [mask.astype(np.int32) for mask in pair[:2]]
  found = measured(*maps, np.float32(pair.spacing))
  figures = {k: v for peer in ("medpy", "monai", "deepmind") for k, v in peers[peer].items()}
  for figure, value in found.items():
    assert value == pytest.approx(figures[figure], rel=5e-6), figure
