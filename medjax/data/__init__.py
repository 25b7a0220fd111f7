"""Sources of cases, splits over subjects, and streams of batches as functions of (seed, step)."""

from medjax.data import augmentation
from medjax.data.cardiac import CardiacAnatomy
from medjax.data.cases import Case, check_cases, find_cases, read_case
from medjax.data.cc359 import CC359
from medjax.data.chest import chest_xray14, chexpert, shared_classes
from medjax.data.class_folders import ClassFolders, kermany
from medjax.data.combine import concat, subset
from medjax.data.duplicates import check_near_duplicates, near_duplicates
from medjax.data.folds import folds, read_splits_final, write_splits_final
from medjax.data.grid import fit_to_shape, to_shape
from medjax.data.labelmaps import LabelMapFolder
from medjax.data.medmnist import MedMNIST
from medjax.data.memory import Memory, Reservoir
from medjax.data.mixture import mix, mmtl_paper, mmtl_released, pooled, rows
from medjax.data.mni152 import mni152
from medjax.data.mnms import MnMs
from medjax.data.ms_sets import ljubljana, mslesseg
from medjax.data.neighbours import neighbours
from medjax.data.nifti import GeometryWarning, read_nifti, to_ras, write_nifti
from medjax.data.nnunet import NnUNetFolder
from medjax.data.normalise import (
  ForegroundPercentiles,
  foreground_statistics,
  from_spec,
  normalise,
  to_spec,
)
from medjax.data.parts import split_by_site
from medjax.data.patches import patches
from medjax.data.pictures import picture_table
from medjax.data.plans import read_plans
from medjax.data.png import read_png
from medjax.data.prepared import Prepared, prepare
from medjax.data.preprocess import Preprocessing
from medjax.data.procedural import ProceduralAnatomy
from medjax.data.prostate import ProstateSites
from medjax.data.readers import open_source
from medjax.data.records import from_records
from medjax.data.replay import replayed
from medjax.data.resample import resample
from medjax.data.simulated import Simulated
from medjax.data.slices import slices
from medjax.data.splits import Splits, check_content, check_disjoint, split_subjects
from medjax.data.streams import batches, load_cases, sequential, stack, zip_streams
from medjax.data.volume import Volume
from medjax.data.volume_pool import cut_patches, volume_pool

__all__ = [
  "CC359",
  "CardiacAnatomy",
  "Case",
  "ClassFolders",
  "ForegroundPercentiles",
  "GeometryWarning",
  "LabelMapFolder",
  "MedMNIST",
  "Memory",
  "MnMs",
  "NnUNetFolder",
  "Prepared",
  "Preprocessing",
  "ProceduralAnatomy",
  "ProstateSites",
  "Reservoir",
  "Simulated",
  "Splits",
  "Volume",
  "augmentation",
  "batches",
  "check_cases",
  "check_content",
  "check_disjoint",
  "check_near_duplicates",
  "chest_xray14",
  "chexpert",
  "concat",
  "cut_patches",
  "find_cases",
  "fit_to_shape",
  "folds",
  "foreground_statistics",
  "from_records",
  "from_spec",
  "kermany",
  "ljubljana",
  "load_cases",
  "mix",
  "mmtl_paper",
  "mmtl_released",
  "mni152",
  "mslesseg",
  "near_duplicates",
  "neighbours",
  "normalise",
  "open_source",
  "patches",
  "picture_table",
  "pooled",
  "prepare",
  "read_case",
  "read_nifti",
  "read_plans",
  "read_png",
  "read_splits_final",
  "replayed",
  "resample",
  "rows",
  "sequential",
  "shared_classes",
  "slices",
  "split_by_site",
  "split_subjects",
  "stack",
  "subset",
  "to_ras",
  "to_shape",
  "to_spec",
  "volume_pool",
  "write_nifti",
  "write_splits_final",
  "zip_streams",
]
