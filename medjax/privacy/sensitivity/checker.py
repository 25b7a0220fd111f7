"""`check_sensitivity`: a proof that a release moves little when an example comes or goes."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.privacy.sensitivity import forms, intervals, keys, outputs, primitives
from medjax.privacy.sensitivity.chance import Chance
from medjax.privacy.sensitivity.equations import Aval
from medjax.privacy.sensitivity.ledger import Ledger, ProofStep
from medjax.privacy.sensitivity.values import Public, Range, Row, Sum, Value
from medjax.privacy.sensitivity.walker import Walker
from medjax.tree import entry
from medjax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Sensitivity:
  """What was proved of a release. Printed, it is the proof in short.

  Attributes:
    l2: bound on the L2 norm by which all outputs together move from a batch to its neighbour.
    relation: what neighbours are: "add or remove one example" (its weight changes from 0 or to 0),
      or "replace one example" (a batch without weight, whose size is public).
    outputs: {path: bound} of each output alone, 0 for public ones.
    steps: where bounds are born, in the order of the program.
    assumptions: results that must be finite for every example, else the bound does not hold for an
      example that makes them infinite or NaN; () if the release is safe for any example.
    noise: {path: (standard deviation, ...)} of Gaussian noise in each private output, None where
      it is not known; () without noise. One number: all elements have that noise, each its own.
    unproven: what the noise rests on besides, in words; () without noise.
  """

  l2: float
  relation: str
  outputs: dict[str, float]
  steps: tuple[ProofStep, ...]
  assumptions: tuple[str, ...]
  noise: dict[str, tuple[float | None, ...]]
  unproven: tuple[str, ...] = ()

  def __str__(self) -> str:
    lines = [f"{self.relation}: L2 at most {self.l2:.6g}", "steps"]
    lines += [f"  {step}" for step in self.steps]
    lines += ["outputs", *(f"  {path}: {bound:.6g}" for path, bound in self.outputs.items())]
    if self.assumptions:
      lines += ["finite for every example", *(f"  {where}" for where in self.assumptions)]
    if self.unproven:
      lines += ["not proved of the noise", *(f"  {what}" for what in self.unproven)]
    return "\n".join(lines)


def check_sensitivity(
  release: Callable[..., PyTree],
  batch: PyTree,
  *args: PyTree,
  max_weight: float | int = 1.0,
  noise_std: float | int | None = None,
  allow_coupled: bool = False,
  require_finite: bool = False,
) -> Sensitivity:
  """Proves a bound on the L2 sensitivity of a release, or raises.

  >>> def release(batch, params, max_norm=1.0):
  ...   loss = lambda params, x: (params @ x) ** 2
  ...   gradients = jax.vmap(jax.grad(loss), (None, 0))(params, batch["x"])
  ...   norms = jax.numpy.linalg.norm(gradients, axis=1, keepdims=True)
  ...   return batch["weight"] @ (gradients / jax.numpy.maximum(1, norms / max_norm))
  >>> batch = {"x": jax.numpy.ones((4, 3)), "weight": jax.numpy.ones(4)}
  >>> check_sensitivity(release, batch, jax.numpy.ones(3)).l2
  1.0

  The jaxpr is interpreted equation by equation; no pattern is matched as a whole. Each value is
  public, or holds one row an example (a function of that example and public values), or is a sum of
  rows over the batch. Rows are followed through vmap and grad of any function, matrix products,
  convolutions, reshapes, chunks, scan, cond and jit; of every row and factor the check keeps
  intervals, and relations to norms of other rows. So the usual ways to clip are found, with a
  constant C, for one or several leaves x under one norm n:

    x * min(1, C / n)    x / max(1, n / C)    x * C / (n + c)    x * C / max(n, C)
    x * C * rsqrt(n^2 + c)    where(n > C, x * C / n, x)    x * where(n <= C, 1, C / n)
    clip(x, -c, c), tanh, sigmoid, comparisons: c sqrt(d) for d elements
    where(isfinite(n), clipped, 0), where(isfinite(x), x, 0): leave no assumption on x

  `grads.clipped_sum` is not opened: its promise is used, with weights and weight_fn that may depend
  on the same example and public values only. Sums may be added over chunks, moved, multiplied by
  constants and given noise.

  Args:
    release: `release(batch, *args)` returns what leaves the room, before or after noise.
    batch: examples along the leading axis of every leaf, two or more; shapes are enough, and are
      public. An entry `weight` [batch] in [0, max_weight] marks padding by 0: rows of weight 0 must
      add nothing, and neighbours differ by one example more or less. Without it the number of
      examples is public, and neighbours differ in one example.
    *args: public values: parameters, released statistics, keys. Their numbers are not used: close
      over constants such as the clipping norm. What the release closes over is public as well.
    max_weight: largest batch.weight.
    noise_std: standard deviation of the Gaussian noise that every element of every private output
      must carry, exactly once, each its own: a number drawn by `jax.random.normal` or by medjax's
      generator, moved, cut, joined and multiplied by constants in float32, and never repeated,
      rounded, masked, released beside it or used for anything else. Its key comes as an argument.
    allow_coupled: also accept outputs that depend on all examples in any way but whose norm is
      clipped to r as a whole: they move by 2 r at most.
    require_finite: refuse a bound that rests on assumptions.
  Raises:
    InputError: the operation that breaks the proof with its source line, and what to do: a row or
      weight that depends on other examples, a sum of unbounded rows, a private denominator, one row
      an example as output, padding that counts, a host callback, a collective in the loss of
      clipped_sum, sums in less than float32, a noise key that is used or released elsewhere, an
      operation that is not known.
  Guarantees: in exact arithmetic, for every two neighbours of this shape and all args without
    NaN, the outputs differ by at most `l2`, if the results named in `assumptions` are finite.
  Trusted: JAX (tracing, differentiation, primitives), the promise of clipped_sum, this check.
  Neighbours keep the places of all other examples: where a sampler packs them, let nothing depend
    on places; the check does not see to that.
  Outside: rounding in float32 and wider, signed zeros, timing, all that the host does, and numbers
    that it took from the data. Of noise: that the bits of JAX's keys are random, that two keys
    passed as arguments differ, and that no other run has them; see `Sensitivity.unproven`.
  """
  program = traced(release, batch, *args)
  has_weight, ledger = program.has_weight, program.ledger
  results = program.walk(max_weight=max_weight)
  found = dict(zip(program.paths, results, strict=True))
  parts = {path: _released(ledger, path, v, has_weight, allow_coupled) for path, v in found.items()}
  outputs.check_noise(ledger, found, noise_std)
  private = [v for v in results if isinstance(v, (Row, Sum))]
  suspects = sorted(frozenset().union(*(v.suspects for v in private)))
  assumptions = tuple(dict.fromkeys(ledger.suspects[number] for number in suspects))
  _refuse(
    require_finite and assumptions,
    "a bound for examples of any values",
    f"one for finite results of {assumptions[0] if assumptions else ''}",
    "use grads.clipped_sum, or jnp.where(jnp.isfinite(norm), clipped, 0)",
  )
  return Sensitivity(
    l2=float(np.max(forms.size(forms.stacked(*parts.values())), initial=0.0)),
    relation="add or remove one example" if has_weight else "replace one example",
    outputs={path: float(np.max(forms.size(form))) for path, form in parts.items()},
    steps=tuple(ledger.steps),
    assumptions=assumptions,
    noise={p: outputs.sizes(v) for p, v in found.items() if isinstance(v, Sum)},
    unproven=outputs.unproven(ledger, found),
  )


def _argument(aval: Aval, number: int) -> Public:
  """A public argument of which nothing is known; keys of different arguments are different."""
  shape = tuple(aval.shape)
  if not jnp.issubdtype(aval.dtype, jax.dtypes.prng_key):
    return Public(shape, aval.dtype, intervals.default(aval.dtype))
  paths = keys.array([("argument", number, place) for place in range(math.prod(shape))], shape)
  return Public(shape, aval.dtype, chance=Chance(keys=paths))


@dataclasses.dataclass(frozen=True)
class Traced:
  """A release as a program, before the walk through it.

  Attributes:
    program: its jaxpr, whose first arguments are the leaves of the batch.
    ledger: for the walk.
    paths: names of the outputs.
    weight: position of batch.weight among the leaves of the batch, None without.
    num_leaves: of the batch.
  """

  program: Any
  ledger: Ledger
  paths: list[str]
  weight: int | None
  num_leaves: int

  @property
  def has_weight(self) -> bool:
    return self.weight is not None

  def walk(self, *, max_weight: float | int) -> list[Value]:
    """What is known of every output."""
    check.positive("max_weight", max_weight)
    ledger = self.ledger
    arguments: list[Value] = []
    for number, var in enumerate(self.program.jaxpr.invars):
      if number >= self.num_leaves:
        arguments.append(_argument(var.aval, number - self.num_leaves))
        continue
      ledger.where = f"the batch, leaf {number}"
      sizes = (-1, *[1] * (len(var.aval.shape) - 1))
      whose = np.arange(ledger.num_examples, dtype=np.int32).reshape(sizes)
      known: dict[str, Any] = {}
      if number == self.weight:
        known = {"range": Range(0.0, float(max_weight), True), "is_padding_zero": True}
      arguments.append(ledger.fresh(var.aval, whose, **known))
    return Walker(ledger).run(self.program, arguments)


def traced(release: Callable[..., PyTree], batch: PyTree, *args: PyTree) -> Traced:
  """The program of `release(batch, *args)`; see `check_sensitivity` for the batch."""
  leaves, tree = jax.tree.flatten(batch)
  check.require(leaves, "a batch with arrays", "none", "pass the examples")
  sizes = {np.shape(leaf)[:1] for leaf in leaves}
  check.require(
    len(sizes) == 1 and min(sizes) >= (2,),
    "two or more examples along the leading axis of all leaves",
    f"leading axes {sorted(sizes)}",
    "stack the examples",
  )
  ((count,),) = sizes
  weight = entry(batch, "weight")
  if weight is not None:
    is_clear = np.shape(weight) == (count,) and sum(leaf is weight for leaf in leaves) == 1
    _refuse(not is_clear, "batch.weight as one array [batch]", f"{weight}", "one number an example")
  shapes = [jax.ShapeDtypeStruct(np.shape(x), x.dtype) for x in leaves]
  program, out = jax.make_jaxpr(release, return_shape=True)(tree.unflatten(shapes), *args)
  paths = [
    jax.tree_util.keystr(p) or "the output" for p, _ in jax.tree_util.tree_leaves_with_path(out)
  ]
  place = next((i for i, leaf in enumerate(leaves) if leaf is weight), None)
  return Traced(program, Ledger(count, primitives.TABLE), paths, place, len(leaves))


def _released(
  ledger: Ledger, path: str, v: Value, has_weight: bool, allow_coupled: bool
) -> forms.Form:
  """What an output adds to the bound."""
  if isinstance(v, Row) and v.is_everyones and allow_coupled:
    radius = float(forms.size(v.bounded_form))
    if math.isfinite(radius):
      ledger.where = path
      ledger.note("clipped as a whole", radius)
      return forms.at_most(2 * radius, ledger.number())
  refuse_private(path, v)
  return bounded(path, v, has_weight=has_weight) if isinstance(v, Sum) else {}


def refuse_private(path: str, v: Value) -> None:
  """Raises InputError for a value that is neither public nor a sum over examples."""
  if not isinstance(v, Row):
    return
  expected = f"a proven bound for {path}"
  if not v.is_everyones:
    remedy = "release a sum of clipped rows; norms, losses and weights of examples are private"
    raise check.InputError(expected, "one row an example", remedy)
  assert v.cause is not None
  raise check.InputError(expected, f"{v.cause.where}, which {v.cause.what}", v.cause.remedy)


def bounded(path: str, v: Sum, *, has_weight: bool) -> forms.Form:
  """The form of a sum by which it moves between neighbours; raises InputError if none is known."""
  expected, bound = f"a proven bound for {path}", forms.size(v.form)
  remedy = "clip every example's row, all its leaves, in float32 before the sum, e.g. with"
  remedy += " grads.clipped_sum"
  _refuse(not np.isfinite(bound).all(), expected, f"a sum of unbounded rows by {v.where}", remedy)
  remedy = "multiply rows by batch.weight or pass it as weights"
  is_counted = has_weight and not v.is_padding_zero
  _refuse(is_counted, expected, f"rows of weight 0 that count in {v.where}", remedy)
  return v.form if has_weight else forms.scaled(v.form, 2.0)  # one term goes, another comes


def _refuse(condition: Any, expected: str, got: str, remedy: str) -> None:
  check.require(not condition, expected, got, remedy)
