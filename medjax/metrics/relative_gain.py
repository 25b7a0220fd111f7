"""How much several tasks gain over a network each, in one number (CTAN, Section 3)."""

from collections.abc import Mapping

from medjax import check


def relative_gain(
  scores: Mapping[str, float],
  reference: Mapping[str, float],
  *,
  lower_is_better: tuple[str, ...] = (),
) -> dict[str, float]:
  """Gains in percent of the reference, and their mean.

    gain = 100 (M - M_ref) / M_ref, with the other sign where less is better

  >>> relative_gain({"dice": 0.9, "dose": 0.5}, {"dice": 0.8, "dose": 0.4},
  ...               lower_is_better=("dose",))
  {'dice': 12.5, 'dose': -25.0, 'mean': -6.25}

  Args:
    scores, reference: name of a score -> its value; the reference is one network a task.
    lower_is_better: names of errors.
  Returns:
    Name -> percent, and "mean" over them.
  Raises:
    InputError: other names than the reference's, a score called "mean", an unknown name in
      `lower_is_better`, a reference of 0.
  """
  check.require(
    set(scores) == set(reference) and scores and "mean" not in scores,
    f"the scores {', '.join(reference)}, none called 'mean'",
    f"{', '.join(scores)}",
    "score both alike",
  )
  for name in lower_is_better:
    check.one_of("lower_is_better", name, scores)
  for name, value in reference.items():
    check.require(
      value != 0, f"a reference of {name} other than 0", "0", "a share of 0 says nothing"
    )
  found = {
    name: round(100 * (value - reference[name]) / abs(reference[name]), 12)
    * (-1 if name in lower_is_better else 1)
    for name, value in scores.items()
  }
  return {**found, "mean": sum(found.values()) / len(found)}
