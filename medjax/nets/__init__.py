"""Networks: Linen modules behind `Model(init, apply)`, and an adapter for NNX."""

from medjax.nets.mixstyle import mixstyle
from medjax.nets.model import from_linen, from_nnx
from medjax.nets.resnet import ResNet9
from medjax.nets.unet import UNet
from medjax.nets.wavelet_autoencoder import WaveletAutoencoder

__all__ = ["ResNet9", "UNet", "WaveletAutoencoder", "from_linen", "from_nnx", "mixstyle"]
