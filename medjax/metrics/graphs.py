"""How much of one graph is in another: what a text says, compared as a set of facts.

Overlaps of words (BLEU, ROUGE) rate "no effusion" beside "small effusion" like any other change of
a word. Facts that were read from both texts do not: entities and relations as RadGraph has them
(Jain et al., 2021), here any hashable edges.
"""

from collections.abc import Hashable, Iterable
from typing import NamedTuple


class GraphScore(NamedTuple):
  """Shares of edges: `precision` of the predicted, `recall` of the true ones, and `f1` of both."""

  precision: float
  recall: float
  f1: float


def graph_score(predicted: Iterable[Hashable], reference: Iterable[Hashable]) -> GraphScore:
  """Precision, recall and F1 of predicted edges; an edge counts once and matches as a whole.

  >>> reference = {("effusion", "located at", "left"), ("opacity", "absent from", "chest")}
  >>> graph_score({("effusion", "absent from", "left"), *list(reference)[:1]}, reference).f1
  0.5
  >>> graph_score([], []).f1, graph_score([], ["a"]).f1, graph_score(["a"], []).f1
  (1.0, 0.0, 0.0)

  Args:
    predicted, reference: edges, of a hashable type.
  Returns:
    1 for two graphs without edges: nothing was to be said and nothing was said.
  """
  found, right = set(predicted), set(reference)
  if not found and not right:
    return GraphScore(1.0, 1.0, 1.0)
  both = len(found & right)
  precision = both / len(found) if found else 0.0
  recall = both / len(right) if right else 0.0
  # 2 P R / (P + R) = 2 both / (found + right), which has no 0 / 0 here.
  return GraphScore(precision, recall, 2 * both / (len(found) + len(right)))
