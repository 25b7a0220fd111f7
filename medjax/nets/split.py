"""A U-Net that is cut into a front and a back at a client and a middle at a server.

What crosses a cut goes through a function, such as a link that loses packets. The parameters are
those of the whole network: with links that change nothing it is the same network, bit for bit.

  shallow     front: the first convolution; back: the last convolution and the head
  deep        front: the first level, pooled; back: the last level, with the skip connection between
              them, which stays at the client
  deep-skip   as deep, but the skip connection goes to the server and comes back: a control, since
              a deeper cut also takes that connection off the link
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen

from medjax import check
from medjax.nets.unet import UNet
from medjax.types import Params

SplitKind = Literal["shallow", "deep", "deep-skip"]
CUTS = ("shallow", "deep", "deep-skip")
Link = Callable[[int, jax.Array], jax.Array]
"""`link(number of the crossing, features [1, *space, channel]) -> features as they arrive`."""


class Split(NamedTuple):
  """A network in three parts.

  Attributes:
    apply: `apply(params, image [*space, channel], link) -> logits`.
    side: `side(path of a parameter) -> "front", "server" or "back"`, for `federated.Part`.
    num_links: crossings of one image, each of which calls `link` with its number.
  """

  apply: Callable[[Params, jax.Array, Link], jax.Array]
  side: Callable[[str], str]
  num_links: int


def split(module: UNet, cut: SplitKind) -> Split:
  """Cuts a U-Net.

  >>> from medjax import nets
  >>> deep = nets.split(nets.UNet(2, (4, 8)), "deep")
  >>> deep.num_links, deep.side("encoder0/conv0/kernel"), deep.side("encoder1/conv0/kernel")
  (2, 'front', 'server')

  Args:
    module: of two levels and two convolutions a block, or more of either.
    cut: see the module.
  Raises:
    InputError: another word for `cut`, or a network too small to be cut.
  """
  check.one_of("cut", cut, CUTS)
  check.require(
    len(module.widths) >= 2 and module.num_convs >= 2,
    "a U-Net of two levels and two convolutions a block, or more",
    f"widths {module.widths} and {module.num_convs} convolutions",
    "take a larger one",
  )
  last = f"conv{module.num_convs - 1}"
  before = "decoder1" if len(module.widths) > 2 else "encoder1"  # what the last level upsamples
  width, is_deep, sends_skip = module.widths[0], cut != "shallow", cut == "deep-skip"

  def apply(params: Params, image: jax.Array, link: Link) -> jax.Array:
    def crossed(
      call: Callable[..., Any], args: Any, options: Any, context: linen.module.InterceptorContext
    ) -> Any:
      if context.method_name != "__call__":
        return call(*args, **options)
      path = "/".join(context.module.path)
      if is_deep and path == "encoder1":
        args = (link(0, args[0]), *args[1:])
      elif not is_deep and path == "encoder0/conv1":
        args = (link(0, args[0]), *args[1:])
      elif not is_deep and path == f"decoder0/{last}":
        args = (link(1, args[0]), *args[1:])
      elif sends_skip and path == "decoder0":
        # The skip connection stands behind what was upsampled, see `UNet`.
        joined = args[0]
        sent = link(3, link(2, joined[..., -width:]))
        args = (jnp.concatenate([joined[..., :-width], sent], axis=-1), *args[1:])
      found = call(*args, **options)
      return link(1, found) if is_deep and path == before else found

    with linen.intercept_methods(crossed):
      logits: Any = module.apply({"params": params}, image)
    return logits

  def side(path: str) -> str:
    level, _, layer = path.partition("/")
    if is_deep:
      return {"encoder0": "front", "decoder0": "back", "head": "back", "up0": "back"}.get(
        level, "server"
      )
    if level == "encoder0" and layer.startswith(("conv0", "norm0")):
      return "front"
    is_last = level == "decoder0" and layer.startswith((last, f"norm{module.num_convs - 1}"))
    return "back" if is_last or level == "head" else "server"

  return Split(apply, side, 4 if sends_skip else 2)
