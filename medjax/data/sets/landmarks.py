"""Landmarks of serial sections of tissue, as the CIMA and BIRL sets are distributed."""

import os

import numpy as np

from medjax import check, tables


def section_landmarks(folder: str | os.PathLike) -> list[tuple[str, np.ndarray]]:
  """(name, [section, landmark, 2]) of each block of tissue, both in the order of their names.

  Row i of every section of a block is the same place of the tissue. Coordinates are pixels of the
  scanned slide, column before row. Of several annotators the one with most sections is taken.

  Args:
    folder: with BLOCK/ANNOTATOR/SECTION.csv, whose columns X and Y are read.
  Raises:
    InputError: fewer than two blocks, a block of fewer than two sections, or sections of unequal
      numbers of landmarks or fewer than three.
  """
  found = []
  for block in sorted(path for path in check.existing_folder(folder).iterdir() if path.is_dir()):
    by = [sorted(path.glob("*.csv")) for path in sorted(block.iterdir()) if path.is_dir()]
    files = max(by, key=len, default=[])
    check.require(
      len(files) >= 2, f"two sections or more in {block}", f"{len(files)}", "add them or drop it"
    )
    sections = [
      np.array([[row.number("X"), row.number("Y")] for row in tables.read_table(file, ("X", "Y"))])
      for file in files
    ]
    for file, section in zip(files, sections, strict=True):
      check.require(
        len(section) == len(sections[0]) >= 3,
        f"{len(sections[0])} landmarks, three or more, in every section of {block}",
        f"{len(section)} in {file.name}",
        "row i must be the same place of the tissue in all sections",
      )
    found.append((block.name, np.stack(sections)))
  check.require(len(found) >= 2, f"two blocks or more in {folder}", f"{len(found)}", "add blocks")
  return found
