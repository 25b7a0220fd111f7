"""Label map to image, by random draws or by the physics of a scanner, on the device, 2D and 3D."""

from medjax.synth import sites, tissues
from medjax.synth.acquisition import Site, acquire, rescan
from medjax.synth.alike import generate_alike, render_problem
from medjax.synth.augment import LearnableAugmentation, ParametricAugmentation, Theta
from medjax.synth.background import split_background, strip_background, with_clusters
from medjax.synth.deformation import Deformation, Flip
from medjax.synth.generator import Generator, generate
from medjax.synth.grouping import Grouping, build, identity
from medjax.synth.intensity import BiasField, Gamma, Mixture
from medjax.synth.noise import Noise
from medjax.synth.presets import learn2synth_base, synthseg
from medjax.synth.residual import UNetResidual
from medjax.synth.resolution import Blur, Resolution
from medjax.synth.style_bank import StyleBank, StyleTransfer, style_bank, wavelet_style

__all__ = [
  "BiasField",
  "Blur",
  "Deformation",
  "Flip",
  "Gamma",
  "Generator",
  "Grouping",
  "LearnableAugmentation",
  "Mixture",
  "Noise",
  "ParametricAugmentation",
  "Resolution",
  "Site",
  "StyleBank",
  "StyleTransfer",
  "Theta",
  "UNetResidual",
  "acquire",
  "build",
  "generate",
  "generate_alike",
  "identity",
  "learn2synth_base",
  "render_problem",
  "rescan",
  "sites",
  "split_background",
  "strip_background",
  "style_bank",
  "synthseg",
  "tissues",
  "wavelet_style",
  "with_clusters",
]
