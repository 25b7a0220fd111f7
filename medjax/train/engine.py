"""The compiled part of the loop: one update, or a scan of them, with its log on the device."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from medjax import programs, sweeps
from medjax.check import InputError
from medjax.devices import device_of
from medjax.train import mesh as meshes
from medjax.tree import named_leaves, types_and_shapes
from medjax.types import Chunked, Key, Leaf, Metrics, Params, PyTree, Step, TrainState


class NonFiniteError(FloatingPointError):
  """Training met a value that is not finite.

  Attributes:
    run: name of the run.
    step: the first such step, counted from 0: its batch is `stream(step)`.
    values: name -> value of what was not finite at that step.
  """

  def __init__(self, run: str, step: int, values: dict[str, float], remedy: str):
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    super().__init__(
      f"expected finite numbers in run {run!r}, got {shown} at step {step}; {remedy}"
    )
    self.run, self.step, self.values = run, step, values


class Window(NamedTuple):
  """What was measured since the last log row; scalars on the device.

  Attributes:
    count: steps in the window, int32.
    sums: sum of each metric over the window, float32 or wider.
    bad_step: first step of the run whose metrics were not all finite, -1 if none, int32.
    bad: the metrics of that step.
  """

  count: jax.Array
  sums: Metrics
  bad_step: jax.Array
  bad: Metrics

  def means(self) -> dict[str, float]:
    """Mean of each metric over the window, of a window fetched to the host."""
    return {name: float(total) / int(self.count) for name, total in sorted(self.sums.items())}


class Best(NamedTuple):
  """The state at the evaluation that scored highest; scalars on the device.

  Attributes:
    value: its score, -inf before the first one.
    step: steps done there, -1 before the first one.
    state: the state without its optimiser's, which is ().
  """

  value: jax.Array
  step: jax.Array
  state: TrainState


class RunState(NamedTuple):
  """All that a step hands to the next, and all that a checkpoint holds.

  `best` is () where the run keeps no best state.
  """

  step: Leaf  # steps done, int32
  state: TrainState
  window: Window
  best: Leaf = ()


@dataclasses.dataclass(frozen=True)
class Engine:
  """Compiled functions of one run.

  Attributes:
    init: `init(params, key) -> RunState`; compiled, so that its arrays are new ones and donating
      them never reaches the caller's.
    advance: `advance(current, batch, key) -> RunState`; donates `current`. Step t gets
      fold_in(key, t), or `key` itself where the Step has a `key_of`. A Step in pieces takes a list
      of chunks.
    advance_block: the same for batches stacked along a new first axis, as one scan.
    keep_best: `keep_best(current, value) -> RunState` whose best is the present state if `value`
      exceeds that of the best so far; NaN never does.
    template: shapes, dtypes and shardings of a RunState.
    digest: `digest() -> str` of the update's program, see `programs.digest`.
  """

  init: Callable[[Params, Key], RunState]
  advance: Callable[[RunState, PyTree, Key], RunState]
  advance_block: Callable[[RunState, PyTree, Key], RunState]
  keep_best: Callable[[RunState, Any], RunState]
  template: RunState
  digest: Callable[[], str]


def build(
  step: Step,
  params: Params,
  key: Key,
  batch: PyTree,
  *,
  log_every: int,
  mesh: Mesh | None,
  state_spec: PartitionSpec | None = None,
  keeps_best: bool = False,
) -> Engine:
  """The engine of `step` for batches like `batch`; traces once, computes nothing.

  With `keeps_best` the RunState holds a second copy of the state, without the optimiser's.

  Raises:
    InputError: metrics that are not a flat dict of scalars, or an update that changes the
      structure, a shape or a dtype of the state.
  """
  update = jax.jit(sweeps.whole(step), inline=True)  # one trace serves eval_shape and both programs

  def start(params: Params, key: Key) -> TrainState:
    return jax.tree.map(_strong, step.init(params, key))

  if mesh is None:
    whole = of_state = SingleDeviceSharding(device_of(params))
  else:
    whole = meshes.replicated(mesh)
    of_state = whole if state_spec is None else NamedSharding(mesh, state_spec)
  placement = _placement(whole, of_state, keeps_best)
  out_shardings, acc_sharding = (None, None) if mesh is None else (placement, whole)

  def digest() -> str:
    # Without shardings, so that another number of devices is no other update.
    arguments = (state, example, jax.eval_shape(lambda: key))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return programs.digest(update.lower(*shapes))

  def abstract(tree: PyTree, sharding: Sharding = whole) -> PyTree:
    # The mesh is a part of an array's type: with it this trace serves the compiled programs too.
    shapes = jax.eval_shape(lambda x: x, tree)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

  state = jax.eval_shape(start, params, key)
  example = jax.eval_shape(lambda x: x, batch)
  new_state, metrics = jax.eval_shape(
    update, abstract(state, of_state), abstract(batch), abstract(key)
  )
  _check_metrics(metrics)
  _check_state(state, new_state)

  def init(params: Params, key: Key) -> RunState:
    zeros = {k: jnp.zeros((), _sum_dtype(m)) for k, m in metrics.items()}
    window = Window(jnp.int32(0), zeros, jnp.int32(-1), dict(zeros))
    state = start(params, key)
    best = Best(jnp.float32(-jnp.inf), jnp.int32(-1), _without_optimiser(state))
    current = RunState(
      jnp.int32(0), state, window, jax.tree.map(jnp.copy, best) if keeps_best else ()
    )
    return jax.tree.map(_strong, current)

  def key_at(done: jax.Array, key: Key) -> Key:
    return jax.random.fold_in(key, done) if step.key_of is None else key

  def note(current: RunState, state: TrainState, metrics: Metrics) -> RunState:
    window = _accumulate(current.window, metrics, current.step, log_every)
    return RunState(current.step + 1, jax.tree.map(_strong, state), window, current.best)

  def advance(current: RunState, batch: PyTree, key: Key) -> RunState:
    return note(current, *update(current.state, batch, key_at(current.step, key)))

  def advance_block(current: RunState, batches: PyTree, key: Key) -> RunState:
    return jax.lax.scan(lambda c, batch: (advance(c, batch, key), None), current, batches)[0]

  def keep_best(current: RunState, value: Any) -> RunState:
    new = Best(jnp.float32(value), current.step, _without_optimiser(current.state))
    is_better = new.value > current.best.value
    best = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), new, current.best)
    return current._replace(best=best)

  return Engine(
    # Placed on purpose, as a restored RunState is: to XLA the two would else be two programs.
    init=jax.jit(init, out_shardings=placement),
    advance=_over_chunks(step.chunked, key_at, note, out_shardings, acc_sharding)
    if step.chunked
    else jax.jit(advance, donate_argnums=0, out_shardings=out_shardings),
    advance_block=jax.jit(advance_block, donate_argnums=0, out_shardings=out_shardings),
    keep_best=jax.jit(keep_best, donate_argnums=0, out_shardings=out_shardings),
    template=jax.tree.map(
      lambda sharding, part: abstract(part, sharding),
      placement,
      jax.eval_shape(init, params, key),
    ),
    digest=digest,
  )


def _placement(whole: Any, of_state: Any, keeps_best: bool) -> RunState:
  """Shardings of the parts of a RunState."""
  return RunState(whole, of_state, whole, Best(whole, whole, of_state) if keeps_best else ())


def _over_chunks(
  chunked: Chunked,
  key_at: Callable[[jax.Array, Key], Key],
  note: Callable[[RunState, TrainState, Metrics], RunState],
  out_shardings: Any,
  acc_sharding: Any,
) -> Callable[[RunState, list[PyTree], Key], RunState]:
  """A Python loop over chunks: their number differs from sample to sample, their shape does not."""
  # One compilation for each function, however many sweeps it serves.
  accumulate = {
    f: jax.jit(
      lambda current, acc, chunk, carry, key, f=f: f(
        current.state, acc, chunk, carry, sweeps.sample_key(key_at(current.step, key))
      ),
      donate_argnums=(1, 3),
      out_shardings=(acc_sharding, None),  # what is carried stays where its chunk is
    )
    for f in {sweep.accumulate for sweep in chunked.sweeps}
  }

  def finished(f: Any, is_last: bool) -> Any:
    def run(current: RunState, acc: PyTree, key: Key, sweep: jax.Array) -> tuple[RunState, PyTree]:
      own_key = sweeps.finish_key(key_at(current.step, key), sweep)
      state, acc, metrics = f(current.state, acc, own_key)
      if is_last:
        return note(current, state, metrics), ()
      return current._replace(state=jax.tree.map(_strong, state)), acc

    return jax.jit(run, donate_argnums=0, out_shardings=(out_shardings, acc_sharding))

  last = len(chunked.sweeps) - 1
  finish = {
    (f, is_last): finished(f, is_last)
    for f, is_last in {(sweep.finish, i == last) for i, sweep in enumerate(chunked.sweeps)}
  }
  begin = jax.jit(chunked.begin, out_shardings=acc_sharding)
  start_chunk = jax.jit(
    lambda step, chunk, key: chunked.carry(chunk, sweeps.sample_key(key_at(step, key)))
  )

  def advance(current: RunState, chunks: list[PyTree], key: Key) -> RunState:
    acc = begin(current.state)
    carry = [start_chunk(current.step, chunk, key) for chunk in chunks]
    for number, sweep in enumerate(chunked.sweeps):
      for i, chunk in enumerate(chunks):
        acc, carry[i] = accumulate[sweep.accumulate](current, acc, chunk, carry[i], key)
      current, acc = finish[sweep.finish, number == last](current, acc, key, number)
    return current

  return advance


def _without_optimiser(state: TrainState) -> TrainState:
  return state.replace(opt_state=())


def check_finite(run: str, window: Window, step: Step) -> None:
  """Raises NonFiniteError if `window` (on the host) has seen a metric that is not finite."""
  if (first := int(window.bad_step)) < 0:
    return
  values = {k: float(v) for k, v in sorted(window.bad.items()) if not math.isfinite(v)}
  hints = [step.hints[name] for name, v in window.bad.items() if name in step.hints and v != 0]
  # The batches of a Step with keys of its own may hold people who are protected.
  usual = "lower the learning rate" + (" or look at that step's batch" if not step.key_of else "")
  raise NonFiniteError(run, first, values, "; ".join(hints) or usual)


def check_finite_state(run: str, steps_done: int, state: TrainState) -> None:
  """Raises NonFiniteError if a parameter or the model state is not finite; waits for the device."""
  kept = {"params": state.params, "model_state": state.model_state}
  finite = jax.device_get(_finite_leaves(kept))
  bad = [name for name, ok in named_leaves(finite).items() if not ok]
  if bad:
    names = dict.fromkeys(bad[:3], math.nan)
    more = f" ({len(bad)} arrays in all)" if len(bad) > len(names) else ""
    remedy = (
      "the metrics were finite, the update was not: lower the learning rate or clip gradients"
    )
    raise NonFiniteError(run, max(steps_done - 1, 0), names, remedy + more)


@jax.jit
def _finite_leaves(tree: PyTree) -> PyTree:
  def finite(x: jax.Array) -> Any:
    is_number = jnp.issubdtype(x.dtype, jnp.inexact)
    return jnp.all(jnp.isfinite(x)) if is_number else jnp.array(True)

  return jax.tree.map(finite, tree)


def _accumulate(window: Window, metrics: Metrics, step: jax.Array, log_every: int) -> Window:
  """Adds one step; a step that follows a log row starts the window anew."""
  begins = step % log_every == 0
  values = {k: jnp.asarray(m).astype(_sum_dtype(m)) for k, m in metrics.items()}
  finite = jnp.all(jnp.stack([jnp.isfinite(v) for v in values.values()]))
  is_first_bad = ~finite & (window.bad_step < 0)
  return Window(
    count=jnp.where(begins, 0, window.count) + 1,
    sums={k: jnp.where(begins, 0, window.sums[k]) + v for k, v in values.items()},
    bad_step=jnp.where(is_first_bad, step, window.bad_step),
    bad={k: jnp.where(is_first_bad, v, window.bad[k]) for k, v in values.items()},
  )


def _sum_dtype(metric: Any) -> Any:
  return jnp.promote_types(jnp.result_type(metric), jnp.float32)


def _strong(x: Any) -> jax.Array:
  """Without weak type: the state keeps its dtype from step to step and compiles once."""
  x = jnp.asarray(x)
  return jnp.array(x, dtype=x.dtype, copy=False) if getattr(x, "weak_type", False) else x


def _check_metrics(metrics: Any) -> None:
  if not isinstance(metrics, dict) or not metrics:
    got = "an empty one" if isinstance(metrics, dict) else type(metrics).__name__
    raise InputError("metrics as a flat dict", got, "return it from Step.update")
  for name, value in metrics.items():
    shape = getattr(value, "shape", None)
    if shape != ():
      raise InputError(f"metric {name!r} to be a scalar", f"shape {shape}", "reduce it in the Step")


def _check_state(before: PyTree, after: PyTree) -> None:
  old, new = types_and_shapes(before), types_and_shapes(after)
  for path in {**old, **new}:
    if old.get(path) != new.get(path):
      raise InputError(
        f"Step.update to keep the state's {path} as {old.get(path, 'absent')}",
        f"{new.get(path, 'absent')}",
        "return every leaf with the shape and dtype that Step.init gave it",
      )
