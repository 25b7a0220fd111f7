"""Who the cases are: subjects, splits over them, what their sites hold, look-alikes."""

from medjax.data.people.duplicates import check_near_duplicates, near_duplicates
from medjax.data.people.folds import folds, read_splits_final, write_splits_final
from medjax.data.people.parts import split_by_site
from medjax.data.people.splits import Splits, check_content, check_disjoint, split_subjects

__all__ = [
  "Splits",
  "check_content",
  "check_disjoint",
  "check_near_duplicates",
  "folds",
  "near_duplicates",
  "read_splits_final",
  "split_by_site",
  "split_subjects",
  "write_splits_final",
]
