"""BLEU, ROUGE-L and METEOR of words that are parted by spaces; the one file for their libraries.

Not a study. sacrebleu, rouge-score and NLTK compute the figures; extra `text`. All of them come
with a tokenizer of English: rouge-score's deletes every Chinese character. Texts here are words
already, in any language, and every library is told so.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report_grammar import Reading
from medjax import check, metrics


def _library(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise check.InputError(name.partition(".")[0], "none", "pip install 'medjax[text]'") from error


class _Words:
  """A tokenizer for rouge-score; a WordNet without synonyms for NLTK, whose own is a download."""

  def tokenize(self, text: str) -> list[str]:
    return text.split()

  def synsets(self, word: str) -> list[Any]:
    del word
    return []


def text_scores(said: str, reference: str) -> dict[str, float]:
  """Scores of one text in [0, 1].

  Args:
    said: that is scored; an empty one has 0 everywhere.
    reference: that is right.
  Returns:
    "bleu": BLEU-4 of the sentence; orders longer than the text are left out, and an order without
    a match is smoothed as sacrebleu does by default. "rouge_l": F1 of the longest common
    subsequence. "meteor": matches of words and of Porter's stems; no synonyms.
  Raises:
    InputError: a reference without words, or a library is not installed.
  """
  check.require(reference.split(), "a reference with words", f"{reference!r}", "leave it out")
  words = _Words()
  bleu = _library("sacrebleu.metrics").BLEU(tokenize="none", effective_order=True)
  rouge = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=words)
  meteor = _library("nltk.translate.meteor_score")
  return {
    "bleu": bleu.sentence_score(said, [reference]).score / 100,
    "rouge_l": float(rouge.score(reference, said)["rougeL"].fmeasure),
    "meteor": float(meteor.single_meteor_score(reference.split(), said.split(), wordnet=words)),
  }


def corpus_bleu(said: Sequence[str], references: Sequence[str]) -> dict[str, float]:
  """BLEU-1 to BLEU-4 of many texts at once, as papers report them; no mean of sentences.

  Args:
    said, references: of the same length.
  """
  check.same_shape("said", (len(said),), "references", (len(references),))
  library = _library("sacrebleu.metrics")
  return {
    # `force`: that a full stop stands apart is no oversight here.
    f"bleu{order}": library.BLEU(tokenize="none", max_ngram_order=order, force=True)
    .corpus_score(list(said), [list(references)])
    .score
    / 100
    for order in range(1, 5)
  }


def corpus_scores(said: Sequence[Sequence[str]], references: Sequence[str]) -> dict[str, float]:
  """BLEU-1 to -4 of all reports at once, mean over seeds."""
  every = [corpus_bleu(own, references) for own in said]
  return {name: float(np.mean([own[name] for own in every])) for name in every[0]}


def rows_of_reports(
  said: Sequence[str],
  references: Sequence[str],
  reading: Reading,
  names: Sequence[str],
  about: Mapping[str, Any],
) -> list[dict[str, Any]]:
  """A row a report; a sentence that cannot be read is an edge that is in no graph."""
  rows = []
  for text, reference, name in zip(said, references, names, strict=True):
    own, right = reading.graph(text), reading.graph(reference)
    unread = {("unread", k) for k in range(own.num_unread)}
    figures = {
      "graph_f1": metrics.graph_score(own.edges | unread, right.edges).f1,
      "lesion_f1": metrics.graph_score(own.lesions, right.lesions).f1,
      **text_scores(text, reference),
      "unread": float(own.num_unread),
    }
    who = {"case": name, "subject": name, "domain": ""}
    rows.append({**about, **who, **{f"{metric}/all": value for metric, value in figures.items()}})
  return rows
