"""Means over the examples of each domain (a site, a scanner) of a batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check, tree
from medjax.types import Array, PyTree

UNKNOWN_DOMAINS = (
  "examples of a domain outside 0 .. num_domains - 1: count the domains of all sources that train"
)


class Domains(NamedTuple):
  """Who belongs to which domain; make one by `domains`.

  Attributes:
    share: [domain, batch], each row the weights of its examples, which sum to 1; a domain without
      an example has a row of zeros.
    count: [domain] examples of a weight above 0.
    num_unknown: examples of a weight above 0 whose domain is out of range.
  """

  share: Any
  count: Any
  num_unknown: Any

  @property
  def is_there(self) -> Array:
    """[domain] whether it has an example."""
    return self.count > 0

  def mean(self, values: PyTree) -> PyTree:
    """Leaves [batch, ...] -> [domain, ...]; 0 of a domain without examples.

    An example of weight 0 changes nothing, also if it holds NaN.
    """

    def one(x: Array) -> Array:
      share = self.share.reshape(*self.share.shape, *[1] * (x.ndim - 1))
      return jnp.where(share > 0, share * x[None], 0.0).sum(1)

    return jax.tree.map(one, values)

  def variance(self, values: PyTree) -> PyTree:
    """Leaves [batch, ...] -> [domain, ...] population variances around the domains' own means."""

    def one(x: Array) -> Array:
      mean = self.mean(x)
      share = self.share.reshape(*self.share.shape, *[1] * (x.ndim - 1))
      apart = jnp.where(share > 0, x[None] - mean[:, None], 0.0)
      return (share * apart**2).sum(1)

    return jax.tree.map(one, values)

  def over(self, values: Array, is_counted: Array | None = None) -> Array:
    """Mean of [domain] values over the domains that are there, or over those that are counted."""
    kept = self.is_there if is_counted is None else is_counted
    return jnp.where(kept, values, 0.0).sum() / jnp.maximum(kept.sum(), 1)

  def worst(self, values: Array) -> Array:
    """The largest of [domain] values of domains that are there; 0 if none is."""
    largest = jnp.max(jnp.where(self.is_there, values, -jnp.inf))
    return jnp.where(self.is_there.any(), largest, 0.0)

  def checked(self, loss: Array) -> Array:
    """The loss; NaN if an example is of an unknown domain, so that a training stops."""
    return jnp.where(self.num_unknown > 0, jnp.nan, loss)


def domains(batch: PyTree, num_domains: int) -> Domains:
  """Reads `batch.domain`, class ids [batch], and `batch.weight`.

  >>> found = domains({"domain": jnp.array([0, 1, 0]), "weight": jnp.array([1.0, 1.0, 3.0])}, 2)
  >>> found.mean(jnp.array([4.0, 7.0, 8.0])).tolist(), found.count.tolist()
  ([7.0, 7.0], [2, 1])

  Args:
    batch: with an entry or attribute `domain`; without a `weight` all examples weigh alike.
    num_domains: 1 or more; domains are 0 .. num_domains - 1, as `data.concat` numbers sites.
  Raises:
    InputError: no domains in the batch, fewer than one of them.
  """
  check.positive("num_domains", num_domains)
  domain, weight = tree.entry(batch, "domain"), tree.entry(batch, "weight")
  check.require(
    domain is not None, "a batch with domains", "none", "put the site of each example in `domain`"
  )
  domain = jnp.asarray(domain)
  weight = jnp.ones(domain.shape) if weight is None else jnp.asarray(weight)
  is_own = domain[None] == jnp.arange(num_domains, dtype=domain.dtype)[:, None]
  own = jnp.where(is_own, weight[None], 0.0)
  total = own.sum(1, keepdims=True)
  is_known = is_own.any(0)
  return Domains(
    own / jnp.where(total > 0, total, 1.0),
    (own > 0).sum(1),
    (~is_known & (weight > 0)).sum(),
  )
