"""Which options of a plan go together: those for whose combination a cost is known."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from medjax import check as checks
from medjax.privacy.accounting import Accountant
from medjax.privacy.correlated import BandedNoise
from medjax.privacy.planned import Planned


@runtime_checkable
class Options(Planned, Protocol):
  """The fields of a plan that do not go with all others; see `DPPlan`."""

  @property
  def noise_multipliers(self) -> Sequence[float | int] | None: ...
  @property
  def releases_per_sample(self) -> int | None: ...
  @property
  def accountant(self) -> Accountant | None: ...
  @property
  def mechanism(self) -> BandedNoise | None: ...


def check(plan: Options) -> None:
  """Raises InputError for options that together have no accounting, or make no sense."""
  if plan.mechanism is not None:
    _check_correlated(plan, plan.mechanism)
  if plan.max_examples_per_subject is not None:
    _check_people(plan, plan.max_examples_per_subject)


def _check_correlated(plan: Options, mechanism: BandedNoise) -> None:
  """Correlated noise."""
  bands, size = mechanism.bands, plan.expected_batch_size
  checks.require(
    _is_plain(plan),
    "Poisson samples of any size, a fixed clipping norm and one release a sample with correlated"
    " noise",
    "another setting",
    "leave out sampling, adaptive_clipping, max_sample_size and further releases, or mechanism",
  )
  checks.require(
    bands * size <= plan.num_examples,
    f"at most {plan.num_examples // size} bands",
    f"{bands}",
    "a step draws from one of so many parts of the data, and each has to hold a sample",
  )
  mechanism.factor(plan.num_steps)  # made now, so that what makes no sense is refused here


def _check_people(plan: Options, most: int) -> None:
  """Several examples of one person, each drawn by itself."""
  checks.positive("max_examples_per_subject", most)
  checks.require(
    plan.unit == "example" and not plan.repeated_subjects and plan.max_group_size is None,
    "unit='example', and neither repeated_subjects nor max_group_size, with"
    " max_examples_per_subject",
    f"unit={plan.unit!r}, repeated_subjects={plan.repeated_subjects},"
    f" max_group_size={plan.max_group_size}",
    "it protects people of whom each example is drawn by itself; unit='group' draws people whole",
  )
  checks.require(
    plan.mechanism is None and _is_plain(plan) and plan.accountant in (None, "pld"),
    "accountant='pld', independent noise, Poisson samples of any size, a fixed clipping norm and"
    " one release a sample with max_examples_per_subject",
    "another setting",
    "no other cost of several examples of a person is known: leave out accountant, mechanism,"
    " sampling, adaptive_clipping, max_sample_size and further releases, or take unit='group'",
  )


def _is_plain(plan: Options) -> bool:
  """Whether a sample is a Poisson sample of any size with one release of a fixed clipping norm."""
  return (
    plan.sampling == "poisson"
    and plan.adaptive_clipping is None
    and plan.max_sample_size is None
    and plan.releases_per_sample in (None, 1)
    and (plan.noise_multipliers is None or len(plan.noise_multipliers) == 1)
  )
