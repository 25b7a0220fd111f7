"""Differentially private training (DP-SGD, Abadi et al. 2016) with a filter on what is summed.

  phi <- phi + U(release_t, s, phi),   release_t = (sum_i w_i a_i clip(g_i, C) + sigma C z) / L

The plan says what is protected and what it costs; sample, noise and accounting all come from it.
"""

import math

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, sweeps
from medjax.methods.fine_tuning import freezes_leaves
from medjax.privacy.adaptive import adaptive
from medjax.privacy.alignment import Filter, no_filter
from medjax.privacy.diagnostics import diagnosed
from medjax.privacy.mechanism import Mechanism, PrivateState
from medjax.privacy.plan import DPPlan
from medjax.types import Chunked, Key, LossFn, Metrics, Params, PyTree, Step, Sweep, TrainState


def private(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  plan: DPPlan,
  *,
  filter: Filter | None = None,
  multiplicity: int = 1,
) -> Step:
  """Step of private gradient descent.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example.
    tx: any optax transformation; it sees released gradients only.
    plan: bounds, noise, unit of privacy; feed the Step with `plan.stream`.
    filter: yours, or one of `medjax.privacy`; default `no_filter()`, DP-SGD: none that was measured
      here trained better at equal epsilon, see `public_reference`.
    multiplicity: each example's gradient is the mean over so many keys of `loss_fn`, so over so
      many random augmentations of it, before it is clipped (De et al. 2022). Costs no privacy.
  Returns:
    Step in chunks whose only metric is "release_norm", the L2 norm of the released gradient: the
    loss of a private example may not be shown. Its noise keys come from the plan's vault, and so
    `train.fit` has to run it: an update by hand is refused, except with a vault from a seed. With
    plan.diagnostics also "loss", "clipped" (share of examples) and "cosine" of the release to the
    sum of raw gradients.
  Raises:
    InputError: a plan that does not fit the filter; a filter that is not private (see
      `paper_nonprivate`) without diagnostics=True; on tracing, a loss that mixes examples, and a
      filter of yours whose update `privacy.check_update` cannot prove to be what the plan pays for.
  Guarantees: what leaves a step (parameters, optimiser, metrics) is a function of released
    gradients, which are as private as plan.statement() says. An example whose gradient is not
    finite adds nothing. For the average of the parameters use `averaged(private(...))`.

  One object says what is protected, draws the samples and adds the noise. A stopped training goes
  on as itself; with another learning rate it is refused with its price, or pays it
  (`DPPlan(restarts="pay")`):

  >>> import flax.linen as nn, numpy as np
  >>> from medjax import losses, methods, nets, privacy, train
  >>> images = np.random.default_rng(0).normal(size=(400, 8, 8, 1)).astype(np.float32)  # yours
  >>> labels = (images.mean((1, 2, 3)) > 0).astype(np.int32)
  >>> model = nets.from_linen(
  ...   nn.Sequential([nn.Conv(4, (3, 3)), nn.silu, lambda x: x.ravel(), nn.Dense(2)])
  ... )
  >>> def loss(params, example, key):  # ONE example
  ...   return losses.cross_entropy(model.apply(params, example["image"])[0], example["label"])
  >>> plan = privacy.DPPlan(
  ...   num_examples=400, expected_batch_size=40, num_steps=5, delta=1e-4, target_epsilon=2.0,
  ...   max_norm=1.0, unit="example",  # unit="group" protects all images of one `subject`
  ...   vault=privacy.Vault.in_memory(),  # Vault.open("runs/x/private") to be able to resume
  ... )
  >>> step = methods.private(loss, optax.sgd(0.5), plan)  # filter=privacy.public_reference(...)
  >>> params, _ = model.init(jax.random.key(0), images[0])
  >>> records = {"image": images, "label": labels, "subject": np.arange(400)}
  >>> stream = plan.stream(records, chunk=16)
  >>> fitted = train.fit(
  ...   step, stream, params, jax.random.key(1), num_steps=plan.num_steps, progress=False
  ... )
  >>> "Protected: one image." in plan.statement()
  True
  >>> round(plan.epsilon(), 2)
  2.0
  """
  filter = no_filter() if filter is None else filter
  check.positive("multiplicity", multiplicity)
  check.require(
    filter.releases is not None or plan.diagnostics,
    f"a private filter, or a plan that says that nothing is private, with filter {filter.name!r}",
    "a plan that promises a finite epsilon",
    "pass DPPlan(diagnostics=True), which sets epsilon to infinity, or another filter",
  )
  check.require(
    plan.mechanism is None or (_is_own(filter) and filter.name == "none"),
    "no filter with correlated noise",
    f"filter {filter.name!r}",
    "leave out DPPlan(mechanism=...) or filter=...",
  )
  check.require(
    plan.max_examples_per_subject is None or _is_own(filter),
    "a filter of medjax with max_examples_per_subject",
    f"filter {filter.name!r} of yours",
    "its proof is of one example in a sample: take unit='group', or leave filter=... out",
  )
  loss = averaged_over_keys(loss_fn, multiplicity)
  if plan.unit == "group":
    loss = mean_over_members(loss)
  mechanism = Mechanism(loss, tx, plan)
  chunked = with_metrics(adaptive(filter.pieces(mechanism), mechanism), mechanism)
  if not plan.diagnostics and not _is_own(filter):
    chunked = _proved(chunked, plan)

  def init(params: Params, key: Key) -> TrainState:
    del key
    opt_state = tx.init(params)
    check.require(
      not freezes_leaves(opt_state),
      "an optimiser that moves whatever is clipped",
      "leaves that methods.only freezes, which would fill the clipping norm and get noise",
      "take the part that trains out with adapt.take and give it the loss of adapt.adapted_loss",
    )
    extra = PrivateState(filter.init(params), jnp.float32(plan.max_norm))
    return TrainState.start(params, opt_state, extra=extra)

  options = {f"filter_{name}": value for name, value in filter.options.items()}
  manifest = {**plan.manifest(), "filter": filter.name, **options, "multiplicity": multiplicity}

  def by_hand(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    plan.check_by_hand()
    return sweeps.on_one_chunk(chunked)(state, batch, key)

  step = Step(
    init,
    by_hand,
    manifest,
    chunked=chunked,
    releases_per_sample=filter.releases,
    key_of=plan.noise_key,
    begin=plan.begin,
    admit=plan.admit,
  )
  plan.check_step(step)
  return step


def _is_own(filter: Filter) -> bool:
  """Whether a filter is one of medjax, whose updates are proved in its tests."""
  return getattr(filter.pieces, "__module__", "").startswith("medjax.")


def _proved(chunked: Chunked, plan: DPPlan) -> Chunked:
  """The update of a user's own filter, which is proved on its first sample."""
  from medjax.privacy.sensitivity.update import proved  # for filters that are not of medjax alone

  count = () if plan.adaptive_clipping is None else (plan.count_multiplier,)
  paid = (*plan.multipliers, *count)
  if not all(paid):  # without noise there is nothing to prove, and the statement says so
    return chunked

  def constants(state: TrainState) -> TrainState:
    return state.replace(extra=state.extra._replace(max_norm=float(plan.max_norm)))

  return proved(chunked, mu=math.sqrt(sum(sigma**-2 for sigma in paid)), constants=constants)


def averaged_over_keys(loss_fn: LossFn, multiplicity: int) -> LossFn:
  """The mean of the loss over `multiplicity` keys drawn from the example's own."""
  if multiplicity == 1:
    return loss_fn

  def loss(params: Params, example: PyTree, key: Key) -> jax.Array:
    keys = jax.random.split(key, multiplicity)
    return jax.vmap(loss_fn, (None, None, 0))(params, example, keys).mean()

  return loss


def with_metrics(chunked: Chunked, mechanism: Mechanism) -> Chunked:
  """Adds "release_norm", and diagnostics if the plan allows them, to the last sweep."""
  *before, last = chunked.sweeps

  def finish(state: TrainState, acc: PyTree, key: Key) -> tuple[TrainState, PyTree, Metrics]:
    state, gradient, _ = last.finish(state, acc, key)
    return state, gradient, {"release_norm": optax.tree.norm(gradient)}

  chunked = chunked._replace(sweeps=(*before, Sweep(last.accumulate, finish)))
  return diagnosed(chunked, mechanism) if mechanism.plan.diagnostics else chunked


def mean_over_members(loss_fn: LossFn) -> LossFn:
  """Loss of a group {"members", ...}: the weighted mean over its members, each with its own key."""

  def loss(params: Params, group: PyTree, key: Key) -> jax.Array:
    members = group["members"]
    return grads.batch_mean(lambda example, k: loss_fn(params, example, k), members, key)

  return loss
