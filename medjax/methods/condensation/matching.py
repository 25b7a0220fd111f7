"""Distribution matching: mean features of distilled pictures against those of real ones.

Zhao and Bilen, "Dataset condensation with distribution matching" (2023), and Tian et al.,
"Communication-efficient federated skin lesion classification with generalizable dataset
distillation" (GDD-FL, 2023), Algorithm 1. With a random network F, a change A drawn once for each
class, real pictures x and distilled ones s of class c, and uncertain statistics U,

  O^T_c = mean F(A(x)),   O^S_c = mean F(A(s)),   O^U_c = mean F(A(U(x)))
  L = sum_c |O^T_c - O^S_c|^2 + sum_c |O^U_c - O^S_c|^2
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from medjax import check, rng, tree
from medjax.ops import uncertain
from medjax.transforms import Transform
from medjax.types import Key, Params, PyTree

Embed = Callable[..., jax.Array]
"""`embed(network, image) -> features`; where features are changed, `embed(network, image, change)`
of ONE example."""
_SIBLINGS = "siblings"


@runtime_checkable
class Matching(Protocol):
  """`match(images, batch, network, key) -> (loss, gradient with respect to the images)`.

  `images` are the distilled ones [class, picture, *space, channel], `batch` is what the stream
  gives.
  """

  def __call__(
    self, images: Array, batch: PyTree, network: Params, key: Key, /
  ) -> tuple[Array, Array]: ...


class Uncertain(NamedTuple):
  """How real pictures are shifted in GDD.

  Attributes:
    where: "pixels", as Algorithm 1 has it, or "features" of the network's first block, as the text
      has it ("feature statistics").
    probability: p, of a class in an update.
    roles: "corrected", or "printed": the published formula, which exchanges mean and deviation.
    keeps_plain: whether the term of the real pictures as they are stands beside the shifted one:
      True in Algorithm 1, False in the objective of the text.
  """

  where: Literal["pixels", "features"] = "pixels"
  probability: float = 0.5
  roles: uncertain.Roles = "corrected"
  keeps_plain: bool = True


def distribution_matching(
  embed: Embed, *, change: Transform | None = None, shift: Uncertain | None = None
) -> Matching:
  """The loss above as a `Matching` over batches of `data.class_batches`.

  Args:
    embed: features of one image under a network.
    change: A; None leaves pictures as they are. `data.augmentation.siamese()` is DSA's.
    shift: U; None: distribution matching. With where="features" `embed` takes a third argument, the
      function that it puts over its feature maps [*space, channel].
  Returns:
    Matching whose loss counts the classes that the batch holds.
  Raises:
    InputError: a probability outside [0, 1], or an unknown place.

  With features that are the pixels, the gradient is 2 / k (mean s - mean x) for each of k pictures:
  descent at the rate eta multiplies the distance of the means by 1 - 2 eta / k, and converges for
  eta < k alone. The second term of GDD halves that bound. A network with Jacobian J has the bound
  over the largest eigenvalue of J J^T in its place.
  """
  if shift is not None:
    check.probability("probability", shift.probability)
    check.one_of("where", shift.where, ("pixels", "features"))
    check.one_of("roles", shift.roles, get_args(uncertain.Roles))

  def match(images: Array, batch: PyTree, network: Params, key: Key) -> tuple[Array, Array]:
    real = jnp.asarray(tree.entry(batch, "image"))
    is_there = jnp.asarray(tree.entry(batch, "weight"))[:, 0] > 0
    change_key, shift_key = rng.streams(key, "change", "shift")
    keys = jax.random.split(change_key, images.shape[0])

    def changed(pictures: Array) -> Array:
      """[class, picture, ...], all of a class with the same draw."""
      if change is None:
        return pictures

      def of_class(one: tuple[Key, Array]) -> Array:
        drawn = change.draw(one[0], images.shape[2:])
        return jax.vmap(change.apply, (None, 0))(drawn, one[1])

      # A loop runs the one operation that a class drew; vmap would run all and choose.
      return jax.lax.map(of_class, (keys, pictures))

    def means(moved: Array) -> Array:
      flat = jax.vmap(lambda x: embed(network, x))(moved.reshape(-1, *moved.shape[2:]))
      return flat.reshape(*moved.shape[:2], -1).mean(1)

    targets = []
    if shift is None:
      targets.append(means(changed(real)))
    elif shift.where == "pixels":
      shifted = _shifted(shift, real, shift_key, lambda x, apply: apply(x))
      moved = changed(jnp.concatenate([real, shifted], 1))
      targets.append(means(moved[:, real.shape[1] :]))
      if shift.keeps_plain:
        targets.append(means(moved[:, : real.shape[1]]))
    else:
      moved = changed(real)
      put = lambda x, apply: embed(network, x, apply)  # noqa: E731
      targets.append(_shifted(shift, moved, shift_key, put).mean(1))
      if shift.keeps_plain:
        targets.append(means(moved))

    def loss(own: Array) -> Array:
      found = means(changed(own))
      apart = sum(jnp.square(target - found).sum(-1) for target in targets)
      return jnp.where(is_there, apart, 0.0).sum()

    return jax.value_and_grad(loss)(images)

  return match


def _shifted(
  shift: Uncertain,
  pictures: Float[Array, "class example *shape"],
  key: Key,
  put: Callable[[Array, Callable[[Array], Array]], Array],
) -> Float[Array, "class example *out"]:
  """put(picture, U) of every picture; the spread of statistics is that over the class's."""
  gate_key, noise_key = rng.streams(key, "gate", "noise")
  num_classes, num_examples = pictures.shape[:2]
  is_on = jax.random.bernoulli(gate_key, shift.probability, (num_classes,))
  keys = jax.random.split(noise_key, (num_classes, num_examples))

  def one(x: Array, gate: Array, own_key: Key) -> Array:
    def uncertain_of(features: Array) -> Array:
      noise = jax.random.normal(own_key, (2, features.shape[-1]))
      new = uncertain.uncertain_statistics(features, noise, _SIBLINGS, shift.roles)
      return jnp.where(gate, new, features)

    return put(x, uncertain_of)

  of_class = jax.vmap(one, (0, None, 0), axis_name=_SIBLINGS)
  return jax.vmap(of_class)(pictures, is_on, keys)
