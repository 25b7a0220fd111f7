"""One object from which sampling, noise and accounting come, so that they cannot disagree."""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from medjax import check
from medjax.privacy import accounting, statement
from medjax.privacy.accounting import Accountant, Sampling
from medjax.privacy.quantile import QuantileClipping
from medjax.privacy.sampling import PrivateStream, fingerprint, host_arrays, units_of
from medjax.privacy.vault import Vault
from medjax.types import Key, PyTree, Step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DPPlan:
  """What is protected, by how much noise, over how many samples.

  >>> plan = DPPlan(num_examples=60_000, expected_batch_size=600, num_steps=100, delta=1e-6,
  ...               max_norm=1.0, unit="example", noise_multiplier=1.0)
  >>> plan.epsilon(steps=0), plan.epsilon("rdp") > plan.epsilon("pld") > 0.5
  (0.0, True)

  Attributes:
    num_examples: units of privacy in the data, N: examples, or people with unit="group". Public.
    expected_batch_size: units in a sample, L; the fixed denominator of every release. Public.
    num_steps: sampling events of the whole training.
    delta: in (0, 1); below 1 / N, else a warning.
    max_norm: clipping norm C of a unit's gradient; with adaptive_clipping where it starts.
    unit: "example" or "group": all examples of one subject together.
    noise_multiplier: noise std of a release over C; after construction that of all releases of a
      sample together, which is what the accounting sees.
    noise_multipliers: those of each release of a sample, in order, where they differ.
    target_epsilon: in place of a multiplier: the noise is calibrated to it, never above it.
    releases_per_sample: noisy results of one sample; they compose inside one sampling event.
    sampling: "poisson", or "fixed" for samples of exactly L, whose guarantee is to replace one
      unit, not to add or remove one.
    adaptive_clipping: the norm follows a quantile of the gradient norms; its noisy count is paid
      for beside the releases.
    accountant: of the calibration and of `epsilon`; default PLD, for fixed samples RDP.
    max_group_size: members of a group in a sample, drawn anew each time; None: all of the largest.
    repeated_subjects: with unit="example", accept several examples of one subject, who is then
      not protected, or examples of unknown subjects.
    diagnostics: also measure what is not released; epsilon is then infinite.
    vault: secrets and ledger; default in memory, with which another process cannot resume.
  Raises:
    InputError: numbers out of range, no noise with a finite target, both or neither of multiplier
      and target.
  """

  num_examples: int
  expected_batch_size: int
  num_steps: int
  delta: float
  max_norm: float | int
  unit: Literal["example", "group"]
  noise_multiplier: float | int | None = None
  noise_multipliers: Sequence[float | int] | None = None
  target_epsilon: float | int | None = None
  releases_per_sample: int | None = None
  sampling: Sampling = "poisson"
  adaptive_clipping: QuantileClipping | None = None
  accountant: Accountant | None = None
  max_group_size: int | None = None
  repeated_subjects: bool = False
  diagnostics: bool = False
  vault: Vault | None = dataclasses.field(default=None, repr=False)

  def __post_init__(self):
    for name in ("num_examples", "expected_batch_size", "num_steps", "max_norm"):
      check.positive(name, getattr(self, name))
      check.require(
        name == "max_norm" or isinstance(getattr(self, name), int | np.integer),
        f"a whole number as {name}",
        f"{getattr(self, name)}",
        "round it",
      )
    check.require(
      math.isfinite(self.max_norm), "a finite max_norm", f"{self.max_norm}", "noise is a multiple"
    )
    check.one_of("unit", self.unit, ("example", "group"))
    check.one_of("sampling", self.sampling, ("poisson", "fixed"))
    check.require(0 < self.delta < 1, "delta in (0, 1)", f"{self.delta}", "see DPPlan")
    check.require(
      self.expected_batch_size <= self.num_examples,
      f"an expected batch of at most {self.num_examples} units",
      f"{self.expected_batch_size}",
      "a sample holds each unit at most once",
    )
    if self.max_group_size is not None:
      check.positive("max_group_size", self.max_group_size)
    if self.delta >= 1 / self.num_examples:
      warnings.warn(
        f"delta {self.delta:g} is not below 1 / {self.num_examples}: a mechanism that publishes one"
        " unit at random would satisfy it",
        stacklevel=3,
      )
    set_field = object.__setattr__  # frozen
    set_field(self, "accountant", self.accountant or _DEFAULT[self.sampling])
    set_field(self, "vault", self.vault or Vault.in_memory())
    multipliers = self._multipliers()
    set_field(self, "noise_multipliers", multipliers)
    set_field(self, "releases_per_sample", len(multipliers))
    paid = multipliers if self.adaptive_clipping is None else (*multipliers, self.count_multiplier)
    set_field(self, "noise_multiplier", accounting.effective_multiplier(paid))

  def _multipliers(self) -> tuple[float, ...]:
    given = {
      name: getattr(self, name)
      for name in ("noise_multiplier", "noise_multipliers", "target_epsilon")
      if getattr(self, name) is not None
    }
    check.require(
      len(given) == 1,
      "one of noise_multiplier, noise_multipliers and target_epsilon",
      f"{', '.join(given) or 'none'}",
      "noise or target, not both",
    )
    count = 1 if self.releases_per_sample is None else self.releases_per_sample
    check.positive("releases_per_sample", count)
    rule = self.adaptive_clipping
    if rule is not None:
      rule.check()
    if self.noise_multipliers is not None:
      each = tuple(float(sigma) for sigma in self.noise_multipliers)
      check.require(
        self.releases_per_sample in (None, len(each)) and len(each) > 0,
        f"a multiplier for each of {count} releases",
        f"{len(each)}",
        "leave releases_per_sample out",
      )
    elif self.noise_multiplier is not None:
      each = (float(self.noise_multiplier),) * count
    else:
      assert self.target_epsilon is not None
      whole = accounting.calibrated(
        float(self.target_epsilon), accountant=self.accountant, **self._setting
      )
      # sigma^-2 (count + ratio^-2) = whole^-2
      share = count if rule is None else count + rule.noise_ratio**-2
      each = (whole * math.sqrt(share),) * count
    for sigma in each:
      check.require(
        0 <= sigma < math.inf,
        "finite noise multipliers >= 0",
        f"{sigma}",
        "0 is no noise: no privacy",
      )
    return each

  @property
  def _setting(self) -> dict[str, Any]:
    return {
      "num_units": self.num_examples,
      "sample_size": self.expected_batch_size,
      "num_steps": self.num_steps,
      "delta": self.delta,
      "sampling": self.sampling,
    }

  def epsilon(self, accountant: Accountant | None = None, *, steps: int | None = None) -> float:
    """Upper bound on epsilon at `delta` after `steps` samples, default all; inf is no privacy."""
    steps = self.num_steps if steps is None else steps
    check.require(
      0 <= steps <= self.num_steps, f"steps in [0, {self.num_steps}]", f"{steps}", "see num_steps"
    )
    if self.diagnostics:
      return math.inf
    accountant = accountant or self.accountant
    return accounting.epsilon(
      self.noise_multiplier, accountant=accountant, **{**self._setting, "num_steps": steps}
    )

  def statement(self) -> str:
    """What is protected, how well, and what is not: to be printed with every result."""
    return statement.of(self)

  def stream(self, source: PyTree, *, chunk: int) -> PrivateStream:
    """Samples of the plan, in chunks of `chunk` units.

    Args:
      source: `Batch` or mapping of arrays [examples, ...], on the host, or a `Source` of cases of
        one shape. Groups are the values of `subject`.
      chunk: units worked on together, the static shape of a compiled step.
    Raises:
      InputError: another number of units than `num_examples`, units that do not fit the data, or
        data other than those that the vault was first used with.
    """
    check.positive("chunk", chunk)
    store = host_arrays(source)
    units = units_of(
      store,
      unit=self.unit,
      max_group_size=self.max_group_size,
      repeated_subjects=self.repeated_subjects,
    )
    check.require(
      len(units.rows) == self.num_examples,
      f"{self.num_examples} units in the data, as the plan says",
      f"{len(units.rows)}",
      "plan with the number of examples, or of subjects with unit='group'",
    )
    self._vault.bind(plan=self._fingerprint(), data=fingerprint(store))
    size = self.expected_batch_size
    return PrivateStream(store, units, chunk, self.sampling, size, self._vault)

  def noise_key(self, step: int) -> Key:
    """Key of the noise of a step, which is reserved in the ledger first; for `Step.key_of`.

    Raises:
      InputError: a step that is not accounted for, samples that are not the plan's, or a second
        training with the secrets of a first: what the two release would differ by no noise at all.
        Secrets from a seed and plans with diagnostics protect nothing and are free of the last two.
    """
    check.require(
      0 <= step < self.num_steps,
      f"a step below {self.num_steps}, what the plan accounts for",
      f"step {step}",
      "plan for more steps in a new run",
    )
    if self._vault.is_secret and not self.diagnostics:
      check.require(
        "data" in self._vault.served,
        "samples from the plan",
        "no stream of it",
        "feed the Step with plan.stream(...): the accounting holds for its samples alone",
      )
      check.require(
        step > 0 or not self._vault.has_begun and self._vault.reserved < self.num_steps,
        "one training a vault",
        "step 0 anew",
        "make another plan and vault, and count what the first has released as spent",
      )
    self._vault.bind(plan=self._fingerprint())
    return self._vault.noise_key(step)

  def check_step(self, step: Step) -> None:
    """Raises InputError if `step` releases more, or does not say how much."""
    check.require(
      step.releases_per_sample is not None or self.diagnostics,
      "a Step that declares its releases per sample",
      "one that does not",
      "build it with methods.private",
    )
    check.require(
      step.releases_per_sample in (None, self.releases_per_sample),
      f"a Step of {self.releases_per_sample} releases per sample, as the plan accounts for",
      f"{step.releases_per_sample}",
      "pass DPPlan(releases_per_sample=...) or noise_multipliers=(...)",
    )

  def manifest(self) -> dict[str, str | int | float]:
    """What a resumed run must share; holds no secret."""
    return {f"privacy_{k}": v for k, v in self._fingerprint().items()} | {
      "privacy_vault": self._vault.identity
    }

  def _fingerprint(self) -> dict[str, Any]:
    names = ("num_examples", "expected_batch_size", "num_steps", "delta", "max_norm", "unit")
    names += ("sampling", "max_group_size", "repeated_subjects", "diagnostics")
    plain = {name: getattr(self, name) for name in names}
    if self.adaptive_clipping is not None:
      plain |= {f"clipping_{k}": v for k, v in self.adaptive_clipping._asdict().items()}
    plain["noise_multipliers"] = " ".join(np.format_float_positional(s) for s in self.multipliers)
    return {k: str(v) if v is None or isinstance(v, bool) else v for k, v in plain.items()}

  @property
  def _vault(self) -> Vault:
    assert self.vault is not None
    return self.vault

  @property
  def multipliers(self) -> tuple[float, ...]:
    """Noise multiplier of each release of a sample, in order."""
    assert self.noise_multipliers is not None
    return tuple(self.noise_multipliers)

  @property
  def count_multiplier(self) -> float:
    """Noise std of the count of adaptive clipping over its sensitivity."""
    assert self.adaptive_clipping is not None
    return self.adaptive_clipping.noise_ratio * self.multipliers[-1]


_DEFAULT: dict[Sampling, Accountant] = {"poisson": "pld", "fixed": "rdp"}
