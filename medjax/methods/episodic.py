"""Episodes: what one view of the data teaches must serve the other views (MLDG; MAP).

MLDG (Li et al., AAAI 2018), exact:
  phi <- phi + U(grad_phi [L_train(phi) + beta L_test(phi - rate grad L_train(phi))])
first order: phi* = phi - rate grad L_train(phi) counts as a constant shift of phi,
  phi <- phi + U(grad L_train(phi) + beta grad L_test(phi*))
alternate (released code of MAP, Hu et al. 2023): `period` steps down L_train, then `period` steps
  down L_test from where they led, on the same parameters and without a look ahead. It is no
  meta-gradient, although the paper speaks of one.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, rng
from medjax.types import Array, Key, LossFn, Metrics, Params, PyTree, Step, TrainState

EpisodeMode = Literal["alternate", "first_order", "exact"]
TestLoss: TypeAlias = Callable[[Params, Params, PyTree, Key], Array]
"""`test_loss(params, anchor, example, key) -> scalar`; no gradient flows through the anchor."""


class Alternation(NamedTuple):
  """What "alternate" keeps: weights where the last training phase ended, and a second optimiser."""

  anchor: Params
  opt_state: PyTree


def episodic(
  train_loss: LossFn,
  test_loss: TestLoss,
  tx: optax.GradientTransformation,
  *,
  mode: EpisodeMode = "exact",
  rate: float = 1e-2,
  strength: float = 1.0,
  test_tx: optax.GradientTransformation | None = None,
  period: int = 20,
) -> Step:
  """Step that learns from one view and is held to others.

  >>> train = lambda w, example, key: 0.5 * (w - example["image"]) ** 2
  >>> test = lambda w, anchor, example, key: 0.5 * w**2
  >>> step = episodic(train, test, optax.sgd(1.0), rate=0.5)
  >>> state = step.init(jnp.float32(2.0), jax.random.key(0))
  >>> state, _ = step.update(state, {"image": jnp.ones(1)}, jax.random.key(0))
  >>> float(state.params)  # 2 - (2 - 1) - (1 - .5) * 1.5, where 1.5 = 2 - .5 (2 - 1)
  0.25

  Args:
    train_loss: of ONE example, on the view that is learnt from.
    test_loss: of ONE example, on the others. `anchor` are the weights that training led to: phi* of
      this update, or those at the end of the last training phase of "alternate".
    tx: of the training updates, in MLDG of all.
    mode: see above.
    rate: of the look ahead in MLDG, a step of gradient descent; "alternate" does not use it.
    strength: beta.
    test_tx: of the test updates of "alternate"; None: `tx` with a state of its own.
    period: updates of a phase of "alternate"; the released code has an epoch.
  Returns:
    Step. Metrics: "loss" (of training, in a test phase of "alternate" of the test), in MLDG also
    "test_loss" at phi* and "alignment", the cosine of the two gradients.
  Raises:
    InputError: an unknown mode, a rate, strength or period not above 0.
  """
  check.one_of("mode", mode, get_args(EpisodeMode))
  for name, value in (("rate", rate), ("strength", strength), ("period", period)):
    check.positive(name, value)
  if mode == "alternate":
    return _alternate(train_loss, test_loss, tx, test_tx or tx, strength, period)
  look = grads.hypergradient(
    lambda params, theta, example, key: train_loss(params, example, key),
    lambda params, example, key: test_loss(params, _still(params), example, key),
    optax.sgd(rate),
    method="first_order" if mode == "first_order" else "mixed",
    with_start=True,
  )

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    one = rng.stream(key, "episode")
    loss, gradient = jax.value_and_grad(_mean(train_loss))(state.params, batch, one)
    ahead = look(
      jnp.zeros(()),  # nothing but the parameters is tuned
      state.params,
      optax.sgd(rate).init(state.params),
      jax.tree.map(lambda x: x[None], batch),
      batch,
      one,
    )
    total = jax.tree.map(lambda g, h: g + strength * h, gradient, ahead.start)
    metrics = {
      "loss": loss,
      "test_loss": ahead.aux.outer_loss,
      "alignment": ahead.aux.alignment,
      "grad_norm": optax.tree.norm(total),
    }
    return _moved(state, total, tx, state.opt_state, ()), metrics

  return Step(init, update)


def _alternate(
  train_loss: LossFn,
  test_loss: TestLoss,
  tx: optax.GradientTransformation,
  test_tx: optax.GradientTransformation,
  strength: float,
  period: int,
) -> Step:
  def init(params: Params, key: Key) -> TrainState:
    del key
    anchor = jax.tree.map(jnp.copy, params)
    return TrainState.start(
      params, tx.init(params), extra=Alternation(anchor, test_tx.init(params))
    )

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    one = rng.stream(key, "episode")

    def train(state: TrainState) -> tuple[TrainState, Array, Array]:
      loss, gradient = jax.value_and_grad(_mean(train_loss))(state.params, batch, one)
      moved = _moved(state, gradient, tx, state.opt_state, None)
      return moved.replace(extra=state.extra._replace(anchor=moved.params)), loss, _norm(gradient)

    def test(state: TrainState) -> tuple[TrainState, Array, Array]:
      anchor = state.extra.anchor
      own = lambda params, example, key: strength * test_loss(params, anchor, example, key)  # noqa: E731
      loss, gradient = jax.value_and_grad(_mean(own))(state.params, batch, one)
      updates, opt_state = test_tx.update(gradient, state.extra.opt_state, state.params)
      return (
        state.replace(
          step=state.step + 1,
          params=optax.apply_updates(state.params, updates),
          extra=Alternation(anchor, opt_state),
        ),
        loss,
        _norm(gradient),
      )

    is_training = (state.step // period) % 2 == 0
    new, loss, norm = jax.lax.cond(is_training, train, test, state)
    return new, {"loss": loss, "grad_norm": norm}

  return Step(init, update)


def _mean(loss_fn: LossFn) -> Callable[[Params, PyTree, Key], Any]:
  """Mean over a batch, example by example with its own key."""
  return lambda params, batch, key: grads.batch_mean(
    lambda example, own: loss_fn(params, example, own), batch, key
  )


def _moved(
  state: TrainState,
  gradient: PyTree,
  tx: optax.GradientTransformation,
  opt_state: PyTree,
  extra: Any,
) -> TrainState:
  updates, opt_state = tx.update(gradient, opt_state, state.params)
  new = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  return new if extra is None else new.replace(extra=extra)


def _still(params: Params) -> Params:
  return jax.tree.map(jax.lax.stop_gradient, params)


def _norm(gradient: PyTree) -> Array:
  return jnp.asarray(optax.tree.norm(gradient))
