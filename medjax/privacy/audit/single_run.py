"""Audit of a whole training in one run (Steinke et al. 2023; f-DP: Mahloujifar et al. 2024).

m canaries enter the training set by m independent fair coins. From what is published an auditor
guesses the coins of the canaries with the highest scores as "in", of the lowest as "out". Private
training limits how many of g guesses are right. With B ~ Binomial(g, e^eps / (1 + e^eps)),

  P[correct >= v] <= P[B >= v] + 2 m delta max_i (P[B >= v - i] - P[B >= v]) / i

under (eps, delta)-DP. Under mu-GDP write r_c, h_c for the mean over canaries of the probability to
be guessed right, wrong, with c or more guesses correct in all. Turning one coin makes of "right,
c + 1 correct" a "wrong, c correct", and the correct ones are c of g, so that

  h_c >= Phi(z(r_{c+1}) - mu),   r_c - r_{c+1} = c / (g - c) (h_c - h_{c+1}),   r_0 + h_0 = g / m

If P[correct >= v] were the significance, r_v = significance v / m and its like for h_v would start
a recursion down to c = 0. Where that ends above g / m, so much success is less probable: refuted.
"""

from typing import NamedTuple

import numpy as np

from medjax import check
from medjax.privacy.audit.bounds import gdp_epsilon, largest
from medjax.privacy.audit.claims import ABSENCE, Claim, refutes, stated


class OneRun(NamedTuple):
  """Result of `one_run`.

  Attributes:
    trials: canaries, m.
    guesses: how many coins were guessed.
    errors: wrong guesses.
    confidence: probability that no bound is too high.
    claim: see `claims`.
    mu_lower: no mu-GDP with a smaller mu is compatible with the guesses.
  """

  trials: int
  guesses: int
  errors: int
  confidence: float
  claim: Claim
  mu_lower: float

  def epsilon_lower(self, delta: float) -> float:
    """epsilon(delta) of the Gaussian mechanism of `mu_lower`."""
    return gdp_epsilon(self.mu_lower, delta)

  def epsilon_any(self, delta: float) -> float:
    """Lower bound on epsilon of (epsilon, delta)-DP, for mechanisms of any kind."""
    correct, significance = self.guesses - self.errors, 1 - self.confidence
    return largest(
      lambda eps: chance_dp(self.trials, self.guesses, correct, eps, delta) < significance
    )

  @property
  def most(self) -> float:
    """mu that would have been shown had all guesses been right: no larger one can be refuted."""
    significance = 1 - self.confidence
    return largest(
      lambda mu: refutes_gdp(self.trials, self.guesses, self.guesses, mu, significance)
    )

  @property
  def verdict(self) -> str:
    """ "refuted" or "not refuted"."""
    return "refuted" if refutes(self.claim, self.mu_lower, self.epsilon_any) else "not refuted"

  def report(self) -> str:
    """What was found, in words."""
    return (
      f"{self.guesses - self.errors} of {self.guesses} guesses right, {self.trials} canaries: "
      f"mu >= {self.mu_lower:.3f} at {100 * self.confidence:g} % confidence; "
      f"claim {stated(self.claim)} {self.verdict}.\n"
      f"With all guesses right it would have shown mu = {self.most:.3f}, no more.\n{ABSENCE}"
    )


def one_run(
  scores: np.ndarray,
  included: np.ndarray,
  *,
  claim: Claim,
  num_in: int,
  num_out: int = 0,
  confidence: float = 0.999,
) -> OneRun:
  """Lower bound on the privacy loss of one training run from guesses which canaries it held.

  >>> included = np.arange(100) % 2 == 0  # in truth: coins of a generator the training never sees
  >>> found = one_run(included + 0.0, included, claim=0.5, num_in=40, num_out=40)
  >>> found.errors, found.verdict
  (0, 'refuted')

  Args:
    scores: [m] how much each canary looks included, from published quantities only (for gradient
      canaries: inner products with the sum of all releases); NaN counts as +inf.
    included: [m] bool, the coins.
    claim: guarantee of the whole run: mu, or (epsilon, delta) as from `DPPlan.epsilon()`.
    num_in: canaries with the highest scores that are guessed as included, fixed beforehand.
    num_out: canaries with the lowest scores that are guessed as left out, fixed beforehand.
    confidence: probability that the bound holds.
  Guarantees: valid if every coin was fair and independent and nothing but membership depended on
    it. Scores need not be independent.
  Cost: none beyond the one training, and the bound is far from tight: 1000 canaries, all guessed
    and all rightly, show mu = 1.60 at 99.9 %, 100 show 1.01. Take canaries that do not interfere
    (orthogonal gradients) and that meet the flaw you fear.
  """
  scores, included = np.asarray(scores, np.float64), np.asarray(included, bool)
  check.same_shape("scores", scores.shape, "included", included.shape)
  check.require(scores.ndim == 1, "scores [canary]", f"shape {scores.shape}", "flatten them")
  guesses = num_in + num_out
  check.require(
    num_in >= 0 and num_out >= 0 and 0 < guesses <= scores.size,
    f"1 to {scores.size} guesses",
    f"{num_in=}, {num_out=}",
    "guess no canary twice",
  )
  check.require(0 < confidence < 1, "confidence in (0, 1)", f"{confidence}", "pass 0.999")
  order = np.argsort(np.nan_to_num(scores, nan=np.inf, posinf=np.inf, neginf=-np.inf))
  wrong_out = int(included[order[:num_out]].sum())
  wrong_in = int((~included[order[scores.size - num_in :]]).sum())
  errors = wrong_out + wrong_in
  mu = largest(lambda mu: refutes_gdp(scores.size, guesses, guesses - errors, mu, 1 - confidence))
  return OneRun(scores.size, guesses, errors, confidence, claim, mu)


def chance_dp(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
  """Bound on the probability of so many correct guesses under (epsilon, delta)-DP."""
  from scipy import special  # a fifth of a second, for audits alone

  is_right = special.expit(epsilon)
  tail = special.bdtrc(np.arange(correct + 1.0) - 1, guesses, is_right)  # P[B >= 0..correct]
  tail[0] = 1.0
  chance = tail[correct]
  if correct == 0:
    return 1.0
  gains = (tail[:correct][::-1] - chance) / np.arange(1, correct + 1)
  return float(min(chance + 2 * canaries * delta * gains.max(initial=0.0), 1.0))


def refutes_gdp(canaries: int, guesses: int, correct: int, mu: float, significance: float) -> bool:
  """Whether mu-GDP gives so many correct guesses a probability below `significance`."""
  from scipy import special  # a fifth of a second, for audits alone

  right = significance * correct / canaries
  wrong = significance * (guesses - correct) / canaries
  for count in range(correct - 1, -1, -1):
    more = max(wrong, float(special.ndtr(special.ndtri(min(right, 1.0)) - mu)))
    if more == wrong:  # then nothing moves any more
      break
    right += count / (guesses - count) * (more - wrong)
    wrong = more
  return right + wrong > guesses / canaries
