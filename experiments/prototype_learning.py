"""How prototypes are learnt: centroids of mini-batch k-means, a second stage, pruning.

Not a study: the method of `experiments.prototypes`.

  L = L_global + L_local + strength * L_cluster,   L_cluster = mean_ck ||f_ck - p_ck||   (Eqs. 1, 3)
  f_ck <- (1 - 1 / n_ck) f_ck + f_i / n_ck    for the prototype of the true class that i is nearest

Santiago et al. (2023), see `nets.Prototypes`. The centroids f and their counts n are no parameters;
as in the released code they start again from the prototypes in every epoch.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import check, losses, methods, nets, tree
from medjax.grads import weights
from medjax.types import Array, Key, Metrics, Params, PyTree, Step, TrainState

Branches = tuple[bool, bool]
"""Whether the branch of the image and that of the places are used."""


class Centroids(NamedTuple):
  """`middle` [branch, class, prototype, code] and `count` [branch, class, prototype]."""

  middle: Any
  count: Any


def moved(
  old: Centroids, codes: Array, nearest: Array, labels: Array, is_there: Array
) -> Centroids:
  """Centroids after a batch; what Eq. 2 gives one example after the other, in any order.

  Since every step of Eq. 2 keeps f n = sum of what was assigned, m examples of sum S move f by
  (S - m f) / (n + m).

  Args:
    old: of one branch or of both.
    codes: [batch, branch, code] f_i.
    nearest: [batch, branch] prototype of its class that each is assigned to.
    labels: [batch].
    is_there: [batch], False for padding.
  """
  _, num_classes, num_prototypes, _ = old.middle.shape
  own = jax.nn.one_hot(labels, num_classes) * is_there[:, None]  # [batch, class]
  given = own[:, None, :, None] * jax.nn.one_hot(nearest, num_prototypes)[:, :, None]
  counts = given.sum(0)
  sums = jnp.einsum("nbck,nbd->bckd", given, codes, precision="highest")
  total = old.count + counts
  step = (sums - counts[..., None] * old.middle) / jnp.maximum(total, 1)[..., None]
  return Centroids(old.middle + step, total)


def step_of(
  net: nets.Prototypes,
  tx: optax.GradientTransformation,
  *,
  branches: Branches = (True, True),
  strength: float = 0.01,
  weigh: weights.Weigher | None = None,
  has_centroids: bool = True,
  epoch_steps: int,
) -> Step:
  """Step on batches of {"image", "label"}.

  Args:
    net: the network.
    tx: any optax transformation.
    branches: which are trained.
    strength: lambda of Eq. 1.
    weigh: weights of examples by the length of the gradient of their logits, `weights.low()` for
      the paper's curriculum; None weighs all alike.
    has_centroids: Eq. 3; False takes the costs of ProtoPNet (Chen et al. 2019, Eq. 3), with
      distances of unit vectors: .8 times that to the nearest prototype of the own class less .08
      times that to the nearest of another one.
    epoch_steps: updates after which the centroids start again.
  """
  used = jnp.array(branches, jnp.float32)
  check.require(any(branches), "a branch or both", "none", "train one")

  def cost(logits: Array, example: PyTree) -> Array:
    each = jax.vmap(losses.cross_entropy, (0, None))(logits, example["label"])
    return (used * each).sum()

  def init(params: Params, key: Key) -> TrainState:
    del key
    start = params["params"]["prototypes"]
    extra = Centroids(start, jnp.zeros(start.shape[:3]))
    return TrainState.start(params, tx.init(params), extra=extra)

  def update(state: TrainState, batch: PyTree, key: Key) -> tuple[TrainState, Metrics]:
    del key
    own = tree.entry(batch, "weight")
    labels = batch["label"]
    is_there = jnp.ones(len(labels), bool) if own is None else own > 0

    def objective(params: Params) -> tuple[Array, tuple[Centroids, Metrics]]:
      found: Any = jax.vmap(net.apply, (None, 0))(params, batch["image"])
      start = params["params"]["prototypes"]
      old = state.extra
      is_new = state.step % epoch_steps == 0
      old = Centroids(jnp.where(is_new, start, old.middle), jnp.where(is_new, 0, old.count))
      centroids = jax.lax.stop_gradient(moved(old, *assigned(found, labels), labels, is_there))
      apart = ((centroids.middle - start) ** 2).sum(-1)
      # The length of nothing has no slope: prototypes without an example are left out.
      is_moved = (centroids.count > 0) & (apart > 0)
      length = jnp.where(is_moved, jnp.sqrt(jnp.where(is_moved, apart, 1.0)), 0.0)
      each = jax.vmap(cost)(found.logits, batch)
      chosen = jnp.ones(len(labels)) if own is None else own
      if weigh is not None:
        fixed = jax.lax.stop_gradient(found.logits)
        chosen = chosen * weigh(weights.of_logits(cost, fixed, batch, own))
      total = tree.weighted_mean(each, chosen)
      pull = (used * length.mean((1, 2))).sum()
      if not has_centroids:
        pull = tree.weighted_mean(jax.vmap(_protopnet)(found.likeness, labels) @ used, own)
      shown = {"loss": tree.weighted_mean(each, own), "cluster": pull}
      return total + strength * pull, (centroids, shown)

    gradient, (centroids, metrics) = jax.grad(objective, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics["grad_norm"] = optax.tree.norm(gradient)
    new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=centroids)
    return new, metrics

  return Step(init, update)


def assigned(found: Any, labels: Array) -> tuple[Array, Array]:
  """Codes [batch, branch, code] and nearest prototypes [batch, branch] of the true classes.

  Of an image's places the one that is most like a prototype of its class stands for it: most others
  show skin, and centroids of all of them would be centroids of skin.
  """

  def one(own: Any, label: Array) -> tuple[Array, Array]:
    maps = own.maps[:, :, label]  # [height, width, prototype]
    best = jnp.argmax(maps.max(-1))
    place = own.places.reshape(-1, own.places.shape[-1])[best]
    nearest = jnp.argmax(maps.reshape(-1, maps.shape[-1])[best])
    return jnp.stack([own.image, place]), jnp.stack([own.likeness[0, label].argmax(), nearest])

  return jax.vmap(one)(found, labels)


def _protopnet(likeness: Array, label: Array) -> Array:
  """Costs [branch] of ProtoPNet for one image; the squared distance of unit vectors is 2 - 2 s."""
  apart = 2 - 2 * likeness.max(-1)  # [branch, class], to the nearest prototype of each
  others = jnp.where(jnp.arange(apart.shape[1]) == label, jnp.inf, apart).min(1)
  return 0.8 * apart[:, label] - 0.08 * others


# --- the second stage


def block_weights(num_classes: int, num_prototypes: int) -> np.ndarray:
  """W [class, 2 C K] that gives the averages of the first stage: 1 / K for the own prototypes."""
  own = np.kron(np.eye(num_classes), np.full(num_prototypes, 1 / num_prototypes))
  return np.concatenate([own, own], 1).astype(np.float32)


def pruned(likeness: np.ndarray) -> np.ndarray:
  """Mask M [branch, class, prototype]: of prototypes with one nearest training image the closest.

  >>> likeness = np.array([[[[0.9, 0.8, 0.1]]], [[[0.2, 0.3, 0.4]]]])  # two images, one class
  >>> pruned(likeness).tolist()  # the first image is the nearest of two prototypes
  [[[True, False, True]]]

  Args:
    likeness: [image, branch, class, prototype] of the training images.
  """
  flat = likeness.reshape(len(likeness), likeness.shape[1], -1)
  nearest, closest = flat.argmax(0), flat.max(0)  # [branch, class * prototype]
  keep = np.zeros(nearest.shape, bool)
  for branch in range(len(nearest)):
    for image in np.unique(nearest[branch]):
      rivals = np.flatnonzero(nearest[branch] == image)
      keep[branch, rivals[np.argmax(closest[branch, rivals])]] = True
  return keep.reshape(likeness.shape[1:])


def second_loss(temperature: float) -> Any:
  """Loss of W on {"likeness" [2 C K], "mask" [2 C K], "label"}; the scale is that of stage one."""

  def loss(params: Params, example: dict[str, Any], key: Key) -> Array:
    del key
    return losses.cross_entropy(second_logits(params, example, temperature), example["label"])

  return loss


def second_logits(params: Params, example: dict[str, Any], temperature: float) -> Array:
  """[class] of the second stage. The mean of both branches, as their probabilities are averaged."""
  return params["weights"] @ (example["mask"] * example["likeness"]) / (2 * temperature)


# --- what stands beside prototypes


class Plain(nn.Module):
  """The same convolutions and layers, and a dense head in the place of prototypes: the baseline."""

  num_classes: int
  code: int = 128
  widths: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image[None]
    for width in self.widths:
      x = nn.relu(nn.Conv(width, (3, 3), strides=(2, 2))(x))
    x = nn.Dense(self.code)(x[0].mean((0, 1)))
    return nn.Dense(self.num_classes)(nn.Dense(self.code)(nn.relu(x)))


def plain_step(
  net: Plain,
  tx: optax.GradientTransformation,
  *,
  weigh: weights.Weigher | None = None,
  by: Literal["logits", "gradients"] = "logits",
  class_weights: np.ndarray | None = None,
) -> Step:
  """Cross-entropy, weighed by `methods.weighted` or by the class."""

  def predict(params: Params, example: PyTree, key: Key) -> Array:
    del key
    found: Any = net.apply(params, example["image"])
    return found

  def cost(logits: Array, example: PyTree) -> Array:
    own = losses.cross_entropy(logits, example["label"])
    return own if class_weights is None else own * jnp.asarray(class_weights)[example["label"]]

  if weigh is None:
    return methods.supervised(lambda p, example, key: cost(predict(p, example, key), example), tx)
  return methods.weighted(predict, cost, tx, weigh=weigh, by=by)


def optimiser(rate: float) -> optax.GradientTransformation:
  """Adam; prototypes move at ten times the rate of the layers, as in the paper."""

  def kinds(params: Params) -> PyTree:
    name_of = lambda name, leaf: "prototypes" if name.endswith("prototypes") else "layers"  # noqa: E731
    return tree.map_named(name_of, params)

  return optax.multi_transform(
    {"prototypes": optax.adam(10 * rate), "layers": optax.adam(rate)}, kinds
  )
