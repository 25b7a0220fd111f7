"""Reports of chest films in two languages, made by a grammar that also reads them back exactly.

Not a study: what a study of written reports needs, since the paper's reports ask for a trained
reader (CN-RadGraph). A report is a row of statements; what a film shows decides the statements, and
wording and order are the writer's. Each sentence of the grammar has one meaning, so the graph of
any text is exact, and a sentence outside the grammar is counted as what cannot be read.
"""

import functools
import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from medjax import check


class Statement(NamedTuple):
  """What a sentence says.

  Attributes:
    observation: of `PLACES`.
    place: where, or "" for everywhere, which goes with "absent" alone.
    degree: "absent", "small" or "large".
  """

  observation: str
  place: str
  degree: str


PLACES: Mapping[str, tuple[str, ...]] = {
  "enlargement": ("heart",),
  "opacity": ("right upper zone", "right lower zone", "left upper zone", "left lower zone"),
  "effusion": ("right angle", "left angle"),
  "pneumothorax": ("right apex", "left apex"),
}
"""Where each observation can be, in the order in which a report goes through them."""
FINDINGS = tuple((name, place) for name, places in PLACES.items() for place in places)
DEGREES = ("absent", "small", "large")


class Language(NamedTuple):
  """Words of a language; the first of several is no more right than the others.

  Attributes:
    located: sentences about one place.
    everywhere: sentences which say that an observation is nowhere.
    degrees, observations, places: what stands in them.
    stop: the word that ends a sentence.
  """

  located: tuple[str, ...]
  everywhere: tuple[str, ...]
  degrees: Mapping[str, tuple[str, ...]]
  observations: Mapping[str, tuple[str, ...]]
  places: Mapping[str, str]
  stop: str


LANGUAGES: Mapping[str, Language] = {
  "english": Language(
    ("{degree} {observation} {place} .", "there is {degree} {observation} {place} ."),
    ("no {observation} .", "there is no {observation} ."),
    {"absent": ("no",), "small": ("small", "slight"), "large": ("large", "marked")},
    {
      "enlargement": ("enlargement",),
      "opacity": ("opacity", "shadow"),
      "effusion": ("effusion", "fluid"),
      "pneumothorax": ("pneumothorax",),
    },
    {
      "heart": "of the heart",
      **{place: f"in the {place}" for _, place in FINDINGS if place != "heart"},
    },
    ".",
  ),
  # Words as a segmenter parts them: heart's shadow, lung field, costophrenic angle, lung apex.
  "chinese": Language(
    ("{place} {degree} {observation} 。", "{place} 示 {degree} {observation} 。"),
    ("未见 {observation} 。", "双侧 无 {observation} 。"),
    {"absent": ("无", "未见"), "small": ("少许", "轻度"), "large": ("大量", "明显")},
    {
      "enlargement": ("增大",),
      "opacity": ("阴影", "密度影"),
      "effusion": ("积液",),
      "pneumothorax": ("气胸",),
    },
    {
      "heart": "心影",
      "right upper zone": "右 上 肺野",
      "right lower zone": "右 下 肺野",
      "left upper zone": "左 上 肺野",
      "left lower zone": "左 下 肺野",
      "right angle": "右侧 肋膈角",
      "left angle": "左侧 肋膈角",
      "right apex": "右 肺尖",
      "left apex": "左 肺尖",
    },
    "。",
  ),
}


def statements(states: np.ndarray) -> list[Statement]:
  """What a report says of a film, in the usual order.

  An observation that is nowhere gets one sentence. Where one of two sides has it, the other side is
  said to be free of it.

  Args:
    states: [finding] numbers of `DEGREES`, in the order of `FINDINGS`.
  """
  found = []
  for observation, places in PLACES.items():
    own = {place: DEGREES[states[FINDINGS.index((observation, place))]] for place in places}
    if len(places) > 1 and set(own.values()) == {"absent"}:
      found.append(Statement(observation, "", "absent"))
      continue
    for place, degree in own.items():
      if degree != "absent" or len(places) <= 2:
        found.append(Statement(observation, place, degree))
  return found


def edges(said: Iterable[Statement]) -> frozenset[tuple[str, ...]]:
  """The graph of statements: what is at or absent from a place, and degrees that modify it."""
  found: set[tuple[str, ...]] = set()
  for observation, place, degree in said:
    if degree == "absent":
      found.add((observation, "absent from", place or "chest"))
    else:
      found |= {(observation, "located at", place), (degree, "modifies", observation, place)}
  return frozenset(found)


def lesions(said: Iterable[Statement]) -> frozenset[tuple[str, str]]:
  """Pairs of observation and place that are there: what the paper's clinical score counts."""
  return frozenset((own.observation, own.place) for own in said if own.degree != "absent")


