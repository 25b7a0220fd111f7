"""Networks: Linen modules behind `Model(init, apply)`, and an adapter for NNX."""

from medjax.nets.model import from_linen, from_nnx
from medjax.nets.unet import UNet

__all__ = ["UNet", "from_linen", "from_nnx"]
