"""The page of the study of written reports."""

from collections.abc import Collection, Mapping
from typing import Any

from medjax import study
from medjax.train import Report


def page(
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
  shown: dict[tuple[str, int], dict[str, str]],
  arms: Mapping[str, study.Arm],
  changed: Collection[str],
) -> Report:
  """Answers, scores, verdicts, corpus BLEU, some reports, curves and costs.

  Args:
    found: results.
    trained: trainings of each arm.
    shown: (language, place of a test film) -> texts by who wrote them.
    arms: of the study.
    changed: arms that are references with a word changed by hand, in a table of their own.
  """
  report = study.page.start("Reports that are written from films", found)
  for title, is_changed in (("Scores", False), ("One word changed by hand", True)):
    own_arms = {k: own for k, own in found["arms"].items() if (k in changed) == is_changed}
    roles = {role: number for role, number in found["test_cases"].items()
             if role.endswith("-denied") == is_changed}  # fmt: skip
    if own_arms:
      part = found | {"arms": own_arms, "test_cases": roles}
      study.page.scores(report, part, arms, title=title)
  report.table(
    ["language", "arm", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"],
    [
      [language, arm, *own.values()]
      for language, every in found["corpus"].items()
      for arm, own in every.items()
    ],
    "Of all test reports at once, mean over seeds.",
  )
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.section("What they wrote", "Of two test films; first seed.")
  report.table(
    ["language", "film", "arm", "text"],
    [
      [language, ("first", "second")[place], arm, text]
      for (language, place), own in shown.items()
      for arm, text in own.items()
    ],
  )
  caption = "First seed, first language."
  study.page.trainings(report, found, trained, {"loss": "loss"}, caption=caption)
  return report
