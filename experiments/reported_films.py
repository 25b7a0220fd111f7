"""Drawn chest films with several findings, and a report of each in every language of the grammar.

Not a study: the pictures of `report_generation`. A film has none to three findings at named places,
each small or large; `report_grammar` says what a report of them states.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import report_grammar as grammar
from medjax import check
from medjax.data.seeds import generator


@dataclasses.dataclass(frozen=True)
class ReportedFilms:
  """Films and their reports.

  Attributes:
    image: [n, size, size, 1], mean 0 and variance 1 each.
    states: [n, finding] numbers of `report_grammar.DEGREES`; 0 is absent.
    texts: language -> n reports, words parted by spaces.
    readings: language -> how its texts are read.
    wording: texts with every word that can be asked for; () where only training reports tell.
    max_words: of the longest report, also of one that was written anew.
    subjects: [n] people.
    manifest: what the run directory records.
  """

  image: np.ndarray
  states: np.ndarray
  texts: Mapping[str, tuple[str, ...]]
  readings: Mapping[str, grammar.Reading]
  wording: tuple[str, ...]
  max_words: int
  subjects: tuple[str, ...]
  manifest: dict[str, Any]


def drawn(num: int, size: int, seed: int) -> ReportedFilms:
  """Films of `num` people; case `index` depends on the seed, the size and the index alone.

  A writer goes through the chest in the usual order in 7 of 10 films, and in any in the others.
  """
  check.require(size >= 16, "films of 16 pixels or more", f"{size}", "draw them larger")
  images, every = [], []
  texts: dict[str, list[str]] = {language: [] for language in grammar.LANGUAGES}
  for index in range(num):
    random = generator(seed, "reported film", index)
    states = np.zeros(len(grammar.FINDINGS), np.int32)
    number = int(random.choice(4, p=(0.3, 0.35, 0.25, 0.1)))
    places = random.choice(len(states), number, replace=False)
    states[places] = random.integers(1, len(grammar.DEGREES), number)
    images.append(_film(states, size, random))
    every.append(states)
    said = grammar.statements(states)
    for language, own in texts.items():
      order = range(len(said)) if random.random() < 0.7 else random.permutation(len(said))
      own.append(grammar.written([said[i] for i in order], language, random))
  said = [grammar.statements(states) for states in every]
  return ReportedFilms(
    np.stack(images),
    np.stack(every),
    {language: tuple(own) for language, own in texts.items()},
    {language: grammar.reading(language) for language in texts},
    tuple(text for language in texts for text in grammar.sentences(language)),
    max(grammar.most_words(own, language) for own in said for language in texts),
    tuple(f"film_{index:05d}" for index in range(num)),
    {"kind": "drawn films with reports", "num": num, "size": size, "seed": seed},
  )


def without_network(
  arm: str, films: ReportedFilms, language: str, parts: Mapping[str, Sequence[int]], seed: int
) -> list[str]:
  """What an arm without a network says of the test films; of those with a finding where one word
  is changed."""
  texts = films.texts[language]
  if arm == "one-for-all":
    every = [texts[i] for i in parts["train"]]
    return [max(sorted(set(every)), key=every.count)] * len(parts["test"])
  draws = lambda i: generator(seed, f"changed {language}", int(i))  # noqa: E731
  if arm == "second-writer":
    return [
      grammar.written(grammar.statements(films.states[i]), language, draws(i))
      for i in parts["test"]
    ]
  is_denied = arm == "denied"
  return [
    grammar.one_word_changed(texts[i], language, draws(i), is_denied=is_denied)
    for i in parts["test"]
    if films.states[i].any()
  ]


def _film(states: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
  """The right side of the chest is on the left of the picture, as in every film."""
  y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
  state = dict(zip(grammar.FINDINGS, states.tolist(), strict=True))
  sides = {"right": 0.28, "left": 0.72}
  tall, wide = random.uniform((0.36, 0.15), (0.4, 0.18))
  lung = {side: ((y - 0.5) / tall) ** 2 + ((x - at) / wide) ** 2 < 1 for side, at in sides.items()}
  image = 0.75 - 0.45 * (lung["right"] | lung["left"])
  half = random.uniform(0.11, 0.14) + (0.0, 0.06, 0.14)[state["enlargement", "heart"]]
  heart = ((y - 0.66) / 0.17) ** 2 + ((x - 0.52) / half) ** 2 < 1
  image = np.where(heart, 0.8, image)
  for side, at in sides.items():
    for level, middle in (("upper", 0.34), ("lower", 0.6)):
      degree = state["opacity", f"{side} {level} zone"]
      cy, cx = middle + random.normal(0, 0.02), at + random.normal(0, 0.02)
      radius, strength = (0.0, 0.05, 0.1)[degree], random.uniform(0.35, 0.5)
      if degree:
        image = image + strength * np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / radius**2)
    fluid = (0.0, 0.08, 0.2)[state["effusion", f"{side} angle"]]
    image = np.where(lung[side] & (y > 0.5 + tall - fluid), 0.75, image)
    air = (0.0, 0.12, 0.25)[state["pneumothorax", f"{side} apex"]]
    image = np.where(lung[side] & (y < 0.5 - tall + air), 0.0, image)
  image = image + random.normal(0, 0.1, image.shape)
  return ((image - image.mean()) / image.std()).astype(np.float32)[..., None]
