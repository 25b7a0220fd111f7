"""Two tasks that own the parameters between them: an encoder and a head each."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from medjax import check, tree
from medjax.types import Array, Key, Params, PyTree


class Task(NamedTuple):
  """One of the two tasks.

  Attributes:
    predict: `predict(params, example, key) -> logits [*space, class]` of ONE example.
    cost: `cost(logits, example) -> scalar`.
    encoder: path of a leaf -> whether it is in this task's encoder.
    head: path of a leaf -> whether it is in this task's head.
  """

  predict: Callable[[Params, PyTree, Key], Array]
  cost: Callable[[Array, PyTree], Array]
  encoder: Callable[[str], bool]
  head: Callable[[str], bool]

  def owns(self, name: str) -> bool:
    """Whether a leaf is trained in this task's turn."""
    return self.encoder(name) or self.head(name)


def check_owners(tasks: Mapping[str, Task], params: Params) -> None:
  """Raises InputError unless each leaf is owned by one of the tasks."""
  for name in tree.named_leaves(params):
    owners = [task for task, own in tasks.items() if own.owns(name)]
    check.require(
      len(owners) == 1,
      "every leaf owned by one task",
      f"{name} by {' and '.join(owners) or 'none'}",
      "correct `encoder` and `head`",
    )
