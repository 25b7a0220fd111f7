"""An adversary inside private training: several noisy updates on one sample, harder each time.

  for i = 0 .. n - 1, over the same Poisson sample:
    release_i = (sum_j clip(grad_phi L(phi, x_ij), C) + sigma_i C z_i) / L_expected
    a_{i+1, j} = project(a_ij, grad_x L(phi, x_ij));   x_{i+1, j} = render(a_{i+1, j}, x_j)
    phi <- phi + U(release_i, s, phi)

What an adversary knows of an example, a_ij, is made of that example and of released parameters, so
that clipping bounds what the example adds to each release. n releases compose inside one sampling
event: the plan pays for them (`DPPlan(releases_per_sample=n)`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax import check, rng
from medjax.methods.adversaries.adversary import Adversary
from medjax.privacy.alignment import Filter
from medjax.privacy.mechanism import Mechanism, add, zeros_like
from medjax.privacy.plan import DPPlan
from medjax.rng import example_keys
from medjax.types import Chunked, Key, Leaf, Params, PyTree, Sweep, TrainState


def private_curriculum(adversary: Adversary, *, num_updates: int = 4) -> Filter:
  """What `adversarial` is to `supervised`, for `private(loss_fn, tx, plan, filter=...)`.

  Args:
    adversary: see `methods.adversaries`; `lgs_fusion` makes it LSCL.
    num_updates: noisy updates, and releases, of a sample; the plan's releases_per_sample.
  Returns:
    Filter that keeps every example. The gradient of an example in its image takes a backward pass
    of its own, but for the last update.
  Raises:
    InputError: on building the Step, an adversary whose examples other people's data reach: another
      patient's image as style puts two people into one clipped gradient. Make a bank of public
      images (is_public=True), or take `StyleBank.own_subject`, which needs units of privacy that
      are whole people.

  >>> from medjax.methods.adversaries import pgd
  >>> private_curriculum(pgd(eps=0.1), num_updates=3).releases
  3
  """
  check.positive("num_updates", num_updates)

  def pieces(mechanism: Mechanism) -> Chunked:
    check_provenance(adversary, mechanism.plan)
    is_grouped = mechanism.plan.unit == "group"
    return _pieces(mechanism, of_group(adversary) if is_grouped else adversary, num_updates)

  options = {f"adversary_{name}": value for name, value in adversary.options.items()}
  options |= {"num_updates": num_updates, "adversary_provenance": adversary.provenance}
  return Filter("private_curriculum", num_updates, lambda params: (), pieces, options)


def check_provenance(adversary: Adversary, plan: DPPlan) -> None:
  """Raises InputError if an example would be made of data beyond its unit of privacy."""
  check.require(
    adversary.provenance != "other subjects",
    "an adversary that adds public data, or the example's own subject's, alone",
    "one that may draw on other subjects",
    "take a style bank with is_public=True or its own_subject(); where an adversary has no other"
    " data, say so: adversary._replace(provenance='own example')",
  )
  check.require(
    adversary.provenance != "own subject" or plan.unit == "group" or not plan.repeated_subjects,
    "a plan with unit='group' for styles of the example's own subject",
    "unit='example' with repeated_subjects=True",
    "one example's gradient would hold another example",
  )


class Pass(NamedTuple):
  """Sum of clipped gradients of a sweep, and which sweep it is."""

  total: Leaf
  number: Leaf


def _pieces(mechanism: Mechanism, adversary: Adversary, num_updates: int) -> Chunked:
  """A sweep an update; the last leaves adversaries where they are."""

  def carry(chunk: PyTree, key: Key) -> PyTree:
    return jax.vmap(adversary.parameters)(example_keys(rng.stream(key, "adversary"), chunk), chunk)

  def accumulate(state: TrainState, acc: Pass, chunk: PyTree, a: PyTree, key: Key) -> Any:
    seen = jax.vmap(lambda a, unit: rendered(adversary, a, unit))(a, chunk)
    return acc._replace(total=add(acc.total, mechanism.clipped(state, seen, key).grads)), a

  def harder(state: TrainState, acc: Pass, chunk: PyTree, a: PyTree, key: Key) -> Any:
    after, _ = accumulate(state, acc, chunk, a, key)

    def one(a: PyTree, unit: PyTree, loss_key: Key, ascent_key: Key) -> PyTree:
      gradient = _image_gradient(mechanism, state.params, rendered(adversary, a, unit), loss_key)
      return adversary.project(a, gradient, unit, ascent_key)

    ascent = jax.random.fold_in(rng.stream(key, "ascent"), acc.number)
    loss_keys, ascent_keys = (example_keys(k, chunk) for k in (rng.stream(key, "loss"), ascent))
    return after, jax.vmap(one)(a, chunk, loss_keys, ascent_keys)

  def begin(state: TrainState) -> Pass:
    return Pass(zeros_like(state.params), jnp.zeros((), jnp.int32))

  def sweep(number: int) -> Sweep:
    is_last = number + 1 == num_updates

    def finish(state: TrainState, acc: Pass, key: Key) -> tuple[TrainState, PyTree, dict]:
      gradient = mechanism.release(acc.total, state, key, which=number)
      new = mechanism.apply(state, gradient, ())
      if is_last:
        return new, gradient, {}
      # The Step counts samples, the optimiser updates.
      return new.replace(step=state.step), Pass(zeros_like(state.params), acc.number + 1), {}

    return Sweep(accumulate if is_last else harder, finish)

  return Chunked(begin, tuple(sweep(number) for number in range(num_updates)), carry)


def _image_gradient(mechanism: Mechanism, params: Params, seen: PyTree, key: Key) -> jax.Array:
  """Of one unit's loss; [*space, channel], of a group [member, *space, channel]."""
  members = _members(seen)

  def loss(image: jax.Array) -> jax.Array:
    return mechanism.loss_fn(params, _with(seen, members.replace(image=image)), key)

  return jax.grad(loss)(members.image)


def rendered(adversary: Adversary, a: PyTree, unit: PyTree) -> PyTree:
  """The unit of privacy as the loss sees it."""
  changes = {"image": adversary.render(a, unit)}
  if adversary.relabel is not None:
    changes["label"] = adversary.relabel(a, unit)
  return _with(unit, _members(unit).replace(**changes))


def of_group(adversary: Adversary) -> Adversary:
  """The adversary on a group {"members", ...}, each of whose members it changes on its own."""

  def parameters(key: Key, group: PyTree) -> PyTree:
    members = group["members"]
    return jax.vmap(adversary.parameters)(example_keys(key, members), members)

  def render(a: PyTree, group: PyTree) -> jax.Array:
    return jax.vmap(adversary.render)(a, group["members"])

  def project(a: PyTree, image_gradient: jax.Array, group: PyTree, key: Key) -> PyTree:
    members = group["members"]
    return jax.vmap(adversary.project)(a, image_gradient, members, example_keys(key, members))

  def relabel(a: PyTree, group: PyTree) -> jax.Array:
    assert adversary.relabel is not None
    return jax.vmap(adversary.relabel)(a, group["members"])

  moves = adversary.relabel is not None
  return adversary._replace(
    parameters=parameters, render=render, project=project, relabel=relabel if moves else None
  )


def _members(unit: PyTree) -> Any:
  return unit["members"] if isinstance(unit, Mapping) else unit


def _with(unit: PyTree, members: PyTree) -> PyTree:
  return {**unit, "members": members} if isinstance(unit, Mapping) else members
