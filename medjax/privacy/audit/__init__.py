"""Audits of private training: lower bounds on what it leaks, which can refute a claim.

    loss = audit.planted(loss_fn)
    step = private(loss, optax.sgd(1.0), plan, filter=...)
    release = audit.of_step(step, step.init(params, key))
    games = audit.gradient_games(params, examples, max_norm=plan.max_norm)
    print(audit.audit_step(release, games, claim=1 / plan.effective_multiplier, key=key).report())

The games put the canary into the sample, so that the claim is that of one release without the
amplification of sampling: mu = sqrt(sum sigma_i^-2) of all releases from one sample. `only_first`
looks for keys used twice, `outside` for releases that read more than their sample; both need a
release of two data sets. `one_run` audits a whole training from the canaries' scores. A pass is
absence of evidence.
"""

from medjax.privacy.audit.bounds import (
  clopper_pearson,
  epsilon_from_errors,
  gdp_delta,
  gdp_epsilon,
  gdp_from_errors,
)
from medjax.privacy.audit.canaries import (
  Planted,
  gradient_games,
  of_step,
  only_first,
  outside,
  planted,
)
from medjax.privacy.audit.games import Audit, Game, Result, audit_step
from medjax.privacy.audit.single_run import OneRun, one_run

__all__ = [
  "Audit",
  "Game",
  "OneRun",
  "Planted",
  "Result",
  "audit_step",
  "clopper_pearson",
  "epsilon_from_errors",
  "gdp_delta",
  "gdp_epsilon",
  "gdp_from_errors",
  "gradient_games",
  "of_step",
  "one_run",
  "only_first",
  "outside",
  "planted",
]
