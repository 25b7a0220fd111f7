"""Tables of people with numbers that a clinic has: OASIS-2, PI-CAI, breast masses.

Not a study: what `experiments.boosted_tables` looks at. What defines the answer is left out of the
numbers: in OASIS-2 the clinical dementia rating, from which the groups are made.
"""

import os
from typing import NamedTuple

import numpy as np

from experiments import classical
from medjax import check, tables
from medjax.data import manifest
from medjax.types import Json

_OASIS = {
  "Age": "age", "EDUC": "years of education", "SES": "socioeconomic status", "MMSE": "MMSE",
  "eTIV": "intracranial volume", "nWBV": "brain volume",
}  # fmt: skip
_PICAI = {
  "patient_age": "age", "psa": "PSA", "psad": "PSA density", "prostate_volume": "prostate volume",
}  # fmt: skip


class Table(NamedTuple):
  """Rows of people.

  Attributes:
    title: for the page.
    feature: [n, feature], NaN where a cell is empty.
    names: of the features.
    label: [n] 1 for the disease.
    subjects: [n] people; a person may have several rows.
    manifest: what a run that goes on must find unchanged.
  """

  title: str
  feature: np.ndarray
  names: tuple[str, ...]
  label: np.ndarray
  subjects: tuple[str, ...]
  manifest: dict[str, Json]


def oasis(path: str | os.PathLike) -> Table:
  """OASIS-2 (oasis_longitudinal.csv): is the person of a visit demented?

  People who became so between two visits are left out, since their rows have no answer of their
  own. Mini-mental state is a test of cognition on which a diagnosis rests too: its share says
  little of the brain.
  """
  lines = tables.read_table(path, ("Subject ID", "Group", "M/F", *_OASIS))
  for line in lines:
    check.one_of(f"Group in {line.where}", line.text("Group"), _GROUPS)
  kept = [line for line in lines if line.text("Group") != "Converted"]
  return _table(
    "OASIS-2", kept, _OASIS, "Subject ID", lambda line: line.text("Group") == "Demented"
  )


_GROUPS = ("Demented", "Nondemented", "Converted")


def prostate(path: str | os.PathLike) -> Table:
  """PI-CAI (marksheet.csv): does a case have cancer that is clinically significant?

  PSA, its density, the age and the gland's volume, as a clinic knows them before the images are
  read; scores of the reading are left out.
  """
  lines = tables.read_table(path, ("patient_id", "case_csPCa", *_PICAI))
  for line in lines:
    check.one_of(f"case_csPCa in {line.where}", line.text("case_csPCa"), ("YES", "NO"))
  return _table(
    "PI-CAI", lines, _PICAI, "patient_id", lambda line: line.text("case_csPCa") == "YES"
  )


def masses() -> Table:
  """569 breast masses with features of their nuclei; they come with scikit-learn."""
  feature, malignant, names = classical.breast_cells()
  subjects = tuple(f"mass_{i:03d}" for i in range(len(feature)))
  return _checked("breast masses", feature.astype(np.float64), names, malignant, subjects)


def _table(title, lines, columns, subject, is_ill) -> Table:
  """The columns of some lines; an empty cell is NaN."""
  feature = np.array(
    [[line.number(column) if line.text(column) else np.nan for column in columns] for line in lines]
  )
  label = np.array([is_ill(line) for line in lines]).astype(np.int32)
  subjects = tuple(line.filled(subject) for line in lines)
  return _checked(title, feature, tuple(columns.values()), label, subjects)


def _checked(
  title: str, feature: np.ndarray, names: tuple[str, ...], label: np.ndarray, subjects: tuple
) -> Table:
  check.require(
    set(label.tolist()) == {0, 1}, f"ill and other people in {title}", "one kind", "see the table"
  )
  about = {
    "kind": title,
    "features": manifest.array_digest(feature),
    "labels": manifest.array_digest(label.astype(np.int64)),
  }
  return Table(title, feature, names, label.astype(np.int32), subjects, about)


def filled(known: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Both standardised by the known rows, empty cells at their mean: for models without a bin.

  >>> known, new = filled(np.array([[1.0], [3.0]]), np.array([[np.nan], [4.0]]))
  >>> known.tolist(), new.tolist()
  ([[-1.0], [1.0]], [[0.0], [2.0]])

  Raises:
    InputError: a column that is empty, or the same, in all known rows.
  """
  mean, spread = np.nanmean(known, 0), np.nanstd(known, 0)
  check.require(
    np.nan_to_num(spread).min() > 0,
    "columns that differ among the known rows",
    f"column {int(np.argmin(np.nan_to_num(spread)))} empty or the same in all",
    "leave it out",
  )
  one, other = ((rows - mean) / spread for rows in (known, new))
  return np.nan_to_num(one), np.nan_to_num(other)
