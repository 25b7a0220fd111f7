"""A proof of a whole private update: what it leaves behind is made of noisy sums, and of how noisy.

The update runs through the same walk as a release does. Once every element of a sum over examples
has Gaussian noise of its own, the sum is noted as released and everything made of it is public. At
the end everything must be public. With bounds b_r(i), what example i adds to release r, and noise
of standard deviation s_r, the releases of a sample together are a Gaussian mechanism of

  mu = max_i sqrt(sum_r (b_r(i) / s_r)^2)                 (Dong, Roth, Su 2022, Corollary 2)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, sweeps
from medjax.privacy.sensitivity import checker, forms, outputs
from medjax.privacy.sensitivity.ledger import Ledger
from medjax.privacy.sensitivity.values import Sum, Value
from medjax.types import Chunked, Key, PyTree, TrainState


class ReleasedSum(NamedTuple):
  """A sum that an update releases.

  Attributes:
    where: the equation that added the noise.
    bound: L2 norm of what one example adds to it.
    std: standard deviation of the noise, the smallest of all elements.
  """

  where: str
  bound: float
  std: float

  def __str__(self) -> str:
    return f"at most {self.bound:.6g} an example, noise {self.std:.6g}: {self.where}"


@dataclasses.dataclass(frozen=True)
class Update:
  """What was proved of an update.

  Attributes:
    releases: noisy sums, a leaf each, in order.
    mu: of all releases of a sample together, without amplification by sampling.
    assumptions: results that must be finite for every example; () if any example is safe.
    unproven: what the noise rests on besides.
  """

  releases: tuple[ReleasedSum, ...]
  mu: float
  assumptions: tuple[str, ...]
  unproven: tuple[str, ...]

  def __str__(self) -> str:
    lines = [f"{self.mu:.6g}-GDP a sample", *(f"  {release}" for release in self.releases)]
    if self.assumptions:
      lines += ["finite for every example", *(f"  {where}" for where in self.assumptions)]
    return "\n".join([*lines, "not proved of the noise", *(f"  {what}" for what in self.unproven)])


def check_update(chunked: Chunked, state: TrainState, chunk: PyTree, key: PyTree) -> Update:
  """Proves that an update in pieces releases noisy sums of bounded rows and nothing else.

  Args:
    chunked: the update; its sample is two chunks of the given shape, so that what one chunk leaves
      for the next is looked at as well.
    state: shapes are enough for all of it but the numbers that noise and bounds are made of: these
      must be concrete, such as `state.extra.max_norm` of a private Step.
    chunk: examples along the leading axis of every leaf, with an entry `weight`; shapes are enough.
    key: key of the update; its shape and type are enough.
  Raises:
    InputError: something in the new state or in the metrics depends on examples otherwise, and
      which operation it comes from; noise that is shared, shown or not known to be Gaussian.
  Guarantees: in exact arithmetic the new state and the metrics are a function of Gaussian releases
    that are together `mu`-GDP in one example of the sample.
  """
  size = jax.tree.leaves(chunk)[0].shape[0]
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2 * size, *x.shape[1:]), x.dtype), chunk)
  held, structure = jax.tree.flatten(state)
  given = [x for x in held if isinstance(x, jax.ShapeDtypeStruct)]

  def whole(batch: PyTree, given: list[Any], key: PyTree) -> PyTree:
    rest = iter(given)
    filled = [next(rest) if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x) for x in held]
    halves = [jax.tree.map(lambda x: x[:size], batch), jax.tree.map(lambda x: x[size:], batch)]
    return _sampled(chunked, structure.unflatten(filled), halves, key)

  shape = jax.ShapeDtypeStruct(jnp.shape(key), key.dtype)
  traced = checker.traced(whole, batch, given, shape)
  ledger: Ledger = traced.ledger
  ledger.released = []
  results = traced.walk(max_weight=1.0)
  found: dict[str, Value] = dict(zip(traced.paths, results, strict=True))
  for path, v in found.items():
    if isinstance(v, Sum):
      raise check.InputError(
        f"noise on every element of what {path} is made of, of a known size",
        f"a sum over examples by {v.where} without it",
        "release every sum by mechanism.release",
      )
    checker.refuse_private(path, v)
  sums = {f"release {number}: {where}": v for number, (where, v) in enumerate(ledger.released)}
  outputs.check_noise(ledger, {**sums, **found}, None)
  return _update(ledger, sums)


def _sampled(chunked: Chunked, state: TrainState, chunks: list[PyTree], key: Key) -> PyTree:
  """New state and metrics of a sample of several chunks."""
  sample = sweeps.sample_key(key)
  acc, metrics = chunked.begin(state), {}
  carries = [chunked.carry(chunk, sample) for chunk in chunks]
  for number, sweep in enumerate(chunked.sweeps):
    for place, chunk in enumerate(chunks):
      acc, carries[place] = sweep.accumulate(state, acc, chunk, carries[place], sample)
    state, acc, metrics = sweep.finish(state, acc, sweeps.finish_key(key, number))
  return state, metrics


def _update(ledger: Ledger, sums: dict[str, Sum]) -> Update:
  releases, together, suspects = [], [], frozenset()
  for (where, v), path in zip(ledger.released or [], sums, strict=True):
    assert v.chance.law is not None
    form = checker.bounded(path, v, has_weight=True)
    std = float(v.chance.law.std.min())
    releases.append(ReleasedSum(where, float(np.max(forms.size(form), initial=0.0)), std))
    together.append(forms.scaled(form, 1 / std))
    suspects |= v.suspects
  return Update(
    releases=tuple(releases),
    mu=float(np.max(forms.size(forms.stacked(*together)), initial=0.0)),
    assumptions=tuple(dict.fromkeys(ledger.suspects[number] for number in sorted(suspects))),
    unproven=outputs.unproven(ledger, sums),
  )


def proved(
  chunked: Chunked, *, mu: float, constants: Callable[[TrainState], TrainState]
) -> Chunked:
  """The same update, which is proved when it is first traced with arguments of new shapes.

  Args:
    mu: what the releases of a sample may be together.
    constants: `constants(state)` puts in the numbers that bounds and noise are made of.
  Raises, when it runs: InputError, see `check_update`, and if the releases are more than `mu`.
  """
  seen: set[Any] = set()

  def shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)

  def begin_checked(state: TrainState, acc: Any, chunk: Any, carry: Any, key: Key) -> Any:
    known = shapes((state, chunk, key))
    name = str(jax.tree.structure(known)), tuple(map(str, jax.tree.leaves(known)))
    if name not in seen:
      found = check_update(chunked, constants(known[0]), known[1], known[2])
      check.require(
        found.mu <= mu * (1 + 1e-5),
        f"releases of a sample that are {mu:.6g}-GDP together, as the plan pays for",
        f"{found.mu:.6g}: " + "; ".join(map(str, found.releases)),
        "declare every release of the filter, and release each by mechanism.release",
      )
      seen.add(name)
    return first.accumulate(state, acc, chunk, carry, key)

  first, *rest = chunked.sweeps
  return chunked._replace(sweeps=(first._replace(accumulate=begin_checked), *rest))
