"""Reports of your own, read by keywords: a finding is named, and denied or not.

Not a study: what `report_generation` makes of a table of films and free text. The rule is that of
NegEx (Chapman et al., 2001) at its simplest: a keyword is denied if a word of denial stands before
it in its sentence. It errs where a report is less plain; a graph of it is no ground truth.
"""

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from experiments.report_grammar import Graph, Reading
from experiments.reported_films import ReportedFilms
from medjax import check, data

STOPS = (".", ";", "\u3002", "\uff1b")
"""Words that end a sentence, those of Chinese last."""


def words_of(text: str) -> str:
  """The words of free text, parted by spaces: lower case, and each Chinese character is a word.

  >>> words_of("No effusion; heart 1.5x")
  'no effusion ; heart 1.5x'
  """
  latin = r"[a-z0-9]+(?:[.'-][a-z0-9]+)*"
  return " ".join(re.findall(rf"{latin}|[^\sa-z0-9]", text.lower()))


def sentences(text: str) -> list[str]:
  """Of a text of `words_of`, each with the stop that ends it."""
  found: list[list[str]] = [[]]
  for word in text.split():
    found[-1].append(word)
    if word in STOPS:
      found.append([])
  return [" ".join(own) for own in found if own]


def reading(keywords: Sequence[str], denials: Sequence[str]) -> Reading:
  """Of texts of `words_of`; edges are (keyword, "present") and (keyword, "absent").

  A keyword that is said to be there in one sentence and denied in another has both edges.

  >>> graph = reading(["effusion", "opacity"], ["no"]).graph
  >>> sorted(graph("opacity on the left . no effusion .").edges)
  [('effusion', 'absent'), ('opacity', 'present')]
  """
  check.require(keywords, "keywords of findings", "none", "pass --keywords effusion opacity")
  names = {keyword: f" {words_of(keyword)} " for keyword in keywords}
  denied = [f" {words_of(denial)} " for denial in denials]

  def graph(text: str) -> Graph:
    found = set()
    for sentence in sentences(text):
      for keyword, name in names.items():
        before, met, _ = f" {sentence} ".partition(name)
        if met:
          is_denied = any(denial in f"{before} " for denial in denied)
          found.add((keyword, "absent" if is_denied else "present"))
    lesions = {keyword for keyword, how in found if how == "present"}
    return Graph(frozenset(found), frozenset(lesions), 0)

  def shuffled(text: str, random: np.random.Generator) -> str:
    every = sentences(text)
    return " ".join(every[i] for i in random.permutation(len(every)))

  return Reading(graph, shuffled, None)


def table(
  path: pathlib.Path,
  size: int,
  *,
  report: str,
  subject: str,
  keywords: Sequence[str],
  denials: Sequence[str],
) -> ReportedFilms:
  """Films that a table lists, with their reports.

  Args:
    path: CSV with a column image, see `data.open_source`.
    size: side of the films in pixels, cut around their middle.
    report, subject: columns of the text and of the person; "": each film is a person.
    keywords, denials: of `reading`.
  Raises:
    InputError: a film without a report, keywords that no report has.
  """
  how = reading(keywords, denials)
  # To the reader a text is the name of a class.
  source = data.open_source(
    path, "picture_table", label=report, subject=subject, size=(size, size), colour=False
  )
  held = data.stack(source)
  texts = tuple(words_of(source.class_names[int(k)]) for k in np.asarray(held.label))
  said = [how.graph(text).lesions for text in texts]
  states = np.array([[keyword in own for keyword in keywords] for own in said], np.int32)
  check.require(
    states.any(), "a report that names a finding", f"none with {', '.join(keywords)}",
    "pass --keywords in the words of the reports",
  )  # fmt: skip
  image = np.asarray(held.image)
  axes = (1, 2, 3)
  image = (image - image.mean(axes, keepdims=True)) / np.maximum(
    image.std(axes, keepdims=True), 1e-3
  )
  most = max(len(text.split()) for text in texts)
  about = {**source.manifest(), "keywords": list(keywords), "denials": list(denials)}
  own = {"own": texts}
  return ReportedFilms(image, states, own, {"own": how}, (), most, tuple(source.subjects), about)
