"""`Model(init, apply)` of a Linen module or of an NNX class: the only shape methods see."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
from flax import linen, nnx

from medjax import rng
from medjax.types import Key, Model, Params, PyTree


def from_linen(module: linen.Module) -> Model:
  """Model of a Linen module whose `__call__` takes one example [*space, channel].

  A module that takes `train` gets it; dropout draws from `key`; collections other than "params"
  (batch statistics) travel as `model_state`.

  >>> import jax, jax.numpy as jnp
  >>> from medjax import nets
  >>> model = nets.from_linen(nets.UNet(num_outputs=3, widths=(4, 8)))
  >>> params, model_state = model.init(jax.random.key(0), jnp.zeros((16, 16, 1)))
  >>> model.apply(params, jnp.zeros((16, 16, 1)))[0].shape
  (16, 16, 3)
  """
  takes_train = _takes(type(module), "train")

  def options(train: bool) -> dict[str, Any]:
    return {"train": train} if takes_train else {}

  @jax.jit  # one program instead of one for every operation of the network
  def init(key: Key, image: jax.Array) -> tuple[Params, PyTree]:
    variables = dict(
      module.init({"params": key, "dropout": rng.stream(key, "dropout")}, image, **options(False))
    )
    return variables.pop("params"), variables

  def apply(
    params: Params,
    image: jax.Array,
    *,
    model_state: PyTree | None = None,
    key: Key | None = None,
    train: bool = False,
  ) -> tuple[PyTree, PyTree]:
    state = model_state or {}
    logits, updated = module.apply(
      {"params": params, **state},
      image,
      rngs=None if key is None else {"dropout": key},
      mutable=list(state) if train else [],
      **options(train),
    )
    return logits, {**state, **updated}

  return Model(init, apply)


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Model:
  """Model of an NNX module; `build(rngs)` makes it, its `__call__` takes one example.

  Parameters are the `nnx.Param` state as a pure nested dict; all other variables are `model_state`.
  """
  graphdef, _, _ = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, ...)

  def init(key: Key, image: jax.Array) -> tuple[Params, PyTree]:
    del image  # NNX modules know their input sizes when they are built
    _, params, rest = nnx.split(build(nnx.Rngs(key)), nnx.Param, ...)
    return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

  def apply(
    params: Params,
    image: jax.Array,
    *,
    model_state: PyTree | None = None,
    key: Key | None = None,
    train: bool = False,
  ) -> tuple[PyTree, PyTree]:
    module = nnx.merge(graphdef, params, model_state or {})
    if train:
      module.train()
    else:
      module.eval()
    options = {"rngs": nnx.Rngs(key)} if key is not None and _takes(type(module), "rngs") else {}
    logits = module(image, **options)
    _, _, rest = nnx.split(module, nnx.Param, ...)
    return logits, nnx.to_pure_dict(rest)

  return Model(init, apply)


def _takes(module_class: type, name: str) -> bool:
  return name in inspect.signature(module_class.__call__).parameters
