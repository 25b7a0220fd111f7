"""Patients with lesions: simulated ones, and the table of SIIM-ISIC 2020.

Not a study: what the study of patients' lesions looks at. In a table these are real: who has how
many lesions, where, of which sex and age, and which are melanomas. The features are drawn, unless a
file of them is given.
"""

import os
import zipfile
from typing import NamedTuple

import numpy as np

from medjax import check, tables
from medjax.data import manifest
from medjax.data.seeds import generator
from medjax.types import Json

SITES = (
  "head/neck", "upper extremity", "lower extremity", "torso", "palms/soles", "oral/genital",
  "unknown",
)  # fmt: skip
SEXES = ("female", "male", "unknown")
_COLUMNS = ("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge")


class Lesions(NamedTuple):
  """Lesions, a row each.

  Attributes:
    feature: [n, feature] float32.
    site: [n] positions in SITES.
    label: [n] 1 for a melanoma, 0 for another lesion.
    patients: [n] whose it is.
    sex: [n] positions in SEXES, the same in all lesions of a patient.
    age: [n] years, NaN where unknown.
    folds: [n] fold of a table that has them, None elsewhere.
    is_drawn: whether the features are simulated.
    shares_pictures: whether lesions of one fold may show one picture, so that what is chosen on
      validation patients needs a fold of its own.
  """

  feature: np.ndarray
  site: np.ndarray
  label: np.ndarray
  patients: tuple[str, ...]
  sex: np.ndarray
  age: np.ndarray
  folds: np.ndarray | None = None
  is_drawn: bool = True
  shares_pictures: bool = False

  def manifest(self) -> dict[str, Json]:
    """What a run that goes on must find unchanged."""
    return {
      "kind": "lesions of patients",
      "patients": len(set(self.patients)),
      "features": manifest.array_digest(self.feature),
      "labels": manifest.array_digest(self.label.astype(np.int64)),
      "drawn": self.is_drawn,
    }


def drawn_features(
  label: np.ndarray, site: np.ndarray, patients: tuple[str, ...], size: int, seed: int
) -> np.ndarray:
  """Features in which a melanoma stands out among the lesions of its patient (an ugly duckling).

    patient's centre N(0, 2^2) + site's shift N(0, 2^2) + N(0, 1) + melanoma (3 u + 1.5 w)

  with u a direction drawn for each melanoma, which only the other lesions of the patient betray,
  and w one direction of all melanomas. Where the site is unknown nothing is shifted.
  """
  random = generator(seed, "lesions")
  shifts = 2 * random.normal(size=(len(SITES), size))
  shifts[SITES.index("unknown")] = 0
  names, owner = np.unique(np.array(patients), return_inverse=True)
  centres = 2 * random.normal(size=(len(names), size))
  own = random.normal(size=(len(label), size))
  own /= np.linalg.norm(own, axis=1, keepdims=True)
  common = np.ones(size) / np.sqrt(size)
  found = centres[owner] + shifts[site] + random.normal(size=(len(label), size))
  return (found + label[:, None] * (3 * own + 1.5 * common)).astype(np.float32)


def simulated(num_patients: int, *, size: int = 8, seed: int = 0) -> Lesions:
  """Patients with 2 to 12 lesions; melanomas are likelier with age, in men, and on the head.

  Args:
    num_patients: of them.
    size: features of a lesion.
    seed: of all draws.
  """
  random = generator(seed, "patients")
  counts = random.integers(2, 13, num_patients)
  owner = np.repeat(np.arange(num_patients), counts)
  sex, age = random.integers(0, 2, num_patients), 5.0 * random.integers(4, 18, num_patients)
  site = random.choice(len(SITES), len(owner), p=(0.06, 0.15, 0.25, 0.5, 0.02, 0.01, 0.01))
  odds = -3.2 + 0.03 * (age - 50) + 0.5 * sex
  label = random.uniform(size=len(owner)) < 1 / (1 + np.exp(-odds[owner] - 0.8 * (site == 0)))
  names = tuple(f"patient_{i:04d}" for i in owner)
  feature = drawn_features(label.astype(np.int32), site, names, size, seed)
  return Lesions(feature, site, label.astype(np.int32), names, sex[owner], age[owner])


def from_table(
  path: str | os.PathLike,
  features: str | os.PathLike | None = None,
  *,
  size: int = 8,
  seed: int = 0,
) -> Lesions:
  """The table of SIIM-ISIC 2020 (train.csv), or one with its columns.

  Args:
    path: CSV with image_name, patient_id, sex, age_approx, anatom_site_general_challenge and
      target; a column fold is used where there is one.
    features: .npz with `name` [n] and `feature` [n, d], of your own network on your own pictures;
      None draws them, `size` of them, from `seed`.
  Raises:
    InputError: a file or column that is missing, a target that is not 0 or 1, a patient of two
      sexes or in two folds, a lesion without features.
  """
  lines = tables.read_table(path, (*_COLUMNS, "target"))
  cells = {name: [line.cells[name] for line in lines] for name in (*_COLUMNS, "target")}
  patients = tuple(cells["patient_id"])
  for line, own in zip(lines, cells["target"], strict=True):
    check.require(own in ("0", "1"), f"target 0 or 1 in {line.where}", f"{own!r}", "mend the line")
  site = [SITES.index(s) if s in SITES else len(SITES) - 1 for s in cells[_COLUMNS[4]]]
  sex = [SEXES.index(s) if s in SEXES else len(SEXES) - 1 for s in cells["sex"]]
  _one_each("sex", patients, sex, "mend the table, or leave the patient out")
  folds = None
  if all("fold" in line.cells for line in lines):
    folds = [line.cells["fold"] for line in lines]
    _one_each("fold", patients, folds, "a network would be tested on whom it was trained on")
  label, site = np.array(cells["target"]).astype(np.int32), np.array(site)
  ages = [float(a) if a else np.nan for a in cells["age_approx"]]
  if features is None:
    feature = drawn_features(label, site, patients, size, seed)
  else:
    feature = _given(features, cells["image_name"])
  return Lesions(
    feature,
    site,
    label,
    patients,
    np.array(sex),
    np.array(ages),
    None if folds is None else np.array(folds),
    features is None,
  )


