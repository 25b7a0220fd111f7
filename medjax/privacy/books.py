"""What the trainings of a vault have cost, added up as their plan accounts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medjax import check
from medjax.privacy import accounting, noise, statement, trainings
from medjax.privacy.accounting import Accountant, Cost, Spending
from medjax.privacy.trainings import Training
from medjax.privacy.vault import Vault
from medjax.types import Beginning

_ASSUMED_NUMBERS = 2**20  # in a release, where it is not known yet
_REACH = {"poisson": 1.0, "fixed": 2.0}  # how far one example moves a sum, over C


class Books(NamedTuple):
  """How a plan accounts.

  Attributes:
    settings: of the plan, flat; see `DPPlan.settings`.
    multipliers: of all releases of a sample, a count's too.
    delta: of the plan.
    num_steps: that it plans.
    accountant: of its epsilon.
    is_open: whether private examples are shown: epsilon is infinite.
  """

  settings: Mapping[str, Any]
  multipliers: tuple[float, ...]
  delta: float
  num_steps: int
  accountant: Accountant
  is_open: bool

  def planned(self) -> Training:
    """The training that the plan plans, all of it released."""
    return Training(self.settings, reserved=self.num_steps, multipliers=self.multipliers)

  def cost(self, done: Sequence[Training]) -> Cost:
    """Epsilon of all releases of some trainings at delta less what the noise's tail takes."""
    if self.is_open:
      return Cost(math.inf, self.accountant)
    tail = self.tail(done)
    if not tail < self.delta:
      return Cost(math.inf, self.accountant)
    return accounting.cost(self._spending(done), self.delta - tail, self.accountant)

  def tail(self, done: Sequence[Training]) -> float:
    """What the cut tail of the noise adds to delta; see `noise.excess`."""

    def total(epsilon: float) -> float:
      return sum(
        noise.excess(
          one.multipliers or self.multipliers,
          num_released=one.num_parameters or _ASSUMED_NUMBERS,
          num_samples=one.num_released,
          reach=_REACH[{**self.settings, **one.plan}["sampling"]] * self._per_subject(one),
          epsilon=epsilon,
        )
        for one in done
      )

    found = total(math.inf)
    if found < 1e-3 * self.delta or self.is_open:
      return found
    # The other bound needs an epsilon, at least that at delta - tail. The one at delta / 2 is, as
    # long as the tail takes no more than half of delta.
    half = accounting.cost(self._spending(done), self.delta / 2, self.accountant).epsilon
    other = total(half)
    return other if other <= self.delta / 2 else found

  def check_restart(self, known: Sequence[Training], new: Training, *, pays: bool) -> None:
    """Raises InputError for a training after others that cannot or shall not be paid for."""
    last = known[-1]
    for name in trainings.POPULATION:
      check.require(
        last.plan.get(name) == new.plan.get(name),
        f"{name} {last.plan.get(name)!r}, as in the training that the vault has begun",
        f"{new.plan.get(name)!r}",
        "what the two protect cannot be added up: take another vault, and count both",
      )
    if pays:
      return
    whole = self.cost((*known, new._replace(reserved=self.num_steps))).epsilon
    spent = self.cost(known).epsilon
    check.require(
      False,
      f"the training that this vault has begun, of which {last.num_released} samples are released",
      f"another one (changed: {trainings.changes(last, new)})",
      "restore it, or let this one pay, with samples and noise of its own:"
      f" DPPlan(restarts='pay') makes it epsilon {statement.up(whole)} in all;"
      f" {statement.up(spent)} is spent",
    )

  def begin(
    self, vault: Vault, beginning: Beginning, names: Sequence[str], *, pays: bool
  ) -> str | None:
    """Goes on with a training of the vault, or begins one; returns the stamp of its checkpoints."""
    known, start = vault.trainings, trainings.origin(beginning.stamp, beginning.done)
    new = Training(
      dict(self.settings),
      dict(beginning.program()) if self._is_bound(vault) else {},
      start,
      first=beginning.done if start else 0,
      reserved=beginning.done,
      num_parameters=beginning.num_parameters,
      multipliers=self.multipliers,
      evaluators=tuple(names),
    )
    if not self._is_bound(vault):
      # Nothing is protected. Samples and noise of a seed are the same in every training.
      vault.begin(new._replace(origin="", first=0), 0 if known else None)
      return None
    number = trainings.find(
      known, new, identity=vault.identity, stamped=beginning.stamp, done=beginning.done
    )
    if number is None and known and beginning.done >= beginning.num_steps:
      return beginning.stamp  # nothing is left to release
    if number is None and known:
      self.check_restart(known, new, pays=pays)
    if number is not None:
      old = known[number]
      new = old._replace(evaluators=tuple(dict.fromkeys((*old.evaluators, *names))))
    return trainings.stamp(vault.identity, vault.begin(new, number))

  def released(self, vault: Vault) -> statement.Released:
    """What the statement has to say of a vault."""
    done = [one for one in vault.trainings if one.num_released]
    counted = done or [self.planned()]
    return statement.Released(
      self.cost(counted),
      self.tail(counted),
      tuple(one.num_released for one in done),
      tuple(dict.fromkeys(name for one in done for name in one.evaluators)),
      vault.note,
    )

  def _is_bound(self, vault: Vault) -> bool:
    """Whether anything is protected, so that a program may not share another one's noise."""
    return vault.is_secret and not self.is_open

  def _per_subject(self, one: Training) -> int:
    """Examples of one protected unit that may be in a sample."""
    return (one.plan or self.settings).get("max_examples_per_subject", 1)

  def _spending(self, done: Sequence[Training]) -> tuple[Spending, ...]:
    found: dict[Spending, int] = {}
    for one in done:
      plan = {**self.settings, **one.plan}
      bands = (one.plan or self.settings).get("bands", 1)
      kind = Spending(
        accounting.effective_multiplier(one.multipliers or self.multipliers),
        plan["num_examples"],
        bands * plan["expected_batch_size"],
        0,
        plan["sampling"],
        plan["max_sample_size"] or None,
        self._per_subject(one),
      )
      found[kind] = found.get(kind, 0) + accounting.rounds(one.num_released, bands)
    return tuple(kind._replace(num_steps=count) for kind, count in found.items())
