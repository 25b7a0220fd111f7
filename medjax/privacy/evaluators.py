"""Evaluators of private trainings: whom they measure decides what may follow from them."""

import dataclasses
from collections.abc import Mapping

from medjax.types import Evaluator, TrainState


@dataclasses.dataclass(frozen=True)
class OnPublicData:
  """An evaluator of which its owner says that it measures nobody whom the plan protects."""

  evaluator: Evaluator

  def __call__(self, state: TrainState) -> Mapping[str, float]:
    return self.evaluator(state)


def on_public_data(evaluator: Evaluator) -> OnPublicData:
  """The same evaluator, declared to measure people who are none of the plan's data.

  What it prints, and a state that is chosen by it, then say nothing of those whom the plan
  protects. Nothing checks that; the statement repeats that it was declared.

  >>> public = on_public_data(lambda state: {"accuracy": 0.5})
  >>> is_public(public), is_public(lambda state: {})
  (True, False)
  """
  return OnPublicData(evaluator)


def is_public(evaluator: Evaluator) -> bool:
  """Whether `on_public_data` made it."""
  return isinstance(evaluator, OnPublicData)
