"""The sentence that a private result may be published with, and its small print."""

import math
from typing import TYPE_CHECKING

from medjax.privacy import accounting

if TYPE_CHECKING:
  from medjax.privacy.plan import DPPlan

_PROTECTED = {"example": "one image", "group": "one patient, with all images of that patient"}


def of(plan: "DPPlan") -> str:
  """What `plan` protects, at what epsilon, and what lies outside."""
  lines = [_claim(plan), *_how(plan), "Outside this statement:"]
  return "\n".join([*lines, *(f"- {line}" for line in _outside(plan))])


def _claim(plan: "DPPlan") -> str:
  protected, epsilon = _PROTECTED[plan.unit], plan.epsilon()
  relation = f"{accounting.RELATION[plan.sampling]} such unit"
  if math.isinf(epsilon):
    why = "diagnostics of private examples are shown" if plan.diagnostics else "there is no noise"
    return f"Protected: nothing; epsilon is infinite ({why}). The unit would be {protected}."
  assert plan.vault and plan.accountant and plan.noise_multiplier
  note = f" {plan.vault.note}." if plan.vault.note else ""
  accountant = accounting.able(plan.accountant, plan.noise_multiplier)
  return (
    f"Protected: {protected}. Neighbouring data sets: {relation}. epsilon = {_up(epsilon)} at"
    f" delta = {plan.delta:g} after {plan.num_steps} samples, accountant"
    f" {accountant.upper()}.{note}"
  )


def _how(plan: "DPPlan") -> list[str]:
  rate = plan.expected_batch_size / plan.num_examples
  drawn = {
    "poisson": f"Poisson samples: each of {plan.num_examples} units with probability {rate:.4g}",
    "fixed": f"samples of exactly {plan.expected_batch_size} of {plan.num_examples} units",
  }[plan.sampling]
  sigmas = ", ".join(f"{sigma:.4g}" for sigma in plan.multipliers)
  releases = (
    "1 release" if plan.releases_per_sample == 1 else f"{plan.releases_per_sample} releases"
  )
  lines = [
    f"{drawn}; gradients clipped to {plan.max_norm:g}; {releases} a sample, noise multiplier"
    f" {sigmas}, composed within one sample; divided by the fixed {plan.expected_batch_size}."
  ]
  rule = plan.adaptive_clipping
  if rule is not None:
    lines.append(
      f"The clipping norm starts there and follows the {rule.quantile:g} quantile of the gradient"
      f" norms by a noisy count in each sample, multiplier {plan.count_multiplier:.4g}, which is"
      " part of the cost."
    )
  if plan.unit == "group" and plan.max_group_size is not None:
    lines.append(f"At most {plan.max_group_size} images of a patient in a sample.")
  if plan.unit == "example" and plan.repeated_subjects:
    lines.append("Several images may be of one patient: the patient is NOT protected.")
  return lines


def _up(epsilon: float) -> str:
  """Four digits, never less than `epsilon`."""
  unit = 10.0 ** (math.floor(math.log10(epsilon)) - 3) if epsilon > 0 else 1.0
  return f"{math.ceil(epsilon / unit) * unit:.4g}"


def _outside(plan: "DPPlan") -> list[str]:
  return [
    f"the number of units, {plan.num_examples}, the shape of the data and the size of the largest"
    " unit are treated as public",
    "choices made by looking at the same data: tuning, several trainings, choice of a checkpoint",
    "statistics of the data used in preprocessing, such as normalisation over the data set",
    "validation and test images: results on them protect nobody in them",
    "floating-point rounding of clipped sums and of the noise",
    "the generator: noise comes from Threefry with keys of 64 bits, not from a certified source",
    "side channels: running time, memory, files of the run other than its releases",
  ]
