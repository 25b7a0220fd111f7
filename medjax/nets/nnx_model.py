"""`Model(init, apply)` of an NNX module."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medjax import rng
from medjax.check import InputError, require
from medjax.nets.model import require_axis
from medjax.types import Key, Model, Params, PyTree


def from_nnx(build: Callable[[Any], Any]) -> Model:
  """Model of an NNX module; `build(rngs)` makes it, its `__call__` takes one example.

  Parameters are the `nnx.Param` state as a pure nested dict. The state of random numbers, which
  `nnx.Dropout(rngs=rngs)` and other layers hold, is no part of either tree: `apply` starts every
  such stream from its `key` and the name of the layer, so that each example and step draws anew.
  All other variables (batch statistics, the vectors of spectral norms) are `model_state`.

  Raises:
    InputError: on `apply`, a network with such variables and no `model_state`; with `train`, layers
      that draw random numbers and no `key`, or BatchNorm without `axis_name="batch"`.
  """
  from flax import nnx  # half a second of import that users of Linen need not pay

  kinds = (nnx.Param, nnx.RngState, nnx.Intermediate, ...)
  abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
  graphdef, _, streams, _, rest = nnx.split(abstract, *kinds)
  has_state = bool(jax.tree.leaves(rest))

  def init(key: Key, image: jax.Array) -> tuple[Params, PyTree]:
    del image  # NNX modules know their input sizes when they are built
    _, params, _, _, rest = nnx.split(build(nnx.Rngs(key)), *kinds)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

  def seeded(key: Key) -> Any:
    """The state of random numbers with every stream at its start."""
    flat = {}
    for path, variable in nnx.to_flat_state(streams):
      shape, dtype = variable.get_value().shape, variable.get_value().dtype
      if isinstance(variable, nnx.RngKey):
        own = rng.stream(key, "/".join(map(str, path)))
        start = jax.random.split(own, shape) if shape else own
      else:
        start = jnp.zeros(shape, dtype)  # how often the stream was asked
      flat[path] = variable.replace(start)
    return nnx.from_flat_state(flat)

  def apply(
    params: Params,
    image: jax.Array,
    *,
    model_state: PyTree | None = None,
    key: Key | None = None,
    train: bool = False,
  ) -> tuple[PyTree, PyTree]:
    require(
      model_state or not has_state,
      "the model_state that init gave",
      "none, for a network with variables beside its parameters",
      "pass model.apply(params, image, model_state=...)",
    )
    if train and key is None and jax.tree.leaves(streams):
      raise InputError(
        "a key for a network that draws random numbers in training",
        "key=None",
        "pass model.apply(params, image, key=key, train=True) with the key of the loss",
      )
    start = seeded(jax.random.key(0) if key is None else key)
    module = nnx.merge(graphdef, params, start, model_state or {})
    if train:
      module.train()
      for _, layer in nnx.iter_modules(module):
        if isinstance(layer, nnx.BatchNorm):
          require_axis(layer.axis_name)
    else:
      module.eval()
    takes_rngs = "rngs" in inspect.signature(type(module).__call__).parameters
    options = {"rngs": nnx.Rngs(key)} if key is not None and takes_rngs else {}
    logits = module(image, **options)
    _, _, _, _, rest = nnx.split(module, *kinds)
    return logits, nnx.to_pure_dict(rest)

  return Model(init, apply)
