"""One object from which sampling, noise and accounting come, so that they cannot disagree."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from medjax import check
from medjax.privacy import accounting, combinations, statement
from medjax.privacy.accounting import Accountant, Sampling
from medjax.privacy.books import Books
from medjax.privacy.correlated import BandedNoise, Factor
from medjax.privacy.evaluators import is_public
from medjax.privacy.quantile import LARGEST_NORM, LEAST_NORM, QuantileClipping
from medjax.privacy.sampling import PrivateStream, fingerprint, host_arrays, sealed, units_of
from medjax.privacy.vault import Vault
from medjax.types import Beginning, Key, PyTree, Step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DPPlan:
  """What is protected, by how much noise, over how many samples.

  >>> plan = DPPlan(num_examples=60_000, expected_batch_size=600, num_steps=100, delta=1e-6,
  ...               max_norm=1.0, unit="example", noise_multiplier=1.0)
  >>> plan.epsilon(steps=0), plan.epsilon("rdp") > plan.epsilon("pld") > 0.5
  (0.0, True)

  Several pictures of a person, of whom all are protected together:

  >>> people = DPPlan(num_examples=60_000, expected_batch_size=600, num_steps=100, delta=1e-6,
  ...                 max_norm=1.0, unit="example", max_examples_per_subject=3,
  ...                 noise_multiplier=2.0)
  >>> people.statement().partition(".")[0]
  'Protected: one patient with up to 3 examples, each one image'

  Attributes:
    num_examples: what samples are drawn from, N: examples, or people with unit="group". Public.
    expected_batch_size: units in a sample, L; the fixed denominator of every release. Public.
    num_steps: sampling events of the whole training.
    delta: in (0, 1); below 1 / N, else a warning.
    max_norm: clipping norm C of a unit's gradient, in [1e-10, 1e10]; with adaptive_clipping where
      it starts.
    unit: "example" or "group": all examples of one subject together.
    example_name, group_name: what an example and a subject are called in the statement.
    noise_multiplier: noise std of every release over C.
    noise_multipliers: those of each release of a sample, in order, where they differ.
    target_epsilon: in place of a multiplier: the noise is calibrated to it, never above it.
    releases_per_sample: noisy results of one sample; they compose inside one sampling event.
    sampling: "poisson", or "fixed" for samples of exactly L, whose guarantee is to replace one
      unit, not to add or remove one.
    adaptive_clipping: the norm follows a quantile of the gradient norms; its noisy count is paid
      for beside the releases.
    accountant: of the calibration and of `epsilon`; default PLD, for fixed samples RDP.
    max_sample_size: units beyond so many are left out of a Poisson sample, at random, so that its
      memory and time are bounded; paid for in delta. None: a sample takes whom it draws.
    mechanism: how the noise of different steps hangs together: `BandedNoise` for noise that later
      steps take back in part, with cyclic Poisson samples; None: independent noise, DP-SGD.
    max_group_size: members of a group in a sample, drawn anew each time; None: all of the largest.
    max_examples_per_subject: with unit="example", accept up to so many examples of one subject and
      protect the subject, with all of them. Examples are drawn one by one, so that a subject may
      have several in a sample: that is paid for. With many examples a subject, few of which are in
      a sample, this costs more noise and keeps more data than unit="group" with max_group_size.
      Accountant PLD, Poisson samples of any size, one release a sample, a fixed clipping norm.
    repeated_subjects: with unit="example", accept several examples of one subject, who is then
      not protected, or examples of unknown subjects.
    diagnostics: also measure what is not released; epsilon is then infinite.
    restarts: what to do where the vault has begun another training, of another loss, optimiser,
      start or plan, on the same data: "refuse" it and say what it would cost, or let it "pay":
      it gets samples and noise of its own and the statement adds up all that was released.
    vault: secrets and ledger; default in memory, with which another process cannot resume.
  The fields stay as they are given: `dataclasses.replace` makes another plan of one. What follows
  from them is in `multipliers` and `effective_multiplier`.
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
  example_name: str = "image"
  group_name: str = "patient"
  noise_multiplier: float | int | None = None
  noise_multipliers: Sequence[float | int] | None = None
  target_epsilon: float | int | None = None
  releases_per_sample: int | None = None
  sampling: Sampling = "poisson"
  adaptive_clipping: QuantileClipping | None = None
  accountant: Accountant | None = None
  max_sample_size: int | None = None
  mechanism: BandedNoise | None = None
  max_group_size: int | None = None
  max_examples_per_subject: int | None = None
  repeated_subjects: bool = False
  diagnostics: bool = False
  restarts: Literal["refuse", "pay"] = "refuse"
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
      LEAST_NORM <= self.max_norm <= LARGEST_NORM,
      f"max_norm in [{LEAST_NORM:g}, {LARGEST_NORM:g}]",
      f"{self.max_norm}",
      "float32 cannot square gradients of such a size: scale the loss",
    )
    check.one_of("unit", self.unit, ("example", "group"))
    check.one_of("sampling", self.sampling, ("poisson", "fixed"))
    check.one_of("restarts", self.restarts, ("refuse", "pay"))
    if self.max_sample_size is not None:
      check.require(
        self.expected_batch_size <= self.max_sample_size and self.sampling == "poisson",
        f"max_sample_size of at least {self.expected_batch_size}, for Poisson samples",
        f"{self.max_sample_size} for {self.sampling} samples",
        "take a few standard deviations, sqrt(expected_batch_size), more than the expected size",
      )
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
    combinations.check(self)
    assert self.multipliers  # made now, so that what makes no sense is refused here

  @functools.cached_property
  def factor(self) -> Factor | None:
    """The matrix of correlated noise, None where noise is independent."""
    return None if self.mechanism is None else self.mechanism.factor(self.num_steps)

  @property
  def bands(self) -> int:
    """Parts of the data from which samples are drawn in turn; 1: all at once."""
    return 1 if self.mechanism is None else self.mechanism.bands

  @functools.cached_property
  def secrets(self) -> Vault:
    """The vault, one in memory where none is given."""
    return Vault.in_memory() if self.vault is None else self.vault

  @property
  def chosen_accountant(self) -> Accountant:
    """The accountant, the default of the sampling where none is given."""
    return self.accountant or _DEFAULT[self.sampling]

  @functools.cached_property
  def multipliers(self) -> tuple[float, ...]:
    """Noise multiplier of each release of a sample, in order."""
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
        float(self.target_epsilon), accountant=self.chosen_accountant, **self._setting
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
      # To one unit, cyclic samples are Poisson samples of every `bands`-th step.
      "sample_size": self.bands * self.expected_batch_size,
      "num_steps": accounting.rounds(self.num_steps, self.bands),
      "delta": self.delta,
      "sampling": self.sampling,
      "max_sample_size": self.max_sample_size,
      "per_subject": self.max_examples_per_subject or 1,
    }

  @property
  def count_multiplier(self) -> float:
    """Noise std of the count of adaptive clipping over its sensitivity."""
    assert self.adaptive_clipping is not None
    return self.adaptive_clipping.noise_ratio * self.multipliers[-1]

  @property
  def effective_multiplier(self) -> float:
    """Of all releases of a sample together, a count's too: what the accounting sees."""
    return accounting.effective_multiplier(self._paid)

  @property
  def _paid(self) -> tuple[float, ...]:
    count = () if self.adaptive_clipping is None else (self.count_multiplier,)
    return (*self.multipliers, *count)

  def epsilon(self, accountant: Accountant | None = None, *, steps: int | None = None) -> float:
    """Upper bound on epsilon at `delta` of `steps` samples of this plan alone, default all.

    What other trainings of the vault have spent is in the statement. inf is no privacy.
    """
    steps = self.num_steps if steps is None else steps
    check.require(
      0 <= steps <= self.num_steps, f"steps in [0, {self.num_steps}]", f"{steps}", "see num_steps"
    )
    if self.diagnostics:
      return math.inf
    setting: dict[str, Any] = {**self._setting, "num_steps": accounting.rounds(steps, self.bands)}
    accountant = accountant or self.chosen_accountant
    return accounting.epsilon(self.effective_multiplier, accountant=accountant, **setting)

  def statement(self) -> str:
    """What is protected, how well, and what is not: to be printed with every result.

    It speaks of what was released from the plan's vault up to now, in all its trainings; where
    nothing was, of what is planned.
    """
    return statement.of(self, self._books.released(self.secrets))

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
      max_examples_per_subject=self.max_examples_per_subject,
    )
    check.require(
      len(units.rows) == self.num_examples,
      f"{self.num_examples} units in the data, as the plan says",
      f"{len(units.rows)}",
      "plan with the number of examples, or of subjects with unit='group'",
    )
    self.secrets.bind(data=fingerprint(store))
    return PrivateStream(
      store,
      units,
      chunk,
      self.sampling,
      self.expected_batch_size,
      self.secrets,
      self.max_sample_size,
      self.bands,
    )

  def begin(self, beginning: Beginning) -> str | None:
    """Goes on with a training of the vault, or begins one; for `Step.begin`.

    Raises:
      InputError: a state that is to be chosen by a score of people who may be protected; another
        training than the vault has begun, with restarts="refuse", or on another kind of population.
        Secrets from a seed and plans with diagnostics protect nothing: nothing is refused, and
        there is no stamp.
    """
    if self._protects and beginning.keep_best is not None:
      scorer = beginning.keep_best.partition("/")[0]
      check.require(
        is_public(beginning.evaluators[scorer]),
        "no choice of a state by people who may be protected",
        f"keep_best={beginning.keep_best!r}",
        "it would be a release that nobody pays for; if none of the data's people is measured, say"
        " so: evaluators={...: privacy.on_public_data(evaluator)}",
      )
    names = [
      f"{name}*" if is_public(evaluator) else name
      for name, evaluator in beginning.evaluators.items()
    ]
    return self._books.begin(self.secrets, beginning, names, pays=self.restarts == "pay")

  def admit(self, step: int, sample: PyTree) -> None:
    """Raises InputError unless `sample` is what the plan's stream drew for `step`; `Step.admit`."""
    if self._protects:
      check.require(
        sealed(sample, step, self.secrets),
        f"the sample that plan.stream draws for step {step}, as it is",
        "another batch",
        "feed the Step with plan.stream(...) itself and change examples inside the loss: the"
        " accounting holds for its samples alone",
      )
      self._admitted[0] = step

  def noise_key(self, step: int) -> Key:
    """Key of the noise of a step, which is reserved in the ledger first; for `Step.key_of`.

    Raises:
      InputError: a step that is not accounted for, or one whose sample was not admitted right
        before. Secrets from a seed and plans with diagnostics protect nothing and are free of that.
    """
    check.require(
      0 <= step < self.num_steps,
      f"a step below {self.num_steps}, what the plan accounts for",
      f"step {step}",
      "plan for more steps in a new run",
    )
    if self._protects:
      check.require(
        self._admitted[0] == step and self.secrets.current is not None,
        f"a training under way that has drawn the sample of step {step}",
        "none",
        "train with train.fit and plan.stream(...)",
      )
      self._admitted[0] = None
    return self.secrets.noise_key(step, None if self.factor is None else self.factor.window)

  def check_by_hand(self) -> None:
    """Raises InputError where an update outside of a training would release what is protected."""
    check.require(
      not self._protects,
      "the update of a private Step to be made by train.fit, which draws samples and counts them",
      "a call of Step.update with secrets of the operating system",
      "for tests and audits take a plan with vault=Vault.from_seed(0), which protects nobody",
    )

  def check_step(self, step: Step) -> None:
    """Raises InputError if `step` releases more, or does not say how much."""
    check.require(
      step.releases_per_sample is not None or self.diagnostics,
      "a Step that declares its releases per sample",
      "one that does not",
      "build it with methods.private",
    )
    check.require(
      step.releases_per_sample in (None, len(self.multipliers)),
      f"a Step of {len(self.multipliers)} releases per sample, as the plan accounts for",
      f"{step.releases_per_sample}",
      "pass DPPlan(releases_per_sample=...) or noise_multipliers=(...)",
    )

  def manifest(self) -> dict[str, str | int | float]:
    """What a resumed run must share; holds no secret."""
    return {f"privacy_{k}": v for k, v in self.settings.items()} | {
      "privacy_vault": self.secrets.identity
    }

  @property
  def settings(self) -> dict[str, Any]:
    """What decides how the plan samples, clips and adds noise, flat; None and bool as text."""
    names = ("num_examples", "expected_batch_size", "num_steps", "delta", "max_norm", "unit")
    names += ("sampling", "max_group_size", "repeated_subjects", "diagnostics")
    plain = {name: getattr(self, name) for name in names}
    if self.adaptive_clipping is not None:
      plain |= {f"clipping_{k}": v for k, v in self.adaptive_clipping._asdict().items()}
    plain["noise_multipliers"] = " ".join(np.format_float_positional(s) for s in self.multipliers)
    texts = {k: str(v) if v is None or isinstance(v, bool) else v for k, v in plain.items()}
    texts |= {"max_sample_size": self.max_sample_size or 0}
    if self.max_examples_per_subject is not None:
      texts |= {"max_examples_per_subject": self.max_examples_per_subject}
    if self.factor is not None:
      texts |= {"mechanism": self.factor.describe(), "bands": self.bands}
    return texts

  @property
  def _books(self) -> Books:
    return Books(
      self.settings,
      self._paid,
      self.delta,
      self.num_steps,
      self.chosen_accountant,
      self.diagnostics,
    )

  @property
  def _protects(self) -> bool:
    return self.secrets.is_secret and not self.diagnostics

  @functools.cached_property
  def _admitted(self) -> list[int | None]:
    """The step whose sample was admitted last and has no noise yet."""
    return [None]


_DEFAULT: dict[Sampling, Accountant] = {"poisson": "pld", "fixed": "rdp"}
