"""Plans, accounting, sampling, filters, audit: what a private training may claim."""

import importlib
from typing import TYPE_CHECKING

from medjax.privacy.alignment import (
  Filter,
  Measure,
  fresh_reference,
  no_filter,
  public_reference,
)
from medjax.privacy.correlated import BandedNoise
from medjax.privacy.evaluators import on_public_data
from medjax.privacy.plan import DPPlan
from medjax.privacy.published import paper_nonprivate, repaired
from medjax.privacy.quantile import QuantileClipping
from medjax.privacy.vault import Vault

if TYPE_CHECKING:
  from medjax.privacy import audit, sensitivity
  from medjax.privacy.sensitivity import Sensitivity as Sensitivity
  from medjax.privacy.sensitivity import Update as Update
  from medjax.privacy.sensitivity import check_sensitivity as check_sensitivity
  from medjax.privacy.sensitivity import check_update as check_update

_PROOFS = ("Sensitivity", "Update", "check_sensitivity", "check_update")


def __getattr__(name: str) -> object:
  """Audits and proofs load when they are used: a training that needs none pays for none."""
  if name in ("audit", "sensitivity"):
    return importlib.import_module(f"medjax.privacy.{name}")
  if name in _PROOFS:
    return getattr(importlib.import_module("medjax.privacy.sensitivity"), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
  "BandedNoise",
  "DPPlan",
  "Filter",
  "Measure",
  "QuantileClipping",
  "Vault",
  "audit",
  "fresh_reference",
  "no_filter",
  "on_public_data",
  "paper_nonprivate",
  "public_reference",
  "repaired",
  "sensitivity",
]