@functools.cache
def sentences(language: str) -> dict[str, Statement]:
  """Every sentence of the grammar and what it says, also of places where nobody would look."""
  words = LANGUAGES[language]
  found: dict[str, Statement] = {}
  for observation in PLACES:
    for name, form in itertools.product(words.observations[observation], words.everywhere):
      found[form.format(observation=name)] = Statement(observation, "", "absent")
    for place, degree in itertools.product(words.places, DEGREES):
      for name, form, how in itertools.product(
        words.observations[observation], words.located, words.degrees[degree]
      ):
        text = form.format(degree=how, observation=name, place=words.places[place])
        said = Statement(observation, place, degree)
        assert found.setdefault(text, said) == said, text
  return found


@functools.cache
def _forms(language: str) -> dict[Statement, tuple[str, ...]]:
  found: dict[Statement, list[str]] = {}
  for text, statement in sentences(language).items():
    found.setdefault(statement, []).append(text)
  return {statement: tuple(texts) for statement, texts in found.items()}


def written(said: Iterable[Statement], language: str, random: np.random.Generator) -> str:
  """A report that says this in this order, in words that are drawn."""
  forms = [_forms(language)[own] for own in said]
  return " ".join(own[int(random.integers(len(own)))] for own in forms)


def most_words(said: Iterable[Statement], language: str) -> int:
  """Words of the longest report that says this."""
  return sum(max(len(text.split()) for text in _forms(language)[own]) for own in said)


def parted(text: str, language: str) -> list[str]:
  """The sentences of a text; what follows the last full stop is one, too."""
  stop, found, own = LANGUAGES[language].stop, [], []
  for word in text.split():
    own.append(word)
    if word == stop:
      found.append(" ".join(own))
      own = []
  return [*found, *([" ".join(own)] if own else [])]


def read(text: str, language: str) -> tuple[list[Statement], int]:
  """What a text says, and the number of its sentences that are none of the grammar."""
  known = sentences(language)
  every = parted(text, language)
  return [known[own] for own in every if own in known], sum(own not in known for own in every)


def shuffled(text: str, language: str, random: np.random.Generator) -> str:
  """The same sentences in an order that is drawn: the same graph."""
  every = parted(text, language)
  return " ".join(every[i] for i in random.permutation(len(every)))


def rewritten(text: str, language: str, random: np.random.Generator) -> str:
  """Written anew from its graph, in the same order and in words that are drawn.

  Raises:
    InputError: a sentence outside the grammar, which has no graph.
  """
  said, num_unread = read(text, language)
  check.require(
    num_unread == 0, "sentences of the grammar", f"{num_unread} others in {text!r}", "mend the text"
  )
  return written(said, language, random)


class Graph(NamedTuple):
  """What a text says.

  Attributes:
    edges: of its graph.
    lesions: what it says to be there.
    num_unread: sentences that are outside the grammar.
  """

  edges: frozenset[Hashable]
  lesions: frozenset[Hashable]
  num_unread: int


class Reading(NamedTuple):
  """How texts of one kind are read and varied.

  Attributes:
    graph: `graph(text)`.
    shuffled: `shuffled(text, random)`, the same sentences in another order.
    rewritten: `rewritten(text, random)`, the same graph in other words; None where no one can.
  """

  graph: Callable[[str], Graph]
  shuffled: Callable[[str, np.random.Generator], str]
  rewritten: Callable[[str, np.random.Generator], str] | None


def reading(language: str) -> Reading:
  """Of reports of the grammar."""

  def graph(text: str) -> Graph:
    said, num_unread = read(text, language)
    return Graph(edges(said), lesions(said), num_unread)

  return Reading(
    graph,
    lambda text, random: shuffled(text, language, random),
    lambda text, random: rewritten(text, language, random),
  )


def one_word_changed(
  text: str, language: str, random: np.random.Generator, *, is_denied: bool
) -> str:
  """One finding has another word for its degree: one of equal meaning, or one that denies it.

  Both change the same word of the same sentence for equal draws, so that scores which count equal
  words cannot tell them apart.

  Raises:
    InputError: a report without a finding.
  """
  degrees = LANGUAGES[language].degrees
  said = [degrees[name] for name in ("small", "large")]
  words = text.split()
  spots = [i for i, word in enumerate(words) if any(word in own for own in said)]
  check.require(spots, "a report with a finding", f"none in {text!r}", "leave normal films out")
  place = spots[int(random.integers(len(spots)))]
  alike = next(own for own in said if words[place] in own)
  words[place] = degrees["absent"][0] if is_denied else alike[1 - alike.index(words[place])]
  return " ".join(words)
