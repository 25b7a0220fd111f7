"""Plans, accounting, sampling, filters, audit: what a private training may claim."""

from medjax.privacy import audit
from medjax.privacy.alignment import (
  Filter,
  Measure,
  fresh_reference,
  no_filter,
  public_reference,
)
from medjax.privacy.evaluators import on_public_data
from medjax.privacy.plan import DPPlan
from medjax.privacy.published import paper_nonprivate, repaired
from medjax.privacy.quantile import QuantileClipping
from medjax.privacy.sensitivity import Sensitivity, Update, check_sensitivity, check_update
from medjax.privacy.vault import Vault

__all__ = [
  "DPPlan",
  "Filter",
  "Measure",
  "QuantileClipping",
  "Sensitivity",
  "Update",
  "Vault",
  "audit",
  "check_sensitivity",
  "check_update",
  "fresh_reference",
  "no_filter",
  "on_public_data",
  "paper_nonprivate",
  "public_reference",
  "repaired",
]
