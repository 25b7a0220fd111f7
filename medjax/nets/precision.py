"""What a network computes in, and what it keeps for the backward pass, as one object.

The rest stays in float32 whatever a `Precision` says: parameters and what optimisers keep of them,
reductions of norms, logits and so losses and metrics, norms and clipped sums of gradients
(`grads.clipped_sum`), released noise. bfloat16 has the range of float32, so losses need no scaling.
"""

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from medjax import check

LinenNetwork = TypeVar("LinenNetwork", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Precision:
  """Applies to any Linen network with the fields that it sets.

  >>> from medjax import nets
  >>> net = Precision(compute="bfloat16", remat=True).of(nets.UNet(3, (8, 16)))
  >>> net.dtype, net.remat
  ('bfloat16', True)

  Attributes:
    compute: type of convolutions, products and activations; None is float32.
    remat: compute what lies inside a block again in the backward pass, for volumes whose
      activations do not fit; see `nets.UNet`.
  Raises:
    InputError: a type that is no floating-point one.
  """

  compute: DTypeLike | None = None
  remat: bool = False

  def __post_init__(self):
    is_float = self.compute is None or jnp.issubdtype(jnp.dtype(self.compute), jnp.floating)
    check.require(is_float, "a floating-point type", f"{self.compute}", "pass jnp.bfloat16")

  def of(self, network: LinenNetwork) -> LinenNetwork:
    """The network with these settings; its parameters keep their names, shapes and float32.

    Raises:
      InputError: a network without the field that is to be set.
    """
    asked = {"dtype": self.compute, "remat": self.remat}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value}
    fields = {field.name for field in dataclasses.fields(network)}
    lacking = sorted(set(changes) - fields)
    check.require(
      not lacking,
      f"a network with the field {' and '.join(lacking)}",
      type(network).__name__,
      "leave that setting out, or give your module the field",
    )
    return network.clone(**changes)
