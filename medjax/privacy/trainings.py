"""What a vault remembers of a training, and which training a run is.

A run that was stopped goes on as itself: same program, same plan, same start. It then draws what it
drew, releases what it released, and nothing is spent twice. Anything else is another training, with
samples and noise of its own, for which one pays beside what was spent before.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

POPULATION = ("num_examples", "unit", "sampling", "max_group_size", "repeated_subjects")
POPULATION += ("max_examples_per_subject",)


class Training(NamedTuple):
  """One training in a ledger.

  Attributes:
    plan: the plan's settings, flat.
    program: part of the training -> digest.
    origin: where its first state came from: "" for its initial parameters, else stamp and step of a
      checkpoint of another training.
    first: the first step that it released, if any.
    reserved: one beyond the last step that it may have released.
    num_parameters: numbers in a release; 0: not known.
    multipliers: noise multipliers of the releases of a sample, that of a count last.
    evaluators: names of what measured its states; those of people outside the data end in "*".
  """

  plan: Mapping[str, Any] = {}
  program: Mapping[str, str] = {}
  origin: str = ""
  first: int = 0
  reserved: int = 0
  num_parameters: int = 0
  multipliers: Sequence[float] = ()
  evaluators: Sequence[str] = ()

  @property
  def num_released(self) -> int:
    """Samples of which the releases may have been seen."""
    return max(self.reserved - self.first, 0)


def stamp(identity: str, number: int) -> str:
  """Text in a checkpoint that says which training wrote it."""
  return f"{identity} training {number}"


def origin(stamped: str, done: int) -> str:
  """Where a run starts that has done steps before it, or not."""
  return f"{stamped} step {done}" if done > 0 else ""


def find(
  known: Sequence[Training], new: Training, *, identity: str, stamped: str, done: int
) -> int | None:
  """Number of the training that a run goes on with, None if it is another one.

  It is training i if plan and program are those of i, and if its state is: it starts where i
  started, or from a checkpoint that i wrote.
  """
  for number in reversed(range(len(known))):
    one = known[number]
    is_same = one.plan == new.plan and one.program == new.program
    if is_same and (one.origin == new.origin or done > 0 and stamped == stamp(identity, number)):
      return number
  return None


def changes(old: Training, new: Training) -> str:
  """What differs between two trainings, in words.

  >>> a = Training({"max_norm": 1.0}, {"gradients": "1f", "noise and optimiser": "2e"})
  >>> changes(a, a._replace(program={"gradients": "1f", "noise and optimiser": "99"}))
  'noise and optimiser'
  """
  plans = {**old.plan, **new.plan}
  found = [
    f"{name} {new.plan.get(name)!r} (was {old.plan.get(name)!r})"
    for name in plans
    if old.plan.get(name) != new.plan.get(name)
  ]
  programs = {**old.program, **new.program}
  found += [name for name in programs if old.program.get(name) != new.program.get(name)]
  return ", ".join(found) or "the checkpoint that it starts from"
