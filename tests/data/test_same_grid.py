"""Two files belong together if their corners do: one rule for every reader of images and labels."""

import nibabel
import numpy as np
import pytest

from medjax.check import InputError
from medjax.data import Preprocessing, mslesseg
from medjax.data.formats.nifti import write_nifti
from medjax.data.formats.volume import Volume, check_same_grid
from medjax.data.sets import cases
from medjax.data.sets.mnms import MnMs
from medjax.data.sets.nnunet import NnUNetFolder
from medjax.metrics import __main__ as measure
from medjax.synth import __main__ as simulate
from tests.data import folders

SHAPE = (512, 4, 2)


def grid(spacing, angle=0.0, shift=0.0):
  turn = np.eye(4)
  turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  affine = turn @ np.diag([*spacing, 1.0])
  affine[0, 3] = shift
  return affine


FIRST = grid((358 / 512, 358 / 512, 3))
OTHERS = {  # every entry of the affine agrees within .01, or the shape alone does
  "360 mm instead of 358 mm": grid((360 / 512, 360 / 512, 3)),
  "turned by .8 degrees": grid((358 / 512, 358 / 512, 3), angle=0.014),
  "40 mm away": grid((358 / 512, 358 / 512, 3), shift=40.0),
  "mirrored": np.diag([-1.0, 1.0, 1.0, 1.0]) @ FIRST,
}
VOXELS = np.zeros(SHAPE, np.uint8)
VOXELS[9] = 1


def save(path, affine, array=VOXELS):
  path.parent.mkdir(parents=True, exist_ok=True)
  write_nifti(path, array, affine)


def of_a_label(root, affine):
  folders.nnunet(root / "set", ("a",), affine=FIRST)
  save(root / "set/imagesTr/a_0000.nii.gz", FIRST, VOXELS.astype(np.float32))
  save(root / "set/labelsTr/a.nii.gz", affine, 3 * VOXELS)
  NnUNetFolder(root / "set")[0]


def of_channels(root, affine):
  save(root / "a_0000.nii.gz", FIRST)
  save(root / "a_0001.nii.gz", affine)
  how = Preprocessing(("T1", "T2"), ("b", "o"), (0, 1), None, ({"name": "none"},) * 2)
  (case,) = cases.find_cases(root, how)
  cases.read_case(case)


def of_heart_cines(root, affine):
  (root / "info.csv").write_text("External code,VendorName,Vendor,Centre,ED,ES\nA1,S,A,1,0,1\n")
  cine = np.stack([VOXELS, VOXELS], axis=-1)
  save(root / "A1/A1_sa.nii.gz", FIRST, cine.astype(np.float32))
  save(root / "A1/A1_sa_gt.nii.gz", affine, cine)
  MnMs(root)[0]


def of_lesions(root, affine):
  save(root / "train/P1/T1/P1_T1_FLAIR.nii.gz", FIRST, VOXELS.astype(np.float32))
  save(root / "train/P1/T1/P1_T1_MASK.nii.gz", affine)
  mslesseg(root)[0]


def of_predictions(root, affine):
  save(root / "predictions/a.nii.gz", FIRST)
  save(root / "truth/a.nii.gz", affine)
  measure.run(measure.Config(root / "predictions", root / "truth"))


def of_a_simulation(root, affine):
  save(root / "a.nii.gz", FIRST, VOXELS.astype(np.float32))
  save(root / "label.nii.gz", affine)
  words = (root / "a.nii.gz", root / "out.nii.gz")
  simulate.run(simulate.Config(*words, site="research-t1", labels=root / "label.nii.gz"))


READERS = [of_a_label, of_channels, of_heart_cines, of_lesions, of_predictions, of_a_simulation]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("other", OTHERS)
def test_every_reader_refuses_files_on_two_grids(tmp_path, read, other):
  with pytest.raises(InputError, match="on one grid, corners at most 0.0[67].* mm apart, got"):
    read(tmp_path, OTHERS[other])


def test_the_distance_is_that_of_the_far_corner():
  one, two = (Volume(VOXELS, affine, (0.7, 0.7, 3.0)) for affine in (np.eye(4), np.eye(4)))
  two.affine[0, 0] = 1.001  # 511.5 voxels beyond the origin
  with pytest.raises(InputError, match=r"got 0.511 mm"):
    check_same_grid("a", one, "b", two)
  two.affine[0, 0] = 1.0001
  check_same_grid("a", one, "b", two)
  two.affine[:] = np.diag([1.0, 1.0, -1.0, 1.0])
  with pytest.raises(InputError, match="got 3 mm"):
    check_same_grid("a", one, "b", two)


def test_rounding_of_headers_is_no_other_grid():
  """Voxel sizes to four decimals of a mm, and 32-bit numbers."""
  exact = grid((0.703125, 0.703125, 3.0), angle=0.3)
  for rounded in (exact.round(4), exact.astype(np.float32)):
    spacing = tuple(nibabel.affines.voxel_sizes(exact).tolist())
    check_same_grid("a", Volume(VOXELS, exact, spacing), "b", Volume(VOXELS, rounded, spacing))


def test_one_slice_has_a_direction():
  plane = Volume(VOXELS[..., :1], np.eye(4), (1.0, 1.0, 1.0))
  with pytest.raises(InputError, match="got 1 mm"):
    check_same_grid("a", plane, "b", plane._replace(affine=np.diag([1.0, 1.0, -1.0, 1.0])))
