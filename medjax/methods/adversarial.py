"""Training on samples that an adversary makes harder from update to update.

  a_0 = parameters(x)
  for i = 0 .. n - 1:
    x_i = render(a_i, x);   Phi = mean loss of (x_i, y)
    a_{i+1} = project(a_i, grad_{x_i} Phi);   phi <- phi + U(grad_phi Phi, s, phi)

Both gradients come from ONE backward pass ("Adversarial training for free!", Shafahi et al. 2019).
"""

import jax
import jax.numpy as jnp
import optax

from medjax import check, grads, rng, tree
from medjax.methods.adversaries.adversary import Adversary
from medjax.tree import entry
from medjax.types import Batch, Key, LossFn, Metrics, Params, PyTree, Step, TrainState


def adversarial(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  adversary: Adversary,
  *,
  num_updates: int,
) -> Step:
  """Step of `num_updates` updates a batch, each on a harder sample than the one before.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example with an image. An example has
      the same key in all updates, so that augmentation and dropout in the loss are those that the
      adversary's gradient saw. Normalise intensities in the loss, not before it.
    tx: any optax transformation; it counts updates, `num_updates` a batch: schedules too.
    adversary: see `methods.adversaries`.
    num_updates: 1 trains on where the adversary starts, which for most is the image itself.
  Returns:
    Step over plain batches with metrics "loss" and "grad_norm" (means over the updates), "loss_0"
    to "loss_{n-1}" (of the samples in order), and those of the adversary for the last sample.
  Guarantees: the gradients are bit for bit those of two separate backward passes (where XLA does
    not reorder a sum, as it may for biases); examples of weight 0 and the order of examples change
    nothing; the updates are unrolled in one program (XLA:CPU runs convolutions in loops 4 to 20
    times slower).
  """
  check.positive("num_updates", num_updates)

  def init(params: Params, key: Key) -> TrainState:
    del key
    return TrainState.start(params, tx.init(params))

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    check.require(
      hasattr(batch, "image") and hasattr(batch, "replace"),
      "a Batch, whose image the adversary changes",
      type(batch).__name__,
      "stack a source with data.stack, or make one: types.Batch(image=..., label=..., ...)",
    )
    loss_key, start_key, ascent_key = rng.streams(key, "loss", "adversary", "ascent")

    def mean_loss(params: Params, images: jax.Array, seen: Batch) -> jax.Array:
      rendered = seen.replace(image=images)
      return grads.batch_mean(lambda e, k: loss_fn(params, e, k), rendered, loss_key)

    params, opt_state = state.params, state.opt_state
    a = jax.vmap(adversary.parameters)(rng.example_keys(start_key, batch), batch)
    losses, norms, metrics = [], [], {}
    for number in range(num_updates):
      seen = batch
      if adversary.relabel is not None:
        seen = batch.replace(label=jax.vmap(adversary.relabel)(a, batch))
      images = jax.vmap(adversary.render)(a, batch)
      loss, (gradient, image_gradient) = jax.value_and_grad(mean_loss, (0, 1))(params, images, seen)
      updates, opt_state = tx.update(gradient, opt_state, params)
      params = optax.apply_updates(params, updates)
      losses.append(loss)
      norms.append(optax.tree.norm(gradient))
      if number + 1 < num_updates:
        keys = rng.example_keys(jax.random.fold_in(ascent_key, number), batch)
        a = jax.vmap(adversary.project)(a, image_gradient, batch, keys)
      else:
        described = jax.vmap(adversary.describe)(a, image_gradient, batch)
        metrics = tree.weighted_mean(described, entry(batch, "weight"))
    metrics |= {"loss": jnp.stack(losses).mean(), "grad_norm": jnp.stack(norms).mean()}
    metrics |= {f"loss_{number}": loss for number, loss in enumerate(losses)}
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

  options = {f"adversary_{name}": value for name, value in adversary.options.items()}
  manifest = {"num_updates": num_updates, **options, "adversary_provenance": adversary.provenance}
  return Step(init, update, manifest)
