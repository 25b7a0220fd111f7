"""The Step that learns pictures: a network drawn anew, a matching loss, descent on pixels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from medjax import check, rng
from medjax.methods.condensation.matching import Matching
from medjax.types import Array, Key, Metrics, Params, PyTree, Step, TrainState

_DIVERGED = (
  "distilled pictures have left every range of pixels: lower the learning rate (see"
  " methods.condensation.condensed)"
)


def condensed(
  match: Matching,
  new_network: Callable[[Key], Params],
  tx: optax.GradientTransformation,
  *,
  network_every: int = 1,
  between: Callable[[Params, Array, Key], Params] | None = None,
  limit: float | int = 100.0,
) -> Step:
  """Step whose parameters are pictures [class, picture, *space, channel].

  Args:
    match: from `distribution_matching`, `gradient_matching` or `statistic_matching`.
    new_network: `new_network(key) -> parameters` of a random network.
    tx: an optax transformation of the pixels. GDD-FL has optax.sgd(1.0); see below.
    network_every: updates that share a network. 1 draws one in each, as DM and GDD-FL do.
    between: `between(network, images, key) -> network` after every update, for gradient matching
      along the training of a network, as DC does for 10 pictures or more of a class.
    limit: largest pixel in size that is still taken for a picture.
  Returns:
    Step with metrics "loss", "grad_norm", "largest" (pixel in size) and "diverged", 1 once that is
    beyond `limit`. A class that the batches lack keeps its pictures as they were.

  The rate 1 of the paper is too large for small data. Where the features are the pixels, descent
  diverges from the rate k of k pictures a class on, and with the two terms of GDD from k / 2 on
  (`distribution_matching`). `nets.InstanceConvNet` norms its input, so that pixels do not run away
  to infinity but out of their range. Measured on simulated tissue of 32 x 32 pixels in [-0.2, 1.2],
  one picture a class from noise, 100 updates, as mean loss of the last ten and largest pixel:

    rate                     .03          .1           1
    DM, 65 at the start      37.6, 1.3    41.3, 1.6    60.3, 5.0
    GDD, 128 at the start    73.8, 1.5    93.1, 2.0    128.5, 6.2

  A picture has 1 / k of the gradient of its class's mean, so that a rate serves k pictures as k
  times the rate: with ten of a class and 300 updates the loss fell to 7.0 at .03, and to .7 at .3
  with momentum .5; a server that trained on them had an area under the curve of .516 and of .977
  (one run each, DM, 16 x 16 pixels). Begin at .03 k, and look at "largest". What is published as
  bytes is cut to its range.
  """
  check.positive("network_every", network_every)
  check.positive("limit", limit)

  def init(params: Params, key: Key) -> TrainState:
    network = new_network(rng.stream(key, "network"))
    return TrainState.start(params, tx.init(params), extra=network)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    network_key, match_key, between_key = rng.streams(key, "network", "match", "between")
    network = state.extra
    if network_every == 1:
      network = new_network(network_key)
    else:
      is_new = state.step % network_every == 0
      network = jax.lax.cond(is_new, new_network, lambda k, old=network: old, network_key)
    loss, gradient = match(state.params, batch, network, match_key)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    if between is not None:
      network = between(network, params, between_key)
    largest = jnp.abs(params).max()
    metrics = {
      "loss": loss,
      "grad_norm": optax.tree.norm(gradient),
      "largest": largest,
      "diverged": (largest > limit).astype(jnp.float32),
    }
    new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=network)
    return new, metrics

  manifest = {"network_every": network_every}
  return Step(init, update, manifest, {"diverged": _DIVERGED})
