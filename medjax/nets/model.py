"""`Model(init, apply)` of a Linen module: the only shape of a network that methods see."""

import inspect
from typing import Any

import jax
from flax import linen

from medjax import rng
from medjax.axes import require_batch
from medjax.check import InputError, require
from medjax.types import Key, Model, Params, PyTree

# Arguments by which Linen modules are told that they train, and what they are then given.
_SWITCHES = {
  "train": True,
  "training": True,
  "is_training": True,
  "deterministic": False,
  "use_running_average": False,
}


def from_linen(module: linen.Module) -> Model:
  """Model of a Linen module whose `__call__` takes one example [*space, channel].

  A module whose call takes `train`, `training`, `is_training`, `deterministic` or
  `use_running_average` is told by it whether it trains. Every random layer, dropout or other, draws
  from `key`; collections other than "params" (batch statistics) travel as `model_state`.

  >>> import jax, jax.numpy as jnp
  >>> from medjax import nets
  >>> model = nets.from_linen(nets.UNet(num_outputs=3, widths=(4, 8)))
  >>> params, model_state = model.init(jax.random.key(0), jnp.zeros((16, 16, 1)))
  >>> jax.jit(model.apply)(params, jnp.zeros((16, 16, 1)))[0].shape
  (16, 16, 3)

  Raises:
    InputError: on `apply(..., train=True)`, a network with dropout none of which is on, or
      BatchNorm that takes its statistics over one image: it names no batch axis, or the batch is
      one.
  """
  switches = _switches(module)

  def options(train: bool) -> dict[str, Any]:
    return {name: on if train else not on for name, on in switches.items()}

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
    watch = _TrainingWatch()
    with linen.intercept_methods(watch if train else _call):
      logits, updated = module.apply(
        {"params": params, **state},
        image,
        # Linen gives a stream that is not there, such as "noise", from "params".
        rngs=None if key is None else {"dropout": key, "params": rng.stream(key, "other layers")},
        mutable=list(state) if train else [],
        **options(train),
      )
    watch.check_dropout()
    return logits, {**state, **updated}

  return Model(init, apply)


class _TrainingWatch:
  """Looks at the layers of a network while it is traced in training."""

  def __init__(self):
    self.is_dropout_on: list[bool] = []

  def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    layer = context.module
    if context.method_name == "__call__":
      if isinstance(layer, linen.Dropout) and layer.rate > 0:
        self.is_dropout_on.append(not _option(layer, "deterministic", args[1:2], kwargs))
      elif isinstance(layer, linen.MultiHeadDotProductAttention) and layer.dropout_rate > 0:
        self.is_dropout_on.append(not _option(layer, "deterministic", (), kwargs))
      elif isinstance(layer, linen.BatchNorm):
        if not _option(layer, "use_running_average", args[1:2], kwargs):
          require_axis(layer.axis_name)
    return call(*args, **kwargs)

  def check_dropout(self) -> None:
    require(
      not self.is_dropout_on or any(self.is_dropout_on),
      "dropout that is on with train=True",
      "a network in which every dropout layer is deterministic",
      "give its __call__ an argument `train` (or `deterministic`) and hand it on to these layers;"
      " a rate of 0 says that none is wanted",
    )


def require_axis(axis_name: Any) -> None:
  """Refuses BatchNorm that would normalise by one image in training and by all in evaluation."""
  require(
    axis_name is not None,
    'BatchNorm(..., axis_name="batch") in training',
    "one without axis_name, whose statistics would be those of a single image: a loss sees one"
    " example, and the batch is the vmapped axis",
    'pass axis_name="batch", or use GroupNorm, which couples no examples',
  )
  require_batch(axis_name)


def _call(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
  del context
  return call(*args, **kwargs)


def _option(layer: Any, name: str, positional: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
  """What a layer is told in the call, else what it was built with."""
  told = kwargs.get(name, positional[0] if positional else None)
  return getattr(layer, name, None) if told is None else told


def _switches(module: linen.Module) -> dict[str, bool]:
  """The arguments of the module's call that say whether it trains.

  Raises:
    InputError: the switch is a field of the module, which a training could not turn.
  """
  parameters = inspect.signature(type(module).__call__).parameters
  switches = {name: on for name, on in _SWITCHES.items() if name in parameters}
  fields = [name for name in _SWITCHES if name in type(module).__dataclass_fields__]
  if fields and not switches:
    raise InputError(
      "a module that is told in its __call__ whether it trains",
      f"{type(module).__name__} with the field {fields[0]!r}",
      f"make it an argument: def __call__(self, image, {fields[0]}={not _SWITCHES[fields[0]]})",
    )
  return switches
