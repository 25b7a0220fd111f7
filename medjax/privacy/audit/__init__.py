"""Audits of private training: lower bounds on what it leaks, which can refute a claim.

    loss = audit.planted(loss_fn)
    step = private(loss, optax.sgd(1.0), plan, filter=...)  # plan with vault=Vault.from_seed(0)
    release = audit.of_step(step, step.init(params, key))
    games = audit.gradient_games(params, examples, max_norm=plan.max_norm)
    print(audit.audit_step(release, games, claim=1 / plan.effective_multiplier, key=key).report())

    games = audit.people_games(loss_fn, params, batch, rows=(0, 3), key=key)
    step = private(loss_fn, optax.sgd(1.0), plan, filter=...)     # the very Step that trains

canaries    gradients of our choice, by a loss that is planted: mistakes of clipping and of sums
people      real examples and the real loss: rules of clipping that a planted loss would not take
tails       the noise itself: its end, its grid
single_run  a whole training, from the canaries' scores after it

The games put the canary into the sample, so that the claim is that of one release without the
amplification of sampling: mu = sqrt(sum sigma_i^-2) of all releases from one sample. `only_first`
looks for keys used twice, `outside` for releases that read more than their sample; both need a
release of two data sets. Every report says what the smallest leak is that it could have refuted.
Triggers that no trial meets and small releases beside the main one are for `check_sensitivity` to
refuse. A pass is absence of evidence.
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
from medjax.privacy.audit.claims import smallest_refutable
from medjax.privacy.audit.games import Audit, Game, Result, audit_step
from medjax.privacy.audit.people import people_games
from medjax.privacy.audit.single_run import OneRun, one_run
from medjax.privacy.audit.tails import support_game, tail_game

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
  "people_games",
  "planted",
  "smallest_refutable",
  "support_game",
  "tail_game",
]
