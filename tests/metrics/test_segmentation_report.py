"""The report: equal to the functions one by one, counts of cases, the voxel that is worst."""

import math

import numpy as np
import pytest

from medjax.check import InputError
from medjax.metrics import case_table, panel, report
from medjax.metrics.overlap import dice, jaccard
from medjax.metrics.surface_distance import hausdorff

SHAPE, SPACING = (16, 14), (1.0, 2.0)


def squares(**corners):
  """Class k=(row, column) is a 4 x 4 square there."""
  found = np.zeros(SHAPE, np.int32)
  for k, (row, column) in corners.items():
    found[row : row + 4, column : column + 4] = int(k[1:])
  return found


CASES = {
  "both": (squares(c1=(1, 1), c2=(9, 8)), squares(c1=(3, 1), c2=(9, 7))),
  "missed": (squares(c1=(1, 1)), squares(c1=(1, 2), c2=(8, 8))),
  "invented": (squares(c1=(1, 1), c2=(8, 8)), squares(c1=(1, 3))),
  "absent": (squares(c1=(1, 1)), squares(c1=(1, 1))),
}


def measured(**settings):
  predictions, targets = zip(*CASES.values(), strict=True)
  names, classes = list(CASES), ("background", "left", "right")
  settings = {"num_classes": 3, "spacing": SPACING, "class_names": classes} | settings
  return report.segmentation_report(iter(predictions), iter(targets), names=names, **settings)


def test_rows_hold_what_the_functions_say(tmp_path):
  found = measured(empty="diagonal")
  for row, (name, (prediction, target)) in zip(found.rows, CASES.items(), strict=True):
    assert row["case"] == name
    settings = {"num_classes": 3, "spacing": SPACING}
    expected = {
      "dice": dice(prediction, target, **settings),
      "jaccard": jaccard(prediction, target, **settings),
      "hausdorff": hausdorff(prediction, target, empty="diagonal", **settings),
    }
    for metric, values in expected.items():
      got = [row[f"{metric}/{structure}"] for structure in ("left", "right")]
      np.testing.assert_allclose(got, values)
    assert row["voxels_true/left"] == 16
  case_table.write_cases(tmp_path / "cases.csv", found.rows)
  again = case_table.read_cases(tmp_path / "cases.csv")
  np.testing.assert_equal(report.summarise(again), found.summary)


@pytest.mark.parametrize("empty", ["inf", "nan", "diagonal"])
def test_means_say_which_cases_they_leave_out(empty):
  """The right structure: 2 mm off in one case; the diagonal is hypot(16, 28) mm."""
  found = measured(empty=empty)
  right = {r["metric"]: r for r in found.summary if r["structure"] == "right"}
  for row in right.values():
    assert [row[name] for name in ("absent", "missed", "invented")] == [1, 1, 1]
  assert right["dice"]["used"] == 3
  assert right["dice"]["mean"] == pytest.approx((0.75 + 0 + 0) / 3)
  far = right["hausdorff"]
  if empty == "diagonal":
    assert far["used"] == 3
    assert far["mean"] == pytest.approx((2 + 2 * math.hypot(16, 28)) / 3)
  else:
    assert (far["used"], far["mean"]) == (1, 2)
  left = next(r for r in found.summary if r["metric"] == "hausdorff" and r["structure"] == "left")
  assert (left["used"], left["mean"]) == (4, pytest.approx((2 + 2 + 4 + 0) / 4))


def test_the_worst_voxel_is_the_one_that_decides():
  """A speck far from the truth, on either side; coordinates are those of the whole image."""
  rng = np.random.default_rng(0)
  for side, surface in enumerate(("prediction", "target")):
    maps = np.zeros((2, 20, 18, 10), np.int32)
    maps[:, 3:9, 4:9, 3:6] = 1
    speck = tuple(int(n) for n in rng.integers([12, 12, 7], [20, 18, 10]))
    maps[(side, *speck)] = 1
    spacing = (1.0, 0.5, 3.0)
    found = report.segmentation_report([maps[0]], [maps[1]], num_classes=2, spacing=spacing)
    (place,) = found.worst
    assert (place.voxel, place.surface) == (speck, surface)
    away = np.maximum(np.array(speck) - [8, 8, 5], 0) * spacing
    assert place.distance_mm == pytest.approx(np.linalg.norm(away))
    picture = panel.worst_picture(*maps, class_id=1, spacing=spacing, voxel=place.voxel)
    assert picture.dtype == np.uint8 and picture.shape[-1] == 3
    assert 250 < max(picture.shape) < 400
    assert (picture == 255).all(-1).any()  # the frame


def test_a_missed_structure_is_shown_where_it_is():
  found = measured()
  (place,) = (w for w in found.worst if (w.case, w.structure) == ("missed", "right"))
  prediction, target = CASES["missed"]
  assert math.isinf(place.distance_mm) and place.surface == "target"
  assert target[place.voxel] == 2
  picture = panel.worst_picture(prediction, target, class_id=2, spacing=SPACING, voxel=place.voxel)
  height, width = (picture.shape[0] / SPACING[0], picture.shape[1] / SPACING[1])
  assert height == pytest.approx(width, rel=0.2)  # voxels are drawn in their proportions
  assert len([w for w in found.worst if w.structure == "right"]) == 3  # none where absent


def test_a_spacing_a_case():
  maps = CASES["both"]
  settings = {"num_classes": 3, "names": ["fine", "coarse"]}
  spacings = [(1.0, 1.0), (3.0, 3.0)]
  fine, coarse = report.segmentation_report(
    [maps[0]] * 2, [maps[1]] * 2, spacing=spacings, **settings
  ).rows
  assert coarse["assd/class_1"] == pytest.approx(3 * fine["assd/class_1"])


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"targets": []}, "as many predictions as targets"),
    ({"predictions": [], "targets": []}, "at least one case"),
    ({"targets": [np.zeros((3, 3), int)]}, "prediction of a and its target of one shape"),
    ({"predictions": [np.full(SHAPE, 3)]}, r"class ids 0..2 in the prediction of a"),
    ({"targets": [np.zeros(SHAPE)]}, "integer labels in the target of a"),
    ({"names": []}, "names for every case"),
    ({"class_names": ["background"]}, "3 class names"),
    ({"empty": "zero"}, "empty to be one of"),
  ],
)
def test_bad_input_names_the_case(change, message):
  given = {"predictions": [squares()], "targets": [squares(c1=(1, 1))], "names": ["a"]}
  given |= {"num_classes": 3, "spacing": SPACING} | change
  with pytest.raises(InputError, match=message):
    report.segmentation_report(given.pop("predictions"), given.pop("targets"), **given)
