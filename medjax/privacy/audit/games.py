"""White-box games: does one release tell two neighbouring data sets apart better than claimed?

For each world (without and with the canary) run the release many times with independent keys,
reduce every release to one number, and call "with" above a threshold. The count of errors bounds
the privacy loss from below (`bounds`).

Why a bound holds: score, side and threshold are fixed before the counted trials, by the caller or
from held-out trials that are counted nowhere. The counted trials are then independent Bernoulli
draws, Clopper and Pearson's bounds on the two rates, with half of the permitted error each, hold
together, and no assumption on the release enters. Several games share the error equally.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, rng
from medjax.privacy.audit import bounds
from medjax.privacy.audit.claims import ABSENCE, Claim, excess, refutes, smallest_refutable, stated
from medjax.types import Key, PyTree

Release: TypeAlias = Callable[[PyTree, Key], PyTree]
_LARGE = 1e300  # stands for infinity, so that midpoints between scores exist


class Game(NamedTuple):
  """Two neighbouring data sets and how to tell them apart.

  Attributes:
    name: for reports.
    without: data set of the release.
    with_canary: the same with one person more.
    score: `score(released) -> scalar`, NaN counts as +inf, or None: Fisher's linear discriminant
      of the features, from held-out trials. Where these are more than some thousand, pass
      functools.partial(optax.tree.vdot, direction).
    threshold: fixed beforehand, where a larger score means "with"; or None: side and threshold
      by `choose`.
    claim: for this game, in place of that of the audit.
    features: `features(released) -> [number]`; default all released numbers and their energy.
    choose: `choose(without, with_canary) -> (side, threshold)` from held-out scores; default the
      best bound on them.
    trials: counted trials in place of those of the audit; held out are a fifth as many.
  """

  name: str
  without: Any
  with_canary: Any
  score: Callable[[Any], Any] | None = None
  threshold: float | None = None
  claim: Claim | None = None
  features: Callable[[Any], Any] | None = None
  choose: Callable[[np.ndarray, np.ndarray], tuple[float, float]] | None = None
  trials: int | None = None


class Result(NamedTuple):
  """One game.

  Attributes:
    game: its name.
    trials: counted trials in each world.
    errors: (false alarms without, misses with the canary).
    rates: upper bounds on the two error rates.
    confidence: probability that both hold.
    claim: see `claims`.
    mu_lower: no mu-GDP with a smaller mu is compatible with the errors; at least 0.
  """

  game: str
  trials: int
  errors: tuple[int, int]
  rates: tuple[float, float]
  confidence: float
  claim: Claim
  mu_lower: float

  def epsilon_lower(self, delta: float) -> float:
    """epsilon(delta) of the Gaussian mechanism of `mu_lower`: comparable with a claimed mu."""
    return bounds.gdp_epsilon(self.mu_lower, delta)

  def epsilon_any(self, delta: float) -> float:
    """Lower bound on epsilon of (epsilon, delta)-DP for releases of any kind.

    With n trials and no error it ends near log(n / 8): below a true epsilon that is larger.
    """
    return float(bounds.epsilon_from_errors(*self.rates, delta))

  @property
  def verdict(self) -> str:
    """ "refuted" or "not refuted"."""
    return "refuted" if refutes(self.claim, self.mu_lower, self.epsilon_any) else "not refuted"

  @property
  def smallest_refutable(self) -> float:
    """mu from which a Gaussian release would have been refuted by these trials."""
    return smallest_refutable(self.claim, self.trials, 1 - self.confidence)

  def report(self) -> str:
    """One line."""
    return (
      f"{self.game}: {self.errors[0]} false alarms and {self.errors[1]} misses in {self.trials} "
      f"trials each, mu >= {self.mu_lower:.3f} at {100 * self.confidence:.6g} % confidence; claim "
      f"{stated(self.claim)} {self.verdict}; a Gaussian leak is refuted from mu = "
      f"{self.smallest_refutable:.3f}"
    )


class Audit(NamedTuple):
  """Games of one release; `confidence` is that all their bounds hold."""

  results: tuple[Result, ...]
  confidence: float

  @property
  def verdict(self) -> str:
    """ "refuted" if any game refutes its claim."""
    is_refuted = any(result.verdict == "refuted" for result in self.results)
    return "refuted" if is_refuted else "not refuted"

  @property
  def mu_lower(self) -> float:
    """The largest bound of all games."""
    return max(result.mu_lower for result in self.results)

  def report(self) -> str:
    """A line for each game, the verdict, and what it does not mean."""
    lines = [result.report() for result in self.results]
    least = min(result.smallest_refutable for result in self.results)
    lines.append(
      f"All together at {100 * self.confidence:g} % confidence: {self.verdict}. The smallest leak "
      f"that these games refute in half of all audits is that of mu = {least:.3f}."
    )
    return "\n".join([*lines, ABSENCE])


def audit_step(
  release: Release,
  games: Sequence[Game],
  *,
  claim: Claim,
  key: Key,
  trials: int = 20_000,
  held_out: int = 5_000,
  confidence: float = 0.999,
  chunk: int = 5_000,
) -> Audit:
  """Plays games against a release and compares the lower bounds with its claim.

  >>> def noisy_sum(values, key):
  ...   return values.sum() + 2.0 * jax.random.normal(key)  # 1/2-GDP for values in [-1, 1]
  >>> game = Game("one more", jnp.zeros(2), jnp.array([0.0, 1.0]))
  >>> found = audit_step(noisy_sum, [game], claim=0.5, key=jax.random.key(0))
  >>> found.verdict, 0.4 < found.mu_lower < 0.5
  ('not refuted', True)

  Args:
    release: `release(data, key) -> tree of arrays`, all that an adversary sees; jittable.
    games: from `gradient_games`, or your own. A bound holds for the canary at hand; which one hurts
      most is for you to think of.
    claim: mu of mu-GDP, 1 / noise multiplier for one Gaussian release; (epsilon, delta), or several
      such pairs, as ((1.2, 1e-3), (2.0, 1e-5)).
    key: key of the audit; every trial has its own.
    trials: counted trials in each world. Without any error 10^4 show a mu of up to 6, 10^5 of 7.
    held_out: trials in each world for discriminant, side and threshold.
    confidence: probability that no bound of any game is too high.
    chunk: trials worked on together; changes memory and nothing else.
  Raises:
    InputError: no games, bad numbers, more released numbers than held-out trials can compare.
  Cost: 2 (trials + held_out) releases a game, held-out ones twice. What of a release does not
    depend on the key, the gradients of a loss without randomness, is computed once a chunk: what
    remains is the noise. Ten parameters take 2 s to compile and a microsecond a trial.
  """
  check.require(len(games) > 0, "at least one game", "none", "see gradient_games")
  check.require(0 < confidence < 1, "confidence in (0, 1)", f"{confidence}", "pass 0.999")
  for name, count in (("trials", trials), ("held_out", held_out), ("chunk", chunk)):
    check.positive(name, count)
  share = (1 - confidence) / len(games)
  by_features: dict[Any, Sampler] = {}  # games with the same features share one program
  results = []
  for number, game in enumerate(games):
    learn, count = rng.streams(jax.random.fold_in(key, number), "held out", "counted")
    of_game = claim if game.claim is None else game.claim
    num, num_held_out = trials, held_out
    if game.trials is not None:
      num, num_held_out = game.trials, max(game.trials // 5, 1)
    if game.score is None:
      features = game.features or _flat
      if features not in by_features:
        by_features[features] = _sampler(_of_release(release, features), chunk)
      vectors = by_features[features]
      discriminant = _fisher(*_worlds(vectors, game, learn, held_out))
      run = _projected(vectors, discriminant)
    else:
      run = _scored(release, game.score, chunk)
    side, threshold = 1.0, game.threshold
    if threshold is None:
      seen = _worlds(run, game, learn, num_held_out)
      side, threshold = _best(*seen, share, of_game) if game.choose is None else game.choose(*seen)
    without, with_canary = (_finite(s) for s in _worlds(run, game, count, num))
    alarms = int((side * without > threshold).sum())
    misses = int((side * with_canary <= threshold).sum())
    alarm_rate, miss_rate = (
      float(bounds.clopper_pearson(e, num, share / 2)) for e in (alarms, misses)
    )
    mu = max(float(bounds.gdp_from_errors(alarm_rate, miss_rate)), 0.0)
    errors = (alarms, misses)
    results.append(Result(game.name, num, errors, (alarm_rate, miss_rate), 1 - share, of_game, mu))
  return Audit(tuple(results), confidence)


Sampler: TypeAlias = Callable[[PyTree, Key, int], np.ndarray]


def _worlds(run: Sampler, game: Game, key: Key, count: int) -> tuple[np.ndarray, np.ndarray]:
  without, with_canary = rng.streams(key, "without", "with")
  return run(game.without, without, count), run(game.with_canary, with_canary, count)


def _sampler(function: Callable[[PyTree, Key], jax.Array], chunk: int) -> Sampler:
  """Runs of `function` with the keys fold_in(key, 0..count-1), in chunks of one shape."""

  @jax.jit
  def many(data: PyTree, key: Key, numbers: jax.Array) -> jax.Array:
    return jax.vmap(lambda i: function(data, jax.random.fold_in(key, i)))(numbers)

  def run(data: PyTree, key: Key, count: int) -> np.ndarray:
    size = min(chunk, count)
    starts = range(0, count, size)
    parts = [np.asarray(many(data, key, start + jnp.arange(size))) for start in starts]
    return np.concatenate(parts)[:count].astype(np.float64)

  return run


def flat(released: PyTree) -> jax.Array:
  """All released numbers, float32."""
  return jnp.concatenate([jnp.ravel(x).astype(jnp.float32) for x in jax.tree.leaves(released)])


def _flat(released: PyTree) -> jax.Array:
  """All released numbers, and the logarithm of their squares' sum, which tells their spread."""
  x = flat(released)
  return jnp.append(x, jnp.log(jnp.vdot(x, x) + 1e-30))


