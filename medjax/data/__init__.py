"""Sources of cases, splits over subjects, and streams of batches as functions of (seed, step)."""

from medjax.data.combine import concat, subset
from medjax.data.grid import fit_to_shape, to_shape
from medjax.data.labelmaps import LabelMapFolder
from medjax.data.medmnist import MedMNIST
from medjax.data.mni152 import mni152
from medjax.data.nifti import read_nifti, to_ras, write_nifti
from medjax.data.nnunet import NnUNetFolder
from medjax.data.normalise import normalise
from medjax.data.procedural import ProceduralAnatomy
from medjax.data.resample import resample
from medjax.data.slices import slices
from medjax.data.splits import Splits, check_content, check_disjoint, split_subjects
from medjax.data.streams import batches, sequential, stack, zip_streams
from medjax.data.volume import Volume

__all__ = [
  "LabelMapFolder",
  "MedMNIST",
  "NnUNetFolder",
  "ProceduralAnatomy",
  "Splits",
  "Volume",
  "batches",
  "check_content",
  "check_disjoint",
  "concat",
  "fit_to_shape",
  "mni152",
  "normalise",
  "read_nifti",
  "resample",
  "sequential",
  "slices",
  "split_subjects",
  "stack",
  "subset",
  "to_ras",
  "to_shape",
  "write_nifti",
  "zip_streams",
]