def with_pictures(
  lesions: Lesions, feature: np.ndarray, is_melanoma: np.ndarray, num_folds: int, seed: int
) -> Lesions:
  """Lesions of a table that look like pictures of other people, melanomas like melanomas.

  No patient of the table has pictures here, so which picture stands for which lesion is drawn; who
  has how many, of which kind, where, of which age and sex stays as the table has it. The pictures
  are dealt into folds before the patients are, and patients draw from those of their fold, so that
  nobody is tested on a picture that was trained on. A patient's nevi look alike: each is one of the
  five nevi of the fold that are most like one which is drawn for the patient.

  Args:
    lesions: of a table; their features are replaced.
    feature: [picture, d].
    is_melanoma: [picture].
    num_folds: of pictures and of patients.
    seed: of all draws.
  Raises:
    InputError: a fold without pictures of both kinds.
  """
  random = generator(seed, "pictures of lesions")
  dealt = np.empty(len(feature), int)
  for kind in (0, 1):
    own = random.permutation(np.flatnonzero(is_melanoma == kind))
    check.require(
      len(own) >= num_folds,
      f"{num_folds} pictures of each kind",
      f"{len(own)} of kind {kind}",
      "take fewer folds",
    )
    dealt[own] = np.arange(len(own)) % num_folds
  names, owner = np.unique(np.array(lesions.patients), return_inverse=True)
  has = np.bincount(owner, lesions.label) > 0
  fold = np.empty(len(names), int)
  for kind in (False, True):  # each fold has its share of the patients with a melanoma
    own = random.permutation(np.flatnonzero(has == kind))
    fold[own] = np.arange(len(own)) % num_folds
  place = np.empty(len(owner), int)
  for patient, rows in enumerate(np.split(np.argsort(owner, kind="stable"), _ends(owner))):
    nevi, melanomas = (
      np.flatnonzero((dealt == fold[patient]) & (is_melanoma == kind)) for kind in (0, 1)
    )
    like = feature[random.choice(nevi)]
    near = nevi[np.argsort(((feature[nevi] - like) ** 2).sum(1), kind="stable")[:5]]
    for row in rows:
      place[row] = random.choice(melanomas if lesions.label[row] else near)
  return lesions._replace(
    feature=feature[place].astype(np.float32),
    folds=np.array([f"fold {k}" for k in fold])[owner],
    is_drawn=False,
    shares_pictures=True,
  )


def _ends(owner: np.ndarray) -> np.ndarray:
  """Where the rows of each patient end, in rows that are sorted by patient."""
  return np.cumsum(np.bincount(owner))[:-1]


def projected(feature: np.ndarray, size: int, seed: int) -> np.ndarray:
  """Features [n, d] on `size` random directions, which look at no picture.

  Distances stay, up to a factor that tends to 1 with `size` (Johnson and Lindenstrauss 1984);
  principal directions would have to be found in each fold anew.
  """
  directions = generator(seed, "directions").normal(size=(feature.shape[1], size))
  return (feature @ directions / np.sqrt(size)).astype(np.float32)


def _one_each(what: str, patients: tuple[str, ...], values: list, remedy: str) -> None:
  """Refuses a patient with two values."""
  seen: dict[str, object] = {}
  for patient, value in zip(patients, values, strict=True):
    check.require(
      seen.setdefault(patient, value) == value,
      f"one {what} of every patient",
      f"two of {patient}",
      remedy,
    )


def _given(path: str | os.PathLike, names: list[str]) -> np.ndarray:
  """The features of these pictures, in their order."""
  path = check.existing_file(path)
  try:
    with np.load(path) as held:
      found = {name: held[name] for name in held.files}
  except (ValueError, OSError, zipfile.BadZipFile) as error:
    raise check.InputError(f"an .npz file {path}", f"an error ({error})", "save it again") from None
  check.require(
    {"name", "feature"} <= set(found), f"name and feature in {path}", ", ".join(found), "add them"
  )
  rows = {str(name): i for i, name in enumerate(found["name"])}
  missing = [name for name in names if name not in rows]
  check.require(
    not missing, "features of every lesion", f"none of {', '.join(missing[:3])}", "add them"
  )
  feature = found["feature"][[rows[name] for name in names]].astype(np.float32)
  check.require(np.isfinite(feature).all(), "finite features", "NaN or infinity", "mend the file")
  return feature