def _of_release(release: Release, features: Callable[[Any], Any]) -> Callable[..., jax.Array]:
  return lambda data, key: features(release(data, key))


def _scored(release: Release, score: Callable[[Any], Any], chunk: int) -> Sampler:
  return _sampler(lambda data, key: score(release(data, key)), chunk)


def _projected(vectors: Sampler, weights: np.ndarray) -> Sampler:
  """A release that is not finite scores infinity: it betrays."""

  def run(data: PyTree, key: Key, count: int) -> np.ndarray:
    x = vectors(data, key, count)
    is_finite = np.isfinite(x)
    return np.where(is_finite.all(axis=1), np.where(is_finite, x, 0.0) @ weights, np.inf)

  return run


def _fisher(without: np.ndarray, with_canary: np.ndarray) -> np.ndarray:
  """Direction of Fisher's linear discriminant, S^-1 (m1 - m0), of the finite rows."""
  size = without.shape[1]
  check.require(
    5 * size <= len(without),
    f"at most {len(without) // 5} released numbers to compare in {len(without)} held-out trials",
    f"{size}",
    "pass a score in the Game, say the inner product with the canary's gradient",
  )
  worlds = [x[np.isfinite(x).all(1)] for x in (without, with_canary)]
  if min(len(x) for x in worlds) < 2:
    return np.zeros(size)
  scale = np.concatenate(worlds).std(0)
  scale = np.where(scale > 0, scale, 1.0)  # numbers of every size count alike
  worlds = [x / scale for x in worlds]
  shift = worlds[1].mean(0) - worlds[0].mean(0)
  spread = sum(np.cov(x, rowvar=False).reshape(size, size) for x in worlds) / 2
  ridge = 1e-9  # numbers without noise are told apart by sight
  return np.linalg.solve(spread + ridge * np.eye(size), shift) / scale


def _best(
  without: np.ndarray, with_canary: np.ndarray, share: float, claim: Claim
) -> tuple[float, float]:
  """Side and threshold with the best bound on these trials.

  Thresholds tried are the midpoints between neighbouring scores of both worlds. Their bounds, not
  their rates, are compared: the tails hold few errors by luck.
  """
  found = (-np.inf, 1.0, 0.0)
  for side in (1.0, -1.0):
    out, inside = np.sort(side * _finite(without)), np.sort(side * _finite(with_canary))
    values = np.union1d(out, inside)
    cuts = values[:-1] / 2 + values[1:] / 2 if len(values) > 1 else values
    alarms = len(out) - np.searchsorted(out, cuts, "right")
    misses = np.searchsorted(inside, cuts, "right")
    alarm_rate, miss_rate = (
      bounds.clopper_pearson(e, len(out), share / 2) for e in (alarms, misses)
    )
    bound = excess(claim, alarm_rate, miss_rate)
    at = int(np.argmax(bound))
    found = max(found, (float(bound[at]), side, float(cuts[at])))
  return found[1], found[2]


def _finite(scores: np.ndarray) -> np.ndarray:
  return np.nan_to_num(scores, nan=_LARGE, posinf=_LARGE, neginf=-_LARGE)
