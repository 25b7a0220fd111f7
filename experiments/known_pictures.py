"""Pictures of GPT4MIA: what the classifier is trained on, what is known, and what is tested.

Not a study: the data of `gpt4mia`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import classical, classification
from experiments.known_samples import MOST
from medjax import check, cli, data, study
from medjax.types import Batch, Source


class Pictures(NamedTuple):
  """What is trained on, known and tested; no person is in two parts.

  Attributes:
    title: for the page.
    class_names: of the labels.
    parts: "train", "known" and "test".
    people: of each part.
    subjects: person of each test picture.
    manifest: what the run directory records.
  """

  title: str
  class_names: tuple[str, ...]
  parts: dict[str, Batch]
  people: Mapping[str, Sequence[str]]
  subjects: list[str]
  manifest: dict[str, Any]


def digits(num_train: int, num_known: int, options: cli.RunOptions) -> Pictures:
  """Written digits; those that are neither trained on nor known are tested."""
  study.paths_of(options.data, 0)
  source: Source = classical.Digits()
  rest = len(source) - num_train - num_known
  check.require(
    rest > 0,
    f"num_train + num_known below {len(source)}, the number of digits",
    f"{num_train} + {num_known}",
    "the digits that are left are the test set",
  )
  wanted = (num_train, num_known, rest)
  shares = {p: n / len(source) for p, n in zip(("train", "known", "test"), wanted, strict=True)}
  rows = study.parted(source.subjects, shares, options.seed)
  held: dict[str, Any] = {part: data.stack(source, own) for part, own in rows.items()}
  return _pictures("written digits", source, rows, held)


def folder(config: classification.Config, options: cli.RunOptions) -> Pictures:
  """A user's pictures; those of validation people are the known ones."""
  title, source, turn = classification.load(config, options)
  check.require(
    2 <= len(source.class_names) <= MOST,
    f"2 to {MOST} classes",
    f"{len(source.class_names)}",
    "join rare classes",
  )
  names = {"train": "train", "validation": "known", "test": "test"}
  own = classification.parts_of(source, options.seed)
  rows = {names[part]: tuple(places) for part, places in own.items()}
  held = {"train": turn.train, "known": turn.validation, "test": turn.test["test"]}
  return _pictures(title, source, rows, held)


def _pictures(
  title: str, source: Source, rows: Mapping[str, Sequence[int]], held: dict[str, Batch]
) -> Pictures:
  people = study.people_by_part(source.subjects, rows)
  subjects = [source.subjects[i] for i in rows["test"]]
  return Pictures(title, tuple(source.class_names), held, people, subjects, source.manifest())
