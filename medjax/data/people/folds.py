"""Cross-validation folds over subjects, and nnU-Net's splits_final.json.

five = folds(source.subjects, 5, seed=0)
rows = five[2].indices("validation", source.subjects)
"""

import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from medjax import files
from medjax.check import InputError, existing_file, require
from medjax.data.people.splits import Splits, some
from medjax.data.seeds import Seed, generator

_SIDES = {"train": "train", "validation": "val"}  # our part: nnU-Net's key


def folds(
  subjects: Iterable[str],
  num_folds: int = 5,
  *,
  seed: Seed,
  domains: Iterable[str] | None = None,
) -> tuple[Splits, ...]:
  """Draws folds with the parts "train" and "validation".

  Args:
    subjects: subject of each case, in any order and with repeats.
    num_folds: 2 or more; nnU-Net takes 5.
    seed: any int.
    domains: site of each case; each site is then spread evenly over the folds. None for one site.
  Returns:
    One Splits a fold. Each subject validates in exactly one fold; fold sizes differ by at most one,
    also within a domain. Depends on the set of (subject, domain) pairs and the seed only.
  Raises:
    InputError: fewer people than folds, or another number of domains than subjects.
  """
  subjects = list(subjects)
  sites = [""] * len(subjects) if domains is None else list(domains)
  require(
    len(sites) == len(subjects),
    f"{len(subjects)} domains, one a case",
    f"{len(sites)}",
    "pass source.domains",
  )
  require(num_folds >= 2, "num_folds >= 2", f"{num_folds=}", "nnU-Net takes 5")
  sites_of: dict[str, set[str]] = {}
  for subject, site in zip(subjects, sites, strict=True):
    sites_of.setdefault(subject, set()).add(site)
  names = sorted(sites_of)
  require(
    len(names) >= num_folds,
    f"at least {num_folds} subjects for {num_folds} folds",
    f"{len(names)}",
    "use fewer folds or more people",
  )
  shuffled = [names[i] for i in generator(seed, "folds").permutation(len(names))]
  # The sort is stable: people stand by their sites, and shuffled within a site.
  dealt = sorted(shuffled, key=lambda subject: sorted(sites_of[subject]))
  return tuple(
    Splits(
      {"train": tuple(sorted(set(names) - set(held))), "validation": tuple(sorted(held))},
      int(seed),
    )
    for held in (dealt[fold::num_folds] for fold in range(num_folds))
  )


def read_splits_final(
  path: str | os.PathLike, names: Sequence[str], subjects: Sequence[str]
) -> tuple[Splits, ...]:
  """Imports nnU-Net's folds, a list of {"train": [case, ...], "val": [case, ...]}.

  nnU-Net splits over cases; the file is accepted only where that is a split over people as well.

  Args:
    path: splits_final.json.
    names: names of the cases at hand.
    subjects: subject of each.
  Returns:
    One Splits a fold, without seed.
  Raises:
    InputError: naming the file, when it is missing or no such list, holds cases that are not at
      hand, leaves out cases, or has a subject on both sides of a fold.
  """
  path = existing_file(path)
  sides = _read(path)
  subject_of = dict(zip(names, subjects, strict=True))
  result = []
  for fold, cases_of in enumerate(sides):
    held = {case for cases in cases_of.values() for case in cases}
    unknown, missing = sorted(held - set(names)), sorted(set(names) - held)
    require(
      not unknown,
      f"cases of this data set in fold {fold} of {path}",
      f"also {some(unknown)}",
      "pass the file that belongs to these data",
    )
    require(
      not missing,
      f"all {len(names)} cases in fold {fold} of {path}",
      f"not {some(missing)}",
      "add them to train or val, or leave them out of the data",
    )
    people = {part: {subject_of[case] for case in cases} for part, cases in cases_of.items()}
    shared = sorted(people["train"] & people["validation"])
    require(
      not shared,
      f"no subject in both train and val of fold {fold} of {path}",
      some(shared),
      "draw folds over subjects instead",
    )
    result.append(Splits({part: tuple(sorted(members)) for part, members in people.items()}))
  return tuple(result)


def write_splits_final(
  path: str | os.PathLike, drawn: Sequence[Splits], names: Sequence[str], subjects: Sequence[str]
) -> None:
  """Exports folds for nnU-Net; the file appears whole or not at all.

  Args:
    path: splits_final.json in the preprocessed folder of the data set.
    drawn: from `folds`.
    names: names of the cases.
    subjects: subject of each.
  """
  path = pathlib.Path(path)
  content = [
    {key: [names[i] for i in splits.indices(part, subjects)] for part, key in _SIDES.items()}
    for splits in drawn
  ]
  files.write_text(path, json.dumps(content, indent=2) + "\n")


def _read(path: pathlib.Path) -> list[dict[str, list[str]]]:
  """Cases by part, for each fold."""
  wanted = f'a list of {{"train": [case, ...], "val": [case, ...]}} in {path}'
  remedy = "write it as nnU-Net v2 does"
  try:
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    require(isinstance(content, list) and content, wanted, type(content).__name__, remedy)
    sides = [
      {part: [str(case) for case in fold[key]] for part, key in _SIDES.items()} for fold in content
    ]
  except InputError:
    raise
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(wanted, f"an error ({error})", remedy) from error
  require(all(all(fold.values()) for fold in sides), wanted, "an empty side", remedy)
  return sides
