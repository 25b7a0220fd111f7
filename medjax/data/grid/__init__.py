"""The grid of an image: upright, to a spacing, to a shape, slice by slice, and back again."""

from medjax.data.grid.neighbours import neighbours
from medjax.data.grid.plans import read_plans
from medjax.data.grid.preprocess import Preprocessing
from medjax.data.grid.resample import resample
from medjax.data.grid.shapes import fit_to_shape, space_of, to_shape
from medjax.data.grid.slices import slices

__all__ = [
  "Preprocessing",
  "fit_to_shape",
  "neighbours",
  "read_plans",
  "resample",
  "slices",
  "space_of",
  "to_shape",
]
