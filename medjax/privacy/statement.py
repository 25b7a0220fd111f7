"""The sentence that a private result may be published with, and its small print."""

import math
from typing import TYPE_CHECKING

from medjax.privacy.accounting import RELATION

if TYPE_CHECKING:
  from medjax.privacy.plan import DPPlan

_PROTECTED = {"example": "one image", "group": "one patient, with all images of that patient"}


def of(plan: "DPPlan") -> str:
  """What `plan` protects, at what epsilon, and what lies outside."""
  lines = [_claim(plan), *_how(plan), "Outside this statement:"]
  return "\n".join([*lines, *(f"- {line}" for line in _outside(plan))])


def _claim(plan: "DPPlan") -> str:
  protected, epsilon = _PROTECTED[plan.unit], plan.epsilon()
  relation = f"{RELATION[plan.sampling]} such unit"
  if math.isinf(epsilon):
    why = "diagnostics of private examples are shown" if plan.diagnostics else "there is no noise"
    return f"Protected: nothing; epsilon is infinite ({why}). The unit would be {protected}."
  note = f" {plan.vault.note}." if plan.vault and plan.vault.note else ""
  return (
    f"Protected: {protected}. Neighbouring data sets: {relation}. epsilon = {epsilon:.4g} at"
    f" delta = {plan.delta:g} after {plan.num_steps} samples, accountant"
    f" {str(plan.accountant).upper()}.{note}"
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
  if plan.unit == "example" and plan.repeated_subjects:
    lines.append("Several images may be of one patient: the patient is NOT protected.")
  return lines


def _outside(plan: "DPPlan") -> list[str]:
  return [
    f"the number of units, {plan.num_examples}, and the range of the data are treated as public",
    "choices made by looking at the same data: tuning, several trainings, choice of a checkpoint",
    "statistics of the data used in preprocessing, such as normalisation over the data set",
    "validation and test images: results on them protect nobody in them",
    "floating-point rounding of clipped sums and of the noise",
    "the generator: noise comes from Threefry with keys of 64 bits, not from a certified source",
    "side channels: running time, memory, files of the run other than its releases",
  ]
