"""What a classifier's outputs on known pictures say of its outputs on new ones, in several ways.

Not a study: what is asked in `gpt4mia`, and the answers of its arms.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments import classical
from medjax import check
from medjax.data.simulated import context
from medjax.inference import transduction
from medjax.methods import in_context
from medjax.types import Batch

MOST = 10
"""Features and classes of a made-up problem, and so the most classes of a classifier."""


class Question(NamedTuple):
  """New samples and what is known.

  Attributes:
    role: "errors" or "classes".
    known, labels: [n, feature] and [n] class ids.
    new: [m, feature].
    num_classes: of the labels.
    seed: of draws.
    readers: "sequence" and "set", trained.
    number: how many known samples are shown after selection.
    scale: of kernel attention, chosen on the known samples.
  """

  role: str
  known: np.ndarray
  labels: np.ndarray
  new: np.ndarray
  num_classes: int
  seed: int
  readers: dict[str, in_context.ContextReader]
  number: int
  scale: float

  def read(self, chosen: np.ndarray, reader: str, labels: np.ndarray | None = None) -> np.ndarray:
    """Logits of the new samples by a transformer that is shown the chosen ones in this order."""
    labels = self.labels if labels is None else labels
    moved = [_padded(context.standardised(x, self.known)) for x in (self.known[chosen], self.new)]
    return self.readers[reader](moved[0], labels[chosen], moved[1])[:, : self.num_classes]

  def representatives(self) -> np.ndarray:
    return transduction.representatives(self.known, self.labels, self.number)

  def at_random(self, *, balanced: bool) -> np.ndarray:
    """The same number of samples, drawn; balanced: as many of each class as the selection has."""
    random = np.random.default_rng(self.seed)
    if not balanced:
      return random.permutation(len(self.known))[: self.number]
    counts = np.bincount(self.labels[self.representatives()], minlength=self.num_classes)
    drawn = [
      random.permutation(np.flatnonzero(self.labels == k))[:count] for k, count in enumerate(counts)
    ]
    return random.permutation(np.concatenate(drawn))

  def classical(self, classify: classical.Classifier) -> np.ndarray:
    return classify(self.known, self.labels, self.new, self.num_classes, self.seed)


def _padded(x: np.ndarray) -> np.ndarray:
  return np.pad(x, [(0, 0), (0, MOST - x.shape[1])]).astype(np.float32)


def confidence(q: Question) -> np.ndarray:
  """The classifier alone: its own class, or an error where it is less sure than a bound.

  The bound is the one of the known samples that catches most errors less false alarms.
  """
  if q.role == "classes":
    return q.new
  sure, is_error = q.known.max(1), q.labels == 1
  bounds = np.unique(sure)
  gains = [(sure[is_error] <= b).mean() - (sure[~is_error] <= b).mean() for b in bounds]
  is_unsure = q.new.max(1) <= bounds[int(np.argmax(gains))]
  return np.eye(2)[is_unsure.astype(int)]


def attention(q: Question) -> np.ndarray:
  keys, new = (transduction.unit(jnp.asarray(x, jnp.float32)) for x in (q.known, q.new))
  values = transduction.balanced_values(q.labels, q.num_classes)
  return np.asarray(transduction.kernel_attention(new, keys, values, q.scale))


def shuffled(q: Question) -> np.ndarray:
  order = np.random.default_rng(q.seed).permutation(len(q.labels))
  return q.read(np.arange(len(q.known)), "set", q.labels[order])


def questions_of(
  ratio: float,
  parts: Mapping[str, Batch],
  outputs: Mapping[str, np.ndarray],
  seed: int,
  readers: dict[str, in_context.ContextReader],
) -> dict[str, tuple[Question, np.ndarray]]:
  """Role -> (what is asked, right answers), from a classifier's probabilities.

  Args:
    ratio: share of the known samples that is shown after selection.
    parts, outputs: "known" and "test" pictures, and the probabilities [n, class] of each.
    seed: of draws.
    readers: "sequence" and "set", trained.
  Raises:
    InputError: a classifier that gets all pictures of a part right, or all wrong.
  """
  labels = {part: np.asarray(own.label) for part, own in parts.items()}
  errors = {part: (outputs[part].argmax(1) != own).astype(np.int32) for part, own in labels.items()}
  for part in ("known", "test"):
    check.require(
      0 < errors[part].sum() < len(errors[part]),
      f"a classifier that gets some of the {part} pictures wrong, and some right",
      f"{errors[part].sum()} of {len(errors[part])} wrong",
      "train it on fewer pictures, or for fewer updates",
    )
  keys = transduction.unit(jnp.asarray(outputs["known"], jnp.float32))
  found: dict[str, tuple[Question, np.ndarray]] = {}
  for role, own, num_classes in (
    ("errors", errors, 2),
    ("classes", labels, outputs["known"].shape[1]),
  ):
    number = max(int(ratio * len(own["known"])), num_classes)
    scale = transduction.best_scale(keys, own["known"], num_classes)
    known, new = outputs["known"], outputs["test"]
    given = Question(role, known, own["known"], new, num_classes, seed, readers, number, scale)
    found[role] = given, own["test"]
  return found
