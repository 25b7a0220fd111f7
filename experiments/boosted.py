"""Explainable boosting machines of InterpretML; the one file that imports it.

  log-odds(x) = b + sum_j f_j(x_j) + sum_jk f_jk(x_j, x_k)

Nori et al., "InterpretML: A Unified Framework for Machine Learning Interpretability" (2019). Each f
is a step function that boosted trees of one or two features add up to, averaged over bags; pairs
are chosen by what they explain of the residuals. Not a study; extra `boosted`, which is the
package interpret-core: "interpret" adds servers, notebooks and Numba, which nothing here uses.
"""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from medjax import check
from medjax.data.seeds import generator


class Boosted(NamedTuple):
  """A fitted machine's answers.

  Attributes:
    log_odds: [m] of class 1 for the new rows.
    parts: [m, term], what each term adds; with `constant` they sum to `log_odds`.
    constant: b.
    terms: names of the terms: of a feature, or of two, "a & b".
    importance: [term] mean size of the term over the known rows, in log-odds.
  """

  log_odds: np.ndarray
  parts: np.ndarray
  constant: float
  terms: tuple[str, ...]
  importance: np.ndarray


def boosted(
  known: np.ndarray,
  labels: np.ndarray,
  new: np.ndarray,
  seed: int,
  *,
  names: Sequence[str],
  people: Sequence[str] | None = None,
  num_pairs: int = 2,
  num_bags: int = 8,
) -> Boosted:
  """Fits a machine to known rows and asks it about new ones.

  Args:
    known: [n, feature]; NaN is "missing", which has a bin of its own.
    labels: [n] 0 or 1, both there.
    new: [m, feature].
    seed: of the bags.
    names: of the features.
    people: [n] whose each row is. Every bag keeps 15 percent aside to stop by; the library draws
      rows, so that with several rows of a person it stops by people whom the bag knows, too late.
      With people the bags are drawn by them. None: each row is a person.
    num_pairs: pairs of features; the paper has 2.
    num_bags: machines that are averaged; the library has 14. All else is as the library has it.
  Raises:
    InputError: without the library; a feature that is the same in all known rows, which no step
      function can use; labels of one class.
  """
  try:
    machine: Any = importlib.import_module("interpret.glassbox").ExplainableBoostingClassifier
  except ImportError as error:
    raise check.InputError("interpret-core", "none", "pip install 'medjax[boosted]'") from error
  check.require(
    set(np.unique(labels).tolist()) == {0, 1}, "rows of both classes", "one", "take more rows"
  )
  for column, name in zip(known.T, names, strict=True):
    check.require(
      len(np.unique(column)) > 1,  # NaN counts as one value
      "features that differ among the known rows",
      f"{name} the same in all",
      "leave it out",
    )
  owners = np.arange(len(known)) if people is None else np.unique(people, return_inverse=True)[1]
  model = machine(
    feature_names=list(names),
    feature_types=["continuous"] * len(names),
    interactions=num_pairs if len(names) > 1 else 0,
    outer_bags=num_bags,
    n_jobs=1,  # as many processes as processors would start otherwise
    random_state=seed,
  )
  with warnings.catch_warnings():  # its own pictures, which are not used here, lack that bin
    warnings.filterwarnings("ignore", "Missing values detected")
    model.fit(known, labels, bags=bags_of(owners, num_bags, seed).T)
  parts = model.eval_terms(new)
  constant = float(np.ravel(model.intercept_)[0])
  return Boosted(
    constant + parts.sum(1),
    parts,
    constant,
    tuple(map(str, model.term_names_)),
    np.asarray(model.term_importances()),
  )


def bags_of(owners: np.ndarray, num_bags: int, seed: int) -> np.ndarray:
  """[bag, row] 1 for a row to learn from, -1 for one to stop by: 15 percent of the owners each.

  >>> bags = bags_of(np.array([0, 0, 1, 1]), 3, 0)
  >>> bool((bags[:, 0] == bags[:, 1]).all()), bool((np.sort(bags, 1) == [-1, -1, 1, 1]).all())
  (True, True)
  """
  random = generator(seed, "bags of people")
  num = int(owners.max()) + 1
  bags = np.ones((num_bags, len(owners)), np.int8)
  for bag in bags:
    aside = random.permutation(num)[: max(round(0.15 * num), 1)]
    bag[np.isin(owners, aside)] = -1
  return bags
