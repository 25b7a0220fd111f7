"""Refuses a split in which scans under two names, on two sides, look like one and the same scan.

A person who stands in a data set under two names would be trained on and tested. Every study that
reads a folder of its user therefore has the field

  near_duplicates: float = -1.0

which is its flag --near_duplicates, and hands it to `check_alike` before anything is trained.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

from medjax import data
from medjax.types import Source


def check_alike(
  source: Source,
  people: Mapping[str, Sequence[str]],
  near_duplicates: float | int,
  picture: str | os.PathLike | None = None,
) -> None:
  """Refuses cases of two people on two sides that look like one scan.

  Args:
    source: with images.
    people: side (a part, or a site) -> its subjects; people of no side are not looked at.
    near_duplicates: similarity from which two cases are taken for one scan; below 0 takes the
      measured default of `data.near_duplicates`, 0 does not look.
    picture: PNG file for the refused pair, see `data.check_near_duplicates`.
  Raises:
    InputError: naming the pair, the picture and the flag that allows it.
  """
  if not near_duplicates:
    return
  sides = data.Splits({name: tuple(members) for name, members in people.items()})
  threshold = None if near_duplicates < 0 else near_duplicates
  data.check_near_duplicates(source, sides, threshold=threshold, picture=picture)


def pair_picture(workdir: pathlib.Path) -> pathlib.Path:
  """The PNG file in which the user sees the pair of scans that was refused.

  It lies beside the run directory and not in it: a command that is refused makes no run directory.

  >>> pair_picture(pathlib.Path("runs/mine")).name
  'mine-pair.png'
  """
  return workdir.with_name(f"{workdir.name}-pair.png")
