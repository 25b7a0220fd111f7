"""What a run has decided before anything is trained: whom it tests, and what it asks of them.

Every study opens and ends in the same way. It says who stands in which part, works out what its
questions could find with so many seeds and people, writes splits.json, and at the end asks just
these questions of its rows. All of that hangs on the same few facts, which a `Design` holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from medjax import check, train
from medjax.study.power import announce, planned
from medjax.study.questions import Question, ask, not_asked
from medjax.study.results import results
from medjax.study.settings import Settings
from medjax.study.tables import ResultRow
from medjax.study.turns import Turn, splits_of
from medjax.types import Json


class Design(NamedTuple):
  """The facts of a run that its questions depend on; made by `design`.

  Attributes:
    splits: what splits.json holds: the people of each part, turn by turn.
    seeds: of the trainings of each arm.
    questions: all questions of the study.
    asked: those that its data can answer; the rows decide which of them have an answer.
    planned: the smallest differences that the run could find, see `planned`.
    margin: that a difference has to exceed.
  """

  splits: Mapping[str, Json]
  seeds: range
  questions: tuple[Question, ...]
  asked: tuple[Question, ...]
  planned: Sequence[Mapping[str, Json]]
  margin: float

  def begin(self, directory: train.RunDirectory) -> None:
    """Writes splits.json, and prints what the run could find before it starts to train."""
    directory.write_json("splits", self.splits)
    announce(self.planned)

  def results(
    self,
    rows: Sequence[ResultRow],
    metrics: Sequence[str],
    *,
    costs: Mapping[str, float] | None = None,
    flops: Mapping[str, float] | None = None,
    **more: Json,
  ) -> dict[str, Json]:
    """What results.json holds: `study.results`, with the questions asked of the rows.

    Args:
      rows: rows of cases, of all arms and roles.
      metrics: that are tabled.
      costs: arm -> operations of its whole training, for the remarks on equal compute, see `ask`.
      flops: arm -> operations of an update.
      more: further keys of the study.
    """
    answers = ask(self.asked, rows, margin=self.margin, costs=costs)
    return results(
      rows,
      metrics,
      questions=answers,
      planned=self.planned,
      not_asked=not_asked(self.questions, answers),
      flops=flops,
      **more,
    )


def design(
  config: Settings,
  seed: int,
  questions: Iterable[Question],
  arms: Iterable[str],
  turns: Sequence[Turn] | Mapping[str, Sequence[str]],
  *,
  tested: Mapping[str, int] | Sequence[str] = ("test",),
  asked: Iterable[Question] | None = None,
  kind: str = "people by part",
) -> Design:
  """The design of a run; whatever is wrong with it is refused before there is a run directory.

  >>> asks = Question("Does it help?", "plain", ("ours",), "auroc", spread=(("subject", 0.2),))
  >>> people = {"train": ("ann", "bob"), "test": ("cyd", "dan", "eve")}
  >>> own = design(Settings(num_seeds=2), 7, [asks], ("plain", "ours"), people)
  >>> list(own.seeds), own.planned[0]["members"]
  ([7, 8], {'seed': 2, 'subject': 3})

  Args:
    config: of the study; its number of seeds and its margin are used.
    seed: the first seed of the run, from which the parts were drawn.
    questions: all questions of the study.
    arms: that the run trains.
    turns: of the study; where there is one, part -> people does.
    tested: role -> number of people that are tested in it; of roles alone, in each the different
      people of the part "test" in all turns. A question of another role is asked where there are
      rows of that role; what it could find is not known beforehand.
    asked: the questions that these data can answer; None: all.
    kind: what the parts are, a few words for splits.json.
  Raises:
    InputError: a person in two parts of a turn, two turns of one name, no part "test" although
      `tested` gives no numbers.
  """
  turns = [Turn("", None, (), {}, turns)] if isinstance(turns, Mapping) else turns
  splits, questions = splits_of(turns, seed, kind), tuple(questions)
  if not isinstance(tested, Mapping):
    tested = dict.fromkeys(tested, len(_people_of("test", turns)))
  own = questions if asked is None else tuple(asked)
  seeds = range(seed, seed + config.num_seeds)
  members = {role: {"seed": len(seeds), "subject": number} for role, number in tested.items()}
  known = [question for question in own if question.role in members]
  power = planned(known, members, arms, margin=config.margin)
  return Design(splits, seeds, questions, own, power, config.margin)


def _people_of(part: str, turns: Sequence[Turn]) -> set[str]:
  """The different people of a part over all turns."""
  check.require(
    all(part in turn.people for turn in turns),
    f'a part "{part}" in every turn',
    f"{sorted({name for turn in turns for name in turn.people})}",
    "say with `tested` how many people are tested in which role",
  )
  return {person for turn in turns for person in turn.people[part]}
