"""Sources of cases: folders of a known layout, public data sets, your own records."""

from medjax.data.sets.cases import Case, check_cases, find_cases, read_case
from medjax.data.sets.cc359 import CC359
from medjax.data.sets.chest import chest_xray14, chexpert, shared_classes
from medjax.data.sets.class_folders import ClassFolders, kermany
from medjax.data.sets.combine import concat, subset
from medjax.data.sets.labelmaps import LabelMapFolder
from medjax.data.sets.landmarks import section_landmarks
from medjax.data.sets.medmnist import MedMNIST
from medjax.data.sets.mni152 import mni152
from medjax.data.sets.mnms import MnMs
from medjax.data.sets.ms_sets import ljubljana, mslesseg
from medjax.data.sets.nnunet import NnUNetFolder
from medjax.data.sets.pictures import picture_table
from medjax.data.sets.prepared import Prepared, prepare
from medjax.data.sets.prostate import ProstateSites
from medjax.data.sets.readers import open_source
from medjax.data.sets.records import from_records

__all__ = [
  "CC359",
  "Case",
  "ClassFolders",
  "LabelMapFolder",
  "MedMNIST",
  "MnMs",
  "NnUNetFolder",
  "Prepared",
  "ProstateSites",
  "check_cases",
  "chest_xray14",
  "chexpert",
  "concat",
  "find_cases",
  "from_records",
  "kermany",
  "ljubljana",
  "mni152",
  "mslesseg",
  "open_source",
  "picture_table",
  "prepare",
  "read_case",
  "section_landmarks",
  "shared_classes",
  "subset",
]
