"""The words of a verdict."""

from collections.abc import Callable

from medjax.privacy.audit.bounds import Claim

ABSENCE = (
  "An audit bounds privacy loss from below: it can refute a claim and never proves one. A claim "
  "that is not refuted has survived these canaries and this score, no more: a pass is absence of "
  "evidence."
)


def refutes(claim: Claim, mu_lower: float, epsilon_any: Callable[[float], float]) -> bool:
  """Whether lower bounds exceed the claim."""
  if isinstance(claim, tuple):
    return epsilon_any(claim[1]) > claim[0]
  return mu_lower > claim


def stated(claim: Claim) -> str:
  if isinstance(claim, tuple):
    return f"epsilon = {claim[0]:.4g} at delta = {claim[1]:.3g}"
  return f"mu = {claim:.4g}"
