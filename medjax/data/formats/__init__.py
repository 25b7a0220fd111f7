"""Files of images: one table of formats, one class of what is read, label values."""

from medjax.data.formats.nifti import GeometryWarning, read_nifti, to_ras, write_nifti
from medjax.data.formats.png import read_png
from medjax.data.formats.table import FORMATS, Format, ending_of, format_of, without_channel_axis
from medjax.data.formats.volume import Volume
from medjax.data.formats.words import Vocabulary

__all__ = [
  "FORMATS",
  "Format",
  "GeometryWarning",
  "Vocabulary",
  "Volume",
  "ending_of",
  "format_of",
  "read_nifti",
  "read_png",
  "to_ras",
  "without_channel_axis",
  "write_nifti",
]
