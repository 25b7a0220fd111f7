"""Miniature downloads: the layouts of CC359, the six prostate sites, two sets of brains with MS
lesions, CheXpert and ChestX-ray14."""

import pathlib
import shutil
import zipfile

import numpy as np
from PIL import Image

from medjax.data.formats.nifti import write_nifti
from medjax.data.sets.chest import CHEXPERT_CLASSES

PEOPLE = (
  "CC0001_philips_15_55_M",
  "CC0060_philips_3_47_F",
  "CC0120_siemens_15_58_F",
  "CC0181_Siemens_3_44_M",
  "CC0240_ge_15_60_F",
  "CC0301_GE_3_48_M",
)
AFFINE = np.diag([-2.0, 1.0, 1.0, 1.0])  # 2 mm from left to right, stored from right to left
SHAPE = (4, 6, 5)


def voxels(number):
  """A head: a block of brain that is brighter than the rest, other values for each number."""
  mask = np.zeros(SHAPE, np.uint8)
  mask[1:3, 2:5, 1:4] = 1
  mask[0, 0, 0] = 1  # so that left and right differ
  noise = np.random.default_rng(number).integers(0, 50, SHAPE)
  return (noise + 100 * mask).astype(np.int16), mask


def cc359(root, *, zipped):
  """`zipped`: the two archives with a __MACOSX folder, else what is in them."""
  for number, name in enumerate(PEOPLE):
    image, mask = voxels(number)
    for folder, stem, array in (("Original", name, image), ("Silver-standard", f"{name}_ss", mask)):
      (root / folder).mkdir(parents=True, exist_ok=True)
      write_nifti(root / folder / f"{stem}.nii.gz", array, AFFINE)
  if zipped:
    for archive, folder in (
      ("Original.zip", "Original"),
      ("Silver-standard-machine-learning.zip", "Silver-standard"),
    ):
      _zip(root / archive, root / folder)
  return root


def prostate(root, *, cases=2):
  """Folders of the six sites with the capitals that each of them has."""
  for number, (site, end) in enumerate(
    [("RUNMC", "segmentation"), ("BMC", "Segmentation"), ("I2CVB", "segmentation")]
    + [("UCL", "segmentation"), ("bidmc", "segmentation"), ("HK", "SEGMENTATION")]
  ):
    (root / site).mkdir(parents=True)
    for case in range(cases):
      image, mask = voxels(10 * number + case)
      if site in ("RUNMC", "BMC"):
        mask[1, 2, 1] = 2
      write_nifti(root / site / f"Case{case:02d}.nii.gz", image, AFFINE)
      write_nifti(root / site / f"Case{case:02d}_{end}.nii.gz", mask, AFFINE)
  return root


def lesions(number):
  """A mask that is never empty."""
  mask = (np.random.default_rng(number).uniform(size=SHAPE) < 0.3).astype(np.uint8)
  mask[1, 1, 1] = 1
  return mask


def mslesseg(root, *, people=(1, 10, 2), zipped=False):
  """Person 1 at two times, the others at one, and person 54 to test on; scans of unlike voxels."""
  cases = [(f"train/P{n}/T{t}", f"P{n}_T{t}") for n in people for t in (1, 2)[: 2 if n == 1 else 1]]
  for number, (folder, name) in enumerate([*cases, ("test/P54", "P54")]):
    (root / folder).mkdir(parents=True)
    for channel, modality in enumerate(("FLAIR", "T1", "t2")):
      scan = voxels(100 * number + channel)[0]
      write_nifti(root / folder / f"{name}_{modality}.nii.gz", scan, AFFINE)
    write_nifti(root / folder / f"{name}_MASK.nii.gz", lesions(number), AFFINE)
  if zipped:
    for part in ("train", "test"):
      _zip(root / f"{part}.zip", root / part)
  return root


def ljubljana(root, *, people=(1, 2, 11), zipped=False):
  """The cross-sectional part in both spaces, and the other as the archives spell it."""
  for n in people:
    for space in ("cross_sectional/raw", "cross_sectional/coregistered", "longitiudinal/raw"):
      folder = root / space / f"patient{n:02d}"
      folder.mkdir(parents=True)
      for channel, modality in enumerate(("FLAIR", "T1W", "T1WKS", "T2W")):
        scan = voxels(10_000 + 100 * n + channel)[0]
        write_nifti(folder / f"{modality}.nii.gz", scan, AFFINE)
      write_nifti(folder / "consensus_gt.nii.gz", lesions(1000 + n), AFFINE)
      write_nifti(folder / "brainmask.nii.gz", np.ones(SHAPE, np.uint8), AFFINE)
  if zipped:
    _zip(root / "cross_sectional.zip", root / "cross_sectional")
  return root


def chexpert(root):
  """Three patients, five pictures; observations in the order of the table."""
  home = root / "CheXpert-v1.0-small"
  rows = {
    "train": [
      ("patient00001/study1/view1_frontal.jpg", "Frontal", "AP", {"Cardiomegaly": "1.0"}),
      ("patient00001/study2/view1_frontal.jpg", "Frontal", "PA", {"Edema": "-1.0"}),
      ("patient00001/study2/view2_lateral.jpg", "Lateral", "", {"Edema": "-1.0"}),
      ("patient00002/study1/view1_frontal.jpg", "Frontal", "AP", {"Pleural Effusion": "0.0"}),
    ],
    "valid": [("patient64541/study1/view1_frontal.jpg", "Frontal", "AP", {"Atelectasis": "1.0"})],
  }
  columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_CLASSES]
  for part, pictures in rows.items():
    lines = [",".join(columns)]
    for number, (place, view, side, findings) in enumerate(pictures):
      _picture(home / part / place, number)
      cells = [f"{home.name}/{part}/{place}", "Female", "68", view, side]
      lines.append(",".join(cells + [findings.get(name, "") for name in CHEXPERT_CLASSES]))
    (home / f"{part}.csv").write_text("\n".join(lines) + "\n")
  return root


def chest_xray14(root):
  """Two patients, three pictures in two unpacked archives; the header ends with a comma."""
  root.mkdir(parents=True, exist_ok=True)
  header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
  header += "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
  end = "2682,2749,0.143,0.143,"
  rows = [
    f"00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA,{end}",
    f"00000001_001.png,No Finding,1,1,58,M,AP,{end}",
    f"00000002_000.png,Pleural_Thickening,0,2,80,M,PA,{end}",
  ]
  (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
  (root / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
  (root / "test_list.txt").write_text("00000002_000.png\n")
  for number, place in enumerate(
    ["images_001/images/00000001_000.png", "images_001/images/00000001_001.png"]
    + ["images_002/images/00000002_000.png"]
  ):
    _picture(root / place, number)
  return root


def _picture(path, number):
  path.parent.mkdir(parents=True, exist_ok=True)
  array = np.full((20, 24), 40 * (number + 1), np.uint8)
  Image.fromarray(array).save(path)


def _zip(archive: pathlib.Path, folder: pathlib.Path):
  """Packs a folder and removes it."""
  with zipfile.ZipFile(archive, "w") as file:
    file.writestr(f"__MACOSX/{folder.name}/._junk.nii.gz", b"junk")
    for path in sorted(folder.rglob("*")):
      if path.is_file():
        file.write(path, path.relative_to(folder.parent))
  shutil.rmtree(folder)
