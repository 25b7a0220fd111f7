"""Optimiser continuation: a new site starts with the gradient history of the old one.

OCTL (Goodman et al., DART 2022; Algorithm 2 for SGD, 3 for Adam) keeps the moments M, V of the
source training and sets the step count to 100 (t counts target steps from 1, c = 100):

  phi <- phi - alpha  (M_t / (1 - b1^(t+c))) / (sqrt(V_t / (1 - b2^(t+c))) + eps)

Beside the history this is a warm-up: with stationary moments the step is
sqrt(1 - b2^(t+c)) / (1 - b1^(t+c)) of a full one, about .5 at first for b1 = .99, b2 = .999.
`continued_adam` takes the two apart.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng, tree
from medjax.grads.batch import batch_mean
from medjax.types import AnyLossFn, Key, Leaf, Metrics, Params, PyTree, Step, TrainState

_HISTORY = (optax.ScaleByAdamState, optax.TraceState)


class ContinuedAdamState(NamedTuple):
  """count: steps done here; mu, nu: moments, trees like the parameters."""

  count: Leaf
  mu: Leaf
  nu: Leaf


def octl(
  donor_opt_state: PyTree, tx: optax.GradientTransformation, params: Params, *, count: int = 100
) -> PyTree:
  """Optimiser state for `supervised(..., opt_state=...)` that goes on from another training.

  Args:
    donor_opt_state: state at the last step of the source training, of Adam, or of SGD with
      momentum, alone or inside chain, masked, partition or inject_hyperparams.
    tx: optimiser of the target training; may differ from the donor's in all but the kind.
    params: parameters of the target training. Those that the donor lacks, such as a new head, need
      a group of their own (optax.partition): it starts afresh.
    count: Adam's step count at the start; schedules start at 0 whatever it is.
  Returns:
    `tx.init(params)` with the donor's moments and Adam's count, nothing else changed.
  Raises:
    InputError: no moments on either side, moments of another kind or shape, a group that mixes
      parameters with and without history.

  From one site to another, beside MMTL, which trains on batches of both:

  >>> import flax.linen as nn
  >>> from medjax import data, losses, methods, nets, train
  >>> old, new = (
  ...   data.stack(data.ProceduralAnatomy(8, (32, 32), num_classes=3, seed=site, with_image=True))
  ...   for site in (0, 1)
  ... )  # NnUNetFolder("...") reads yours
  >>> model = nets.from_linen(nn.Sequential([nn.Conv(8, (3, 3)), nn.silu, nn.Conv(3, (3, 3))]))
  >>> def loss(params, example, key):  # ONE example
  ...   return losses.cross_entropy(model.apply(params, example.image)[0], example.label)
  >>> def fit(step, stream, params):
  ...   return train.fit(step, stream, params, jax.random.key(1), num_steps=3, progress=False).state
  >>> params, _ = model.init(jax.random.key(0), old.image[0])
  >>> here, there = (data.batches(store, 4, seed=0) for store in (old, new))
  >>> tx = optax.adam(1e-3, b1=0.99)
  >>> source = fit(methods.supervised(loss, tx), here, params)
  >>> history = methods.octl(source.opt_state, tx, source.params, count=100)
  >>> octl = fit(methods.supervised(loss, tx, opt_state=history), there, source.params)
  >>> mixed = data.mix(here, there, data.mmtl_paper(batch_size=4, num_epochs=1, steps_per_epoch=3))
  >>> mmtl = fit(methods.supervised(loss, tx), mixed, source.params)
  >>> bool(optax.tree.norm(optax.tree.sub(octl.params, mmtl.params)) > 0)
  True
  """
  check.non_negative("count", count)
  fresh = tx.init(params)
  kinds = {type(s) for s in _histories(fresh)}
  donors = {kind: _moments(kind, donor_opt_state) for kind in kinds}
  check.require(
    kinds,
    "an optimiser with moments (Adam, or SGD with momentum)",
    "one without",
    "pass for example optax.adam(...) or optax.sgd(rate, momentum=0.99)",
  )
  for kind, held in donors.items():
    check.require(
      held,
      f"a donor with a state of {kind.__name__}",
      f"{', '.join(type(s).__name__ for s in _histories(donor_opt_state)) or 'no moments'}",
      "train source and target with one kind of optimiser, or rebuild the moments with"
      " `remembering` on source data",
    )

  def continued(state: PyTree) -> Any:
    if not isinstance(state, _HISTORY):
      return state
    donor, fields = donors[type(state)], _moment_fields(state)
    paths = list(tree.named_leaves(getattr(state, fields[0])))
    missing = [p for p in paths if p not in donor]
    if paths and len(missing) == len(paths):
      return state  # a new head
    check.require(
      not missing,
      "history for every parameter of a group",
      f"none for {', '.join(missing[:3])}",
      "put new parameters into a group of their own with optax.partition",
    )
    filled = {f: _filled(getattr(state, f), donor, f) for f in fields}
    if isinstance(state, optax.ScaleByAdamState):
      filled["count"] = jnp.full_like(state.count, count)
    return state._replace(**filled)

  return jax.tree.map(continued, fresh, is_leaf=lambda s: isinstance(s, _HISTORY))


def continued_adam(
  learning_rate: optax.ScalarOrSchedule,
  donor_opt_state: PyTree,
  *,
  b1: float | int = 0.99,
  b2: float | int = 0.999,
  eps: float = 1e-8,
  count: int = 100,
  first: bool = True,
  second: bool = True,
) -> optax.GradientTransformation:
  """Adam continued with the first moment, the second, both or none, at OCTL's step sizes.

  A moment that is not carried on starts at 0 and is debiased by its own count; then all arms are
  scaled by the same sqrt(1 - b2^(t+c)) / (1 - b1^(t+c)). With both it is OCTL; with none it is
  Adam with OCTL's warm-up and no history.

  Args:
    learning_rate: a number or a schedule, which starts at 0.
    donor_opt_state: as for `octl`, with one Adam state.
    b1, b2, eps: Adam's; the paper's b1 is .99, that of the released code .9.
    count: c.
    first, second: which moments to carry on.
  """
  check.non_negative("count", count)
  donor = _moments(optax.ScaleByAdamState, donor_opt_state)
  check.require(donor, "a donor with a state of Adam", "none", "pass the source's opt_state")

  def init(params: Params) -> ContinuedAdamState:
    zeros = jax.tree.map(jnp.zeros_like, params)
    mu = _filled(zeros, donor, "mu") if first else zeros
    nu = _filled(zeros, donor, "nu") if second else jax.tree.map(jnp.copy, zeros)
    return ContinuedAdamState(jnp.zeros((), jnp.int32), mu, nu)

  def update(
    updates: PyTree, state: PyTree, params: Params | None = None
  ) -> tuple[PyTree, ContinuedAdamState]:
    del params
    t = state.count + 1
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
    late1, late2 = 1 - b1 ** (t + count), 1 - b2 ** (t + count)
    own1, own2 = (1.0 if first else 1 - b1**t), (1.0 if second else 1 - b2**t)

    def step(m: jax.Array, v: jax.Array) -> jax.Array:
      return m / (own1 * late1) / (jnp.sqrt(v / (own2 * late2)) + eps)

    return jax.tree.map(step, mu, nu), ContinuedAdamState(t, mu, nu)

  return optax.chain(
    optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate)
  )


def remembering(
  loss_fn: AnyLossFn,
  tx: optax.GradientTransformation,
  *,
  model_state: PyTree | None = None,
) -> Step:
  """A Step that moves the optimiser's state and no parameter: moments for `octl` from source data.

  For checkpoints without optimiser state. Run it over source data for a few times
  1 / (1 - b2) steps (1,000 at b2 = .999); Adam's moments then forget that they began at 0.
  Running statistics stay as well: `model_state` goes to the loss as in `supervised`, and what it
  returns beside its value is dropped. Metrics: "loss", "grad_norm".
  """

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params), model_state=model_state)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    def mean(params: Params) -> jax.Array:
      def one(example: PyTree, key: Key) -> jax.Array:
        if model_state is None:
          return loss_fn(params, example, key)
        return loss_fn(params, example, key, state.model_state)[0]

      return batch_mean(one, batch, rng.stream(key, "loss"))

    loss, gradient = jax.value_and_grad(mean)(state.params)
    _, opt_state = tx.update(gradient, state.opt_state, state.params)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(gradient)}
    return state.replace(step=state.step + 1, opt_state=opt_state), metrics

  return Step(init, update)


def _histories(opt_state: PyTree) -> list[Any]:
  nodes = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, _HISTORY))
  return [node for node in nodes if isinstance(node, _HISTORY)]


def _moment_fields(state: PyTree) -> tuple[str, ...]:
  return ("mu", "nu") if isinstance(state, optax.ScaleByAdamState) else ("trace",)


def _moments(kind: type, opt_state: PyTree) -> dict[str, dict[str, jax.Array]]:
  """Parameter -> its moments by field, from all states of one kind (groups of a partition)."""
  found: dict[str, dict[str, jax.Array]] = {}
  for state in _histories(opt_state):
    if not isinstance(state, kind):
      continue
    for field in _moment_fields(state):
      for path, value in tree.named_leaves(getattr(state, field)).items():
        held = found.setdefault(path, {})
        check.require(
          field not in held,
          "one donor moment for each parameter",
          f"two for {path}",
          "pass the state of one optimiser",
        )
        held[field] = value
  return found


def _filled(moments: PyTree, donor: dict[str, dict[str, jax.Array]], field: str) -> PyTree:
  """The moments of the donor in a tree of this shape, copied: training donates its state."""

  def filled(name: str, old: jax.Array) -> jax.Array:
    check.require(
      name in donor, f"a moment of {name}", "none in the donor", "give it a group of its own"
    )
    new = donor[name][field]
    check.same_shape(f"donor's {field} of {name}", new.shape, "parameter", old.shape)
    return jnp.array(new, old.dtype, copy=True)

  return tree.map_named(filled, moments)
