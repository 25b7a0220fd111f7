"""The cosine-similarity filter as published, which is not private, and a repaired form that is.

Algorithm 1 keeps the examples of a sample whose noised gradient points along the sample's mean;
Algorithm 2 compares them on the coordinates that a measure over the sample singles out. In both one
example moves the cosines of all others, the average is over a private number of examples, and the
noise of the release has been seen by the selection: no epsilon holds. Lines and symbols are those
of Bani-Harouni et al., "Gradient Self-alignment in Private Deep Learning" (2023).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, rng
from medjax.privacy import noise as noises
from medjax.privacy.alignment import Filter, cosine, largest
from medjax.privacy.mechanism import Mechanism, add, unit_weights, zeros_like
from medjax.rng import example_keys
from medjax.types import Chunked, Key, PyTree, Sweep, TrainState


def paper_nonprivate(
  *,
  threshold: float | int,
  half_range: float | int = 2.0,
  noise: float | int = 0.0,
  measure: Literal["magnitude", "mean", "std", "cov"] | None = None,
  dropped: float | int = 0.0,
  draw: Literal["shared", "per_example"] = "shared",
) -> Filter:
  """Algorithms 1 (no measure) and 2, as published; epsilon is infinite.

  Args:
    threshold: psi (line 9).
    half_range: lambda, cosines are cut to psi +- lambda (line 7).
    noise: tau; the cosines get noise of std 2 lambda tau (line 8). The paper's Table 1 has none.
    measure: over the noised gradients of the sample, per coordinate: "magnitude" the mean of |g|,
      "mean" the magnitude of the mean (the text allows both), "std", or "cov" = std / |mean|.
    dropped: gamma, the share of coordinates left out of the cosine.
    draw: the text's N(0, sigma^2 C^2 I) / L (line 5) drawn once a sample, which leaves the mean
      with the noise of DP-SGD, or for each example, which leaves it with 1 / sqrt(L) of that.
  DEVIATION: line 10 averages the noised gradients (Algorithm 1 prints the raw ones); an empty
    selection makes no step.
  """
  check.require(-1 <= threshold <= 1, "threshold in [-1, 1]", f"{threshold}", "it is a cosine")
  check.require(0 < half_range <= 2, "half_range in (0, 2]", f"{half_range}", "see line 7")
  check.require(noise >= 0, "noise >= 0", f"{noise}", "it is a multiplier")
  check.one_of("measure", measure, (None, "magnitude", "mean", "std", "cov"))
  check.require(0 <= dropped < 1, "dropped in [0, 1)", f"{dropped}", "it is a share")
  check.one_of("draw", draw, ("shared", "per_example"))

  def pieces(mechanism: Mechanism) -> Chunked:
    def gradients(state: TrainState, chunk: PyTree, key: Key) -> tuple[PyTree, PyTree]:
      """Raw and noised gradients, [example, ...]; the same in both sweeps."""
      raw = grads.per_sample(mechanism.loss_fn)(state.params, chunk, rng.stream(key, "loss")).grads
      norms = jax.vmap(optax.tree.norm)(raw)
      scale = 1 / jnp.maximum(1.0, norms / state.extra.max_norm)
      plan, noise_key = mechanism.plan, rng.stream(key, "gradient noise")
      std = plan.multipliers[-1] * state.extra.max_norm / plan.expected_batch_size
      if draw == "shared":
        z = jax.tree.map(lambda x: x[None], noises.normal_like(noise_key, state.params))
      else:
        z = jax.vmap(lambda k: noises.normal_like(k, state.params))(example_keys(noise_key, chunk))
      return raw, jax.tree.map(lambda g, z: _along(scale, g) * g + std * z, raw, z)

    def first(state, acc, chunk, carry, key):
      raw, noised = gradients(state, chunk, key)
      weight = unit_weights(chunk)

      def total(values: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.tensordot(weight, x, 1), values)

      moments = [raw]
      if measure is not None:
        moments += [noised, jax.tree.map(jnp.square, noised), jax.tree.map(jnp.abs, noised)]
      acc = [add(a, total(m)) for a, m in zip(acc[:-1], moments, strict=True)] + [acc[-1]]
      acc[-1] = acc[-1] + weight.sum()
      return acc, carry

    def compare(state, acc, key):
      mean = acc[0]  # of which only the direction counts
      if measure is not None and dropped > 0:
        keep = largest(_measured(measure, *acc[1:]), dropped)
      else:
        keep = jax.tree.map(lambda x: jnp.ones_like(x, bool), mean)
      return state, (mean, keep, zeros_like(mean), jnp.zeros(())), {}

    def second(state, acc, chunk, carry, key):
      mean, keep, total, count = acc
      _, noised = gradients(state, chunk, key)
      masked = jax.tree.map(lambda k, g: jnp.where(k, g, 0.0), keep, noised)
      toward = jax.tree.map(lambda k, m: jnp.where(k, m, 0.0), keep, mean)
      dots = jax.vmap(optax.tree.vdot, (0, None))(masked, toward)
      cosines = cosine(dots, jax.vmap(optax.tree.norm)(masked), optax.tree.norm(toward))
      cosines = jnp.clip(cosines, threshold - half_range, threshold + half_range)
      keys = example_keys(rng.stream(key, "cosine noise"), chunk)
      cosines = cosines + 2 * half_range * noise * jax.vmap(jax.random.normal)(keys)
      chosen = (cosines > threshold) * unit_weights(chunk)
      total = jax.tree.map(lambda t, g: t + jnp.tensordot(chosen, g, 1), total, noised)
      return (mean, keep, total, count + chosen.sum()), carry

    def finish(state, acc, key):
      gradient = jax.tree.map(lambda t: t / jnp.maximum(acc[3], 1.0), acc[2])
      return mechanism.apply(state, gradient, ()), gradient, {}

    def begin(state):
      num_trees = 1 if measure is None else 4
      return [zeros_like(state.params) for _ in range(num_trees)] + [jnp.zeros(())]

    return Chunked(begin, (Sweep(first, compare), Sweep(second, finish)))

  options: dict[str, Any] = dict(threshold=threshold, half_range=half_range, noise=noise)
  options |= dict(measure=measure, dropped=dropped, draw=draw)
  return Filter("paper_nonprivate", None, lambda params: (), pieces, options)


def repaired(
  *,
  threshold: float | int,
  half_range: float | int,
  radius: float | None = None,
  kept: float | int = 1.0,
) -> Filter:
  """The published comparison with honest accounting: the cosines are a release of their own.

  The vector of cut cosines less psi is clipped to `radius` and released with noise of std
  2 tau radius: two neighbouring samples give vectors no further apart than 2 radius, so that its
  noise multiplier is tau. An example counts if its noised entry is above 0. Then the clipped
  gradients of those are summed with fresh noise and divided by the public L pi. Both releases come
  from one subsample: sigma^-2 + tau^-2.

  Args:
    threshold: psi in [-1, 1].
    half_range: lambda in (0, 2].
    radius: L2 bound on the vector; default half_range * sqrt(expected batch size), which clips
      nothing of a sample of the expected size.
    kept: pi in (0, 1], public guess of the share kept.
  The plan needs two noise multipliers: (tau, sigma).
  """
  check.require(-1 <= threshold <= 1, "threshold in [-1, 1]", f"{threshold}", "it is a cosine")
  check.require(0 < half_range <= 2, "half_range in (0, 2]", f"{half_range}", "see Algorithm 1")
  check.require(0 < kept <= 1, "kept in (0, 1]", f"{kept}", "it is a share of the sample")
  if radius is not None:
    check.positive("radius", radius)

  def pieces(mechanism: Mechanism) -> Chunked:
    plan = mechanism.plan
    bound = radius or half_range * plan.expected_batch_size**0.5

    def noised_cosine(key: Key, value: jax.Array) -> jax.Array:
      if plan.multipliers[0] == 0:
        return value
      return noises.added(
        key,
        value,
        multiplier=plan.multipliers[0],
        sensitivity=2 * bound,
        magnitude=2 * bound,
        num_released=plan.num_examples,
      )

    def direction(state, acc, chunk, carry, key):
      return (add(acc[0], mechanism.clipped(state, chunk, key, clips=False).grads), acc[1]), carry

    def compare(state, acc, chunk, carry, key):
      mean = acc[0]
      out = mechanism.clipped(state, chunk, key, direction=mean)
      cut = cosine(out.dots, out.norms, optax.tree.norm(mean)) - threshold
      cut = jnp.clip(cut, -half_range, half_range) * unit_weights(chunk)
      cut = jnp.where(jnp.isfinite(cut), cut, 0.0)
      return (mean, acc[1] + jnp.square(cut).sum()), cut

    def select(state, acc, chunk, carry, key):
      shrink = jnp.minimum(1.0, bound / jnp.maximum(jnp.sqrt(acc[1]), 1e-30))
      keys = example_keys(rng.stream(key, "cosine noise"), chunk)
      noised = jax.vmap(noised_cosine)(keys, shrink * carry)
      weights = (noised > 0) * unit_weights(chunk)
      out = mechanism.clipped(state, chunk, key, weights=weights)
      return (add(acc[0], out.grads), acc[1]), carry

    def keep(state, acc, key):
      return state, acc, {}

    def forget(state, acc, key):
      return state, (zeros_like(state.params), acc[1]), {}

    def finish(state, acc, key):
      gradient = mechanism.release(acc[0], state, key, kept=kept)
      return mechanism.apply(state, gradient, ()), gradient, {}

    def begin(state):
      return zeros_like(state.params), jnp.zeros(())

    def carry(chunk, key):
      del key
      return jnp.zeros(jax.tree.leaves(chunk)[0].shape[0])

    sweeps = (Sweep(direction, keep), Sweep(compare, forget), Sweep(select, finish))
    return Chunked(begin, sweeps, carry)

  options = dict(threshold=threshold, half_range=half_range, radius=radius, kept=kept)
  return Filter("repaired", 2, lambda params: (), pieces, options)


def _measured(measure: str, total: PyTree, squares: PyTree, sizes: PyTree, count: Any) -> PyTree:
  """The measure of each coordinate from sums over the sample."""
  num = jnp.maximum(count, 1.0)

  def value(t: jax.Array, s: jax.Array, a: jax.Array) -> jax.Array:
    mean = t / num
    if measure == "magnitude":
      return a / num
    if measure == "mean":
      return jnp.abs(mean)
    std = jnp.sqrt(jnp.maximum(s / num - mean * mean, 0.0))
    return std if measure == "std" else std / jnp.maximum(jnp.abs(mean), 1e-30)

  return jax.tree.map(value, total, squares, sizes)


def _along(factors: jax.Array, x: jax.Array) -> jax.Array:
  """[example] with axes of size 1 added, to multiply [example, ...]."""
  return factors.reshape(factors.shape + (1,) * (x.ndim - 1))
