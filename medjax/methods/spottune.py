"""SpotTune: for every example a policy network chooses which blocks are fine-tuned ones.

Guo et al., "SpotTune: Transfer Learning through Adaptive Fine-tuning", CVPR 2019. Two copies of the
parameters, phi that learns and phi0 that stays; z_b in {0, 1} is drawn for example and block:

  phi_b(x) = z_b phi_b + (1 - z_b) phi0_b
  z_b = 1 if s_b(x) + g > 0,   dz_b / ds_b := d sigmoid((s_b + g) / temperature) / ds_b

with g logistic noise, which is Gumbel noise of two classes (the difference of two Gumbel variables
is logistic). Beside the loss the paper's compact form asks that k blocks be tuned for all examples:

  global_weight [(sum_b m_b - k)^2 - sum_b m_b log m_b],   m_b = mean of z_b over the batch

and the released code of MMTL and OCTL that few be tuned: tuned_weight mean(z), weight .005.

Both copies of a block see the example and the choice is between their outputs, as in the paper, in
any network: `grads.two_copies`. A step takes about 5/3 of the operations of fine-tuning.
With BatchNorm there is one set of statistics, of the activations that the chosen blocks give; the
released code keeps a set for each copy, and both follow the new site.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, rng, tree
from medjax.grads.two_copies import chosen
from medjax.tree import entry
from medjax.types import AnyLossFn, Array, Key, Metrics, Params, PyTree, Step, TrainState

PolicyFn = Callable[[Params, PyTree], Array]
"""`policy_fn(policy_params, example) -> [block]` logits of tuning, in the order of `blocks`."""


class SpotTuned(NamedTuple):
  """What the method keeps beside the tuned parameters.

  Attributes:
    frozen: phi0.
    policy: parameters of the policy network.
    policy_opt_state: of its optimiser.
  """

  frozen: Params
  policy: Params
  policy_opt_state: PyTree


def first_level(path: str) -> str:
  """Block of a parameter: the first part of its path, "encoder0" of "encoder0/conv1/kernel".

  That is the submodule of a Linen network; a head is a block of its own.
  """
  return path.partition("/")[0]


def blocks(params: Params, block_of: Callable[[str], str] = first_level) -> tuple[str, ...]:
  """Names of the blocks of a tree, in the order of its leaves.

  >>> blocks({"head": {"bias": 0.0}, "encoder": {"conv0": 0.0, "conv1": 0.0}})
  ('encoder', 'head')
  """
  return tuple(dict.fromkeys(block_of(path) for path in tree.named_leaves(params)))


def spottune(
  loss_fn: AnyLossFn,
  tx: optax.GradientTransformation,
  policy_fn: PolicyFn,
  policy: Params,
  policy_tx: optax.GradientTransformation,
  *,
  block_of: Callable[[str], str] = first_level,
  temperature: float | int = 0.1,
  tuned_weight: float | int = 0.005,
  global_blocks: int | None = None,
  global_weight: float | int = 0.01,
  model_state: PyTree | None = None,
) -> Step:
  """Fine-tuning with a choice of blocks for every example.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: any optax transformation, for the tuned copy.
    policy_fn: see `PolicyFn`.
    policy: its initial parameters.
    policy_tx: its optimiser; released code: Adam of rate .01.
    block_of: path of a parameter ("encoder0/conv0/kernel") -> its block.
    temperature: temperature of the straight-through gradient.
    tuned_weight: weight of the mean choice, 0 or more; .005 is the released code's, the paper has
      none.
    global_blocks: k of the compact form; None leaves it out.
    global_weight: lambda of the compact form, 0 or more, the same for its two terms.
    model_state: running statistics to start from; the loss is then that of `supervised` with them.
  Returns:
    Step whose `state.extra` is a SpotTuned. Metrics "loss" (of the task), "grad_norm" (of the tuned
    copy), "policy_grad_norm" and "tuned" (mean choice, in [0, 1]).
  Raises:
    InputError: settings out of range; on tracing, a policy of another number of blocks.
  """
  check.positive("temperature", temperature)
  check.non_negative("tuned_weight", tuned_weight)
  check.non_negative("global_weight", global_weight)
  if global_blocks is not None:
    check.non_negative("global_blocks", global_blocks)

  def init(params: Params, key: Key) -> TrainState:
    del key
    frozen, own = jax.tree.map(jnp.copy, (params, policy))
    extra = SpotTuned(frozen, own, policy_tx.init(own))
    return TrainState.start(params, tx.init(params), model_state=model_state, extra=extra)

  def objective(
    learned: tuple[Params, Params], frozen: Params, held: PyTree, batch: PyTree, key: Key
  ) -> tuple[Array, tuple[Array, Array, PyTree]]:
    params, own_policy = learned
    policy_key, loss_key = rng.streams(key, "policy", "loss")
    kept_names = ("index", "draw", "weight")
    known = {name: entry(batch, name) for name in kept_names if entry(batch, name) is not None}

    def choose(example: PyTree, key: Key) -> Array:
      logits = policy_fn(own_policy, example)
      names = blocks(params, block_of)
      check.same_shape("logits of the policy", logits.shape, "blocks", (len(names),))
      return straight_through(logits + jax.random.logistic(key, logits.shape), temperature)

    choices = jax.vmap(choose)(batch, rng.example_keys(policy_key, batch))

    def loss(example: PyTree, key: Key) -> tuple[Array, PyTree]:
      choice = choice_of_leaves(params, example["choice"], block_of)
      arguments = (example["example"], key)
      if model_state is None:
        return chosen(loss_fn, params, frozen, choice, *arguments), held
      return chosen(loss_fn, params, frozen, choice, *arguments, held)

    together = {"example": batch, "choice": choices, **known}
    task, kept = grads.batch_mean(loss, together, loss_key)
    tuned = tree.weighted_mean(choices, known.get("weight"))  # m_b
    total = task + tuned_weight * tuned.mean()
    if global_blocks is not None:
      undecided = -(tuned * jnp.log(jnp.maximum(tuned, 1e-6))).sum()
      total += global_weight * ((tuned.sum() - global_blocks) ** 2 + undecided)
    return total, (task, tuned.mean(), kept)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    extra: SpotTuned = state.extra
    (_, aux), (gradient, policy_gradient) = jax.value_and_grad(objective, has_aux=True)(
      (state.params, extra.policy), extra.frozen, state.model_state, batch, key
    )
    loss, tuned, kept = aux
    kept = tree.cast_like(kept, state.model_state)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    own, own_state = policy_tx.update(policy_gradient, extra.policy_opt_state, extra.policy)
    extra = SpotTuned(extra.frozen, optax.apply_updates(extra.policy, own), own_state)
    metrics = {
      "loss": loss,
      "grad_norm": optax.tree.norm(gradient),
      "policy_grad_norm": optax.tree.norm(policy_gradient),
      "tuned": tuned,
    }
    new = TrainState(state.step + 1, params, opt_state, kept, extra)
    return new, metrics

  return Step(init, update)


def routed(
  fn: Callable[..., Any],
  params: Params,
  extra: SpotTuned,
  policy_fn: PolicyFn,
  example: PyTree,
  *arguments: Any,
  block_of: Callable[[str], str] = first_level,
) -> Any:
  """`fn(parameters, *arguments)` at test time: no noise, a block is tuned where its logit is > 0.

  Args:
    fn: the network or a loss, of parameters and one example.
    params, extra: `state.params` and `state.extra` of a training with `spottune`.
    policy_fn, block_of: as there.
    example: what the policy looks at.
    arguments: what `fn` takes beside parameters.
  """
  choice = (policy_fn(extra.policy, example) > 0).astype(jnp.float32)
  leaves = choice_of_leaves(params, choice, block_of)
  return chosen(fn, params, extra.frozen, leaves, *arguments)


def choice_of_leaves(
  params: Params, choice: Array, block_of: Callable[[str], str] = first_level
) -> Params:
  """The choice of its block for every leaf.

  >>> choice = choice_of_leaves({"a": {"b": 0.0, "c": 0.0}, "d": 0.0}, jnp.array([0.0, 1.0]))
  >>> jax.tree.map(float, choice)
  {'a': {'b': 0.0, 'c': 0.0}, 'd': 1.0}
  """
  of_block = {name: choice[i] for i, name in enumerate(blocks(params, block_of))}
  return tree.map_named(lambda path, _: of_block[block_of(path)], params)


def straight_through(logits: Array, temperature: float | int) -> Array:
  """1 where a logit is above 0, else 0; its gradient is that of sigmoid(logits / temperature)."""
  soft = jax.nn.sigmoid(logits / temperature)
  hard = (logits > 0).astype(soft.dtype)
  return hard + (soft - jax.lax.stop_gradient(soft))
