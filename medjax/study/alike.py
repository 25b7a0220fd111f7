"""Whether two people of a study look like one: what the flag --near_duplicates of a study asks.

Every study that reads a folder of its user has the field

  near_duplicates: float = -1.0

and hands it to `check_alike` before anything is trained.
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
  """The file for a refused pair: beside the run directory, which a refused command never makes.

  >>> pair_picture(pathlib.Path("runs/mine")).name
  'mine-pair.png'
  """
  return workdir.with_name(f"{workdir.name}-pair.png")
