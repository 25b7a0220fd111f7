"""The sentence that a private result may be published with, and its small print."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from medjax.privacy import accounting
from medjax.privacy.accounting import Cost
from medjax.privacy.correlated import Factor
from medjax.privacy.planned import Planned


@runtime_checkable
class PlanSettings(Planned, Protocol):
  """What of a plan is said; see `DPPlan`."""

  @property
  def example_name(self) -> str: ...
  @property
  def group_name(self) -> str: ...
  @property
  def delta(self) -> float: ...
  @property
  def max_norm(self) -> float | int: ...
  @property
  def diagnostics(self) -> bool: ...
  @property
  def multipliers(self) -> Sequence[float]: ...
  @property
  def factor(self) -> Factor | None: ...


class Released(NamedTuple):
  """What was released, or is planned to be.

  Attributes:
    cost: of all of it at the plan's delta.
    tail: part of delta that the cut tail of the noise takes.
    samples: released samples of each training; () where nothing was released and `cost` is that of
      the plan.
    evaluators: names of what measured the states; those declared to be on public data end in "*".
    note: what is to be said of the secrets.
  """

  cost: Cost
  tail: float
  samples: tuple[int, ...]
  evaluators: tuple[str, ...]
  note: str


def of(plan: PlanSettings, released: Released) -> str:
  """What `plan` protects, at what epsilon, and what lies outside."""
  lines = [_claim(plan, released), *_how(plan, released), "Outside this statement:"]
  return "\n".join([*lines, *(f"- {line}" for line in _outside(plan, released))])


def up(epsilon: float) -> str:
  """Four digits, never less than `epsilon`.

  >>> up(1.23401), up(8.0), up(math.inf)
  ('1.235', '8', 'infinite')
  """
  if math.isinf(epsilon):
    return "infinite"
  unit = 10.0 ** (math.floor(math.log10(epsilon)) - 3) if epsilon > 0 else 1.0
  return f"{math.ceil(epsilon / unit) * unit:.4g}"


def _claim(plan: PlanSettings, released: Released) -> str:
  protected = f"one {plan.example_name}"
  if plan.unit == "group":
    protected = f"one {plan.group_name}, with every {plan.example_name} of that {plan.group_name}"
  if plan.max_examples_per_subject is not None:
    protected = f"one {plan.group_name} with {_up_to(plan, plan.max_examples_per_subject)}"
  if math.isinf(released.cost.epsilon):
    why = "there is no noise"
    if plan.diagnostics:
      why = "diagnostics of private examples are shown"
    elif min(plan.multipliers) > 0:
      why = "the tail of the noise, or the accountant's rounding, exceeds delta"
    return f"Protected: nothing; epsilon is infinite ({why}). The unit would be {protected}."
  note = f" {released.note}." if released.note else ""
  return (
    f"Protected: {protected}. Neighbouring data sets: {accounting.RELATION[plan.sampling]} such"
    f" unit. epsilon = {up(released.cost.epsilon)} at delta = {plan.delta:g} after"
    f" {_samples(plan, released.samples)}, accountant {released.cost.accountant.upper()}.{note}"
  )


def _up_to(plan: PlanSettings, most: int) -> str:
  return (
    f"up to {most} examples, each one {plan.example_name}"
    if most > 1
    else f"one {plan.example_name}"
  )


def _samples(plan: PlanSettings, samples: tuple[int, ...]) -> str:
  if not samples:
    return f"the {plan.num_steps} samples that are planned; nothing is released yet"
  if len(samples) > 1:
    parts = " + ".join(str(count) for count in samples)
    return f"{sum(samples)} samples ({parts}, in {len(samples)} trainings of one vault)"
  count = samples[0]
  return f"{count} samples" if count == plan.num_steps else f"{count} of {plan.num_steps} samples"


def _how(plan: PlanSettings, released: Released) -> list[str]:
  rate = plan.expected_batch_size / plan.num_examples
  each = f"each of {plan.num_examples} {_drawn(plan)}"
  drawn = {
    "poisson": f"Poisson samples: {each} with probability {rate:.4g}",
    "fixed": f"samples of exactly {plan.expected_batch_size} of {plan.num_examples} units",
  }[plan.sampling]
  if plan.factor is not None and plan.factor.bands > 1:
    bands = plan.factor.bands
    drawn = (
      f"cyclic Poisson samples: each of {plan.num_examples} units is put into one of {bands} parts,"
      f" at random, and is drawn in one step of {bands} alone, with probability {bands * rate:.4g}"
    )
  if plan.max_sample_size is not None:
    drawn += f", at most {plan.max_sample_size} of those drawn"
  sigmas, count = ", ".join(f"{sigma:.4g}" for sigma in plan.multipliers), len(plan.multipliers)
  lines = [
    f"{drawn}; gradients clipped to {plan.max_norm:g};"
    f" {'1 release' if count == 1 else f'{count} releases'} a sample, noise multiplier"
    f" {sigmas}, composed within one sample; divided by the fixed {plan.expected_batch_size}."
    f" delta includes {released.tail:.2g} for the tail of the noise, which is cut."
  ]
  if plan.factor is not None and plan.factor.bands > 1:
    factor = plan.factor
    lines.append(
      f"The noise is correlated over steps (banded matrix factorisation, {factor.bands} bands,"
      f" starting anew every {factor.window} steps): what is new in a step has {factor.norm:.4g}"
      f" times the multiplier's std, which covers what one unit adds to {factor.bands} steps. It is"
      f" accounted as one independent release in {factor.bands} steps."
    )
  rule = plan.adaptive_clipping
  if rule is not None:
    lines.append(
      f"The clipping norm starts there and follows the {rule.quantile:g} quantile of the gradient"
      f" norms by a noisy count in each sample, multiplier"
      f" {rule.noise_ratio * plan.multipliers[-1]:.4g}, which is part of the cost."
    )
  if plan.unit == "group" and plan.max_group_size is not None:
    lines.append(
      f"At most {plan.max_group_size} of a {plan.group_name}'s examples (each one"
      f" {plan.example_name}) in a sample."
    )
  most = plan.max_examples_per_subject
  if most is not None and most > 1:
    lines.append(
      f"Each example of a {plan.group_name} is drawn by itself. A sample that holds i of them moves"
      f" by up to i = {most} times the clipping norm, with binomial probability: accounted as a"
      " mixture of Gaussians, for adding and for removing the whole."
    )
  if plan.unit == "example" and plan.repeated_subjects:
    lines.append(
      f"Several examples may be of one {plan.group_name}, or it is not known of whom they are: the"
      f" {plan.group_name} is NOT protected."
    )
  return lines


def _drawn(plan: PlanSettings) -> str:
  """What is drawn into a sample, each by itself."""
  return "units" if plan.max_examples_per_subject is None else "examples"


def _outside(plan: PlanSettings, released: Released) -> list[str]:
  lines = [
    f"the number of {_drawn(plan)}, {plan.num_examples}, the shape of the data and the size of the"
    " largest unit are treated as public",
    "choices made by looking at the same data: tuning, several trainings, choice of a checkpoint",
    "statistics of the data used in preprocessing, such as normalisation over the data set",
    "validation and test data: results on them protect nobody in them",
  ]
  public = sorted(name.removesuffix("*") for name in released.evaluators if name.endswith("*"))
  others = sorted(name for name in released.evaluators if not name.endswith("*"))
  if others:
    lines.append(
      f"what these evaluators printed of the states of the training: {', '.join(others)}; it"
      " protects nobody whom they measure"
    )
  if public:
    lines.append(
      f"that {', '.join(public)} measure nobody of the data, as was declared and not checked"
    )
  return [
    *lines,
    "floating-point rounding of clipped sums, by which runs on other devices differ",
    "the generator: noise comes from Threefry with keys of 64 bits, not from a certified source",
    "side channels: running time, which follows the size of each sample, memory, files of the run"
    " other than its releases",
  ]
