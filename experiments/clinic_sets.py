"""Cases of several clinics: simulated survival, tables of two published federations, folders.

Not a study: what the study of clinics looks at. Each function gives the cases of all clinics, their
clinic as the domain, and who is in which part.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import scanner_sets
from medjax import check, data, study, tables
from medjax.data import manifest
from medjax.types import Example, Json, Source

HEART = ("cleveland", "hungarian", "switzerland", "va")
REGIONS = ("Northeast", "South", "West", "Midwest", "Europe", "Canada")  # FLamby's order
# Without slope, ca and thal, which are empty for most people outside of Cleveland.
_HEART_COLUMNS = (
  "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
)  # fmt: skip
_KINDS = {"cp": (2, 3, 4), "restecg": (1, 2)}  # codes of a kind, without the first: one column each


class Clinics(NamedTuple):
  """Cases of all clinics, and the positions of each part."""

  source: Source
  parts: dict[str, tuple[int, ...]]


class Arrays:
  """A Source of cases that lie in memory; rows of a table are images [1, 1, columns]."""

  def __init__(
    self,
    about: dict[str, Json],
    subjects: Sequence[str],
    domains: Sequence[str],
    images: np.ndarray,
    labels: np.ndarray,
  ):
    """Keeps the cases; `about` is the manifest, with class_names and channel_names."""
    self.class_names = tuple(about["class_names"])
    self.channel_names = tuple(about["channel_names"])
    self.subjects, self.domains = tuple(subjects), tuple(domains)
    self._about, self._images, self._labels = about, images.astype(np.float32), labels

  def __len__(self) -> int:
    return len(self.subjects)

  def __getitem__(self, index: int) -> Example:
    index = range(len(self))[index]
    name, label = self.subjects[index], np.asarray(self._labels[index], np.int32)
    image = self._images[index]
    return Example(name, name, index, image, label, (1.0, 1.0), domain=self.domains[index])

  def manifest(self) -> dict[str, Json]:
    return self._about


def simulated(num_people: int, seed: int) -> Clinics:
  """Four clinics whose patients differ and whose hazards share most of their causes.

  Labels are (event, days), as of the tables. A clinic's patients lie around a centre of their own,
  and a fifth of the log hazard is its own.
  """
  random = np.random.default_rng(seed)
  shared, people, numbers, labels = random.normal(size=12) / 3, [], [], []
  for clinic in range(4):
    own = shared + 0.2 * random.normal(size=12) / 3
    x = random.normal(size=12) * 0.7 + random.normal(size=(num_people, 12))
    life = 1000 * random.exponential(np.exp(-x @ own))
    seen_until = random.uniform(200, 3000, num_people)
    numbers.append(x)
    labels.append(np.stack([life < seen_until, np.minimum(life, seen_until) // 1], 1))
    people += [f"clinic {clinic}/{i:04d}" for i in range(num_people)]
  domains = [name.partition("/")[0] for name in people]
  about = manifest.describe(
    "simulated survival",
    class_names=("event", "days"),
    channel_names=[f"measure {k}" for k in range(12)],
    subjects=people,
    options={"seed": seed},
  )
  source = _table(about, people, domains, np.concatenate(numbers), np.concatenate(labels))
  return Clinics(source, parted(source, seed))


def tcga(root: pathlib.Path) -> Clinics:
  """Breast cancer in six regions with FLamby's split: brca.csv and train_test_split.csv.

  (du Terrail et al., "FLamby", NeurIPS 2022.) Labels are (event, days).
  """
  files = [root / name for name in ("brca.csv", "train_test_split.csv")]
  rows = {line.filled("pid"): line for line in tables.read_table(files[0], ("pid", "E", "T"))}
  where = tables.read_table(files[1], ("pid", "fold2"))
  tables.check_once([(line.filled("pid"), line.where) for line in where], "person")
  columns = [name for name in next(iter(rows.values())).cells if name not in ("pid", "E", "T")]
  people = [line.filled("pid") for line in where]
  missing = [person for person in people if person not in rows]
  check.require(not missing, "everybody of the split in brca.csv", f"no {missing[:3]}", "copy anew")
  kinds = [line.filled("fold2").partition("_")[::2] for line in where]
  domains = [REGIONS[int(number)] for _, number in kinds]
  numbers = np.array([[rows[p].number(c) for c in columns] for p in people])
  labels = np.array([[rows[p].whole("E", least=0), rows[p].whole("T", least=0)] for p in people])
  about = _about("TCGA-BRCA in regions", ("event", "days"), columns, people, root, files)
  parts = {
    part: tuple(i for i, (own, _) in enumerate(kinds) if own == part) for part in ("train", "test")
  }
  return Clinics(_table(about, people, domains, numbers, labels), parts)


def heart(root: pathlib.Path, seed: int) -> Clinics:
  """Heart disease (0 none, 1 any) in four hospitals: processed.HOSPITAL.data.csv of UCI.

  Columns that most hospitals lack and incomplete rows are left out, as in FLamby. Equal rows of a
  hospital count as one person. A file in the coding of the copies that were made for Kaggle, where
  1 means healthy, is told by its chest pain of kind 0 and is translated.
  """
  files = [root / f"processed.{name}.data.csv" for name in HEART]
  people, domains, numbers, labels = [], [], [], []
  for hospital, path in zip(HEART, files, strict=True):
    lines = tables.read_table(path, (*_HEART_COLUMNS, "target"))
    kept = [x for x in lines if "?" not in (x.text(c) for c in (*_HEART_COLUMNS, "target"))]
    is_kaggle = any(line.whole("cp") == 0 for line in kept)
    first: dict[tuple[float, ...], int] = {}
    for i, line in enumerate(kept):
      cells = {c: line.number(c) for c in _HEART_COLUMNS}
      is_ill = line.whole("target", least=0) > 0
      if is_kaggle:
        cells["cp"] = (4, 2, 3, 1)[int(cells["cp"])]
        cells["restecg"] = (2, 0, 1)[int(cells["restecg"])]
        is_ill = not is_ill
      row = [value for c, value in cells.items() if c not in _KINDS]
      row += [float(cells[c] == k) for c, codes in _KINDS.items() for k in codes]
      people.append(f"{hospital}/{first.setdefault((*row, is_ill), i):03d}")
      domains.append(hospital)
      numbers.append(row)
      labels.append(int(is_ill))
  names = [c for c in _HEART_COLUMNS if c not in _KINDS]
  names += [f"{c} {k}" for c, codes in _KINDS.items() for k in codes]
  about = _about("heart disease of hospitals", ("healthy", "ill"), names, people, root, files)
  source = _table(about, people, domains, np.array(numbers), np.array(labels))
  return Clinics(source, parted(source, seed))


def scanners(root: pathlib.Path, seed: int, size: int) -> Clinics:
  """Pictures of classes under scanners, SCANNER/CLASS/*.png, with patches.csv (slides)."""
  own = sorted(path for path in root.iterdir() if path.is_dir())
  source = data.concat({path.name: scanner_sets.folder(path, size, "patches.csv") for path in own})
  return Clinics(source, parted(source, seed))


def folders(root: pathlib.Path, seed: int) -> Clinics:
  """Pictures and label maps of laboratories, nnU-Net folders side by side."""
  source = data.open_source(root, "nnunet_sites")
  return Clinics(source, parted(source, seed))


def _table(
  about: dict[str, Json],
  people: Sequence[str],
  domains: Sequence[str],
  numbers: np.ndarray,
  labels: np.ndarray,
) -> Arrays:
  return Arrays(about, people, domains, numbers[:, None, None], labels)


def parted(source: Source, seed: int) -> dict[str, tuple[int, ...]]:
  """Two thirds of the people of each clinic train."""
  found: dict[str, list[int]] = {"train": [], "test": []}
  for clinic in dict.fromkeys(source.domains):
    rows = [i for i, own in enumerate(source.domains) if own == clinic]
    shares = {"train": 2 / 3, "test": 1 / 3}
    drawn = study.parted([source.subjects[i] for i in rows], shares, seed)
    for part, places in drawn.items():
      found[part] += [rows[place] for place in places]
  return {part: tuple(rows) for part, rows in found.items()}


def _about(
  kind: str,
  class_names: Sequence[str],
  channel_names: Sequence[str],
  people: Sequence[str],
  root: pathlib.Path,
  files: Sequence[pathlib.Path],
) -> dict[str, Json]:
  return manifest.describe(
    kind,
    class_names=class_names,
    channel_names=channel_names,
    subjects=people,
    root=root,
    files=manifest.file_digests(root, files),
  )
