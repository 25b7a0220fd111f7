"""Distribution matching under differential privacy: statistics are released once, with noise.

With K random networks F_j and changes A_j that everybody knows, an example x of class c adds

  v(x) = e_c (x) [F_1(A_1(x)) / |.|, ..., F_K(A_K(x)) / |.|, 1],   |v(x)| = sqrt(K + 1)

to a sum over the examples of a client. That sum is released with Gaussian noise of the plan, and
nothing else is read of the data: class means are quotients of released numbers, and pictures that
match them may be learnt in as many updates as one likes. The networks' features have length 1, so
that clipping to sqrt(K + 1) cuts nothing.

GDD's spread of statistics over a batch is no sum over examples and has no place here.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from medjax import check, rng
from medjax.methods.condensation.matching import Matching
from medjax.methods.private import private
from medjax.privacy.plan import DPPlan
from medjax.transforms import Transform
from medjax.types import Key, Params, PyTree, Step


class RandomNetworks(NamedTuple):
  """K public networks.

  Attributes:
    embed: `embed(network, image) -> [feature]` of one image.
    networks: parameters with a leading axis of K.
    change: transform of images, or None.
    drawn: its parameters with a leading axis of K, () without a change.
  """

  embed: Callable[[Params, Array], Array]
  networks: Params
  change: Transform | None
  drawn: PyTree

  @classmethod
  def draw(
    cls,
    embed: Callable[[Params, Array], Array],
    new_network: Callable[[Key], Params],
    key: Key,
    *,
    count: int,
    shape: tuple[int, ...],
    change: Transform | None = None,
  ) -> "RandomNetworks":
    """`count` networks, and changes of images of `shape`, from a key that is no secret."""
    check.positive("count", count)
    network_key, change_key = rng.streams(key, "networks", "changes")
    networks = jax.vmap(new_network)(jax.random.split(network_key, count))
    drawn: Any = ()
    if change is not None:
      keys = jax.random.split(change_key, count)
      drawn = jax.vmap(lambda k: change.draw(k, shape))(keys)
    return cls(embed, networks, change, drawn)

  @property
  def number(self) -> int:
    return len(jax.tree.leaves(self.networks)[0])

  def one(self, which: Array | int, image: Array) -> Float[Array, " feature"]:
    """Features of unit length under network `which`."""
    network, drawn = jax.tree.map(lambda x: x[which], (self.networks, self.drawn))
    moved = image if self.change is None else self.change.apply(drawn, image)
    found = self.embed(network, moved)
    square = jnp.square(found).sum()
    return found * jax.lax.rsqrt(jnp.maximum(square, 1e-12))

  def every(self, image: Array) -> Float[Array, "network feature"]:
    return jax.lax.map(lambda j: self.one(j, image), jnp.arange(self.number))

  @property
  def norm(self) -> float:
    """sqrt(K + 1), which no example exceeds: `max_norm` of the plan."""
    return math.sqrt(self.number + 1) * (1 + 1e-5)


class ReleasedMeans(NamedTuple):
  """What a client knows of its classes after the release.

  Attributes:
    means: [class, network, feature].
    counts: [class] noisy numbers of examples, over the expected sample.
  """

  means: Any
  counts: Any


def statistics_step(networks: RandomNetworks, plan: DPPlan) -> Step:
  """Private Step of one update whose parameters become the noisy sum of v(x), over the sample size.

  Begin with `{"sum": zeros [class, K * feature + 1]}` and train one step with `plan.stream`; read
  the result with `released_means`.

  Args:
    networks: public.
    plan: with num_steps=1 and max_norm=networks.norm. With expected_batch_size=num_examples every
      example is there. Its statement is that of the released sum and of all that is made of it.
  Raises:
    InputError: a plan of more steps, or of another norm.
  """
  check.require(plan.num_steps == 1, "num_steps=1", f"{plan.num_steps}", "release once")
  check.require(
    math.isclose(plan.max_norm, networks.norm, rel_tol=1e-6),
    f"max_norm={networks.norm}, the length of what an example adds",
    f"{plan.max_norm}",
    "pass max_norm=networks.norm",
  )

  def loss_fn(params: Params, example: Any, key: Key) -> Array:
    del key
    # Linear in the parameters: its gradient is v(x), which is what the plan clips and sums.
    vector = jnp.append(networks.every(example.image).reshape(-1), 1.0)
    return params["sum"][example.label] @ jax.lax.stop_gradient(vector)

  return private(loss_fn, optax.sgd(-1.0), plan)


def released_means(params: Params, networks: RandomNetworks) -> ReleasedMeans:
  """Class means as quotients of released numbers; a class of too small a count has means 0."""
  total = params["sum"]
  counts = total[:, -1]
  is_there = counts > 1e-6
  means = total[:, :-1] / jnp.where(is_there, counts, 1.0)[:, None]
  means = jnp.where(is_there[:, None], means, 0.0)
  return ReleasedMeans(means.reshape(len(total), networks.number, -1), counts)


def statistic_matching(networks: RandomNetworks) -> Matching:
  """sum_c |mean_cj - mean F_j(A_j(s_c))|^2 for a network j drawn in each update.

  The batch is {"means": [class, network, feature], "weight": [class, 1]}, the same in every update;
  a class of weight 0 does not count. The network that the Step draws is not used.
  """

  def match(images: Array, batch: PyTree, network: Params, key: Key) -> tuple[Array, Array]:
    del network
    which = jax.random.randint(key, (), 0, networks.number)

    def loss(own: Array) -> Array:
      flat = own.reshape(-1, *own.shape[2:])
      found = jax.vmap(lambda x: networks.one(which, x))(flat)
      found = found.reshape(*own.shape[:2], -1).mean(1)
      apart = jnp.square(batch["means"][:, which] - found).sum(-1)
      return jnp.where(batch["weight"][:, 0] > 0, apart, 0.0).sum()

    return jax.value_and_grad(loss)(images)

  return match
