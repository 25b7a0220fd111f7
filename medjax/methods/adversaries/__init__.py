"""Ways to make one example harder, for `methods.adversarial`: parameters, render, project."""

from medjax.methods.adversaries.adversary import Adversary
from medjax.methods.adversaries.chain import Component, chain
from medjax.methods.adversaries.components import affine, bias_field, morph, noise, style_statistics
from medjax.methods.adversaries.fusion import Fusion, lgs_fusion, scl_fusion
from medjax.methods.adversaries.perturbation import fgsm, free, pgd

__all__ = [
  "Adversary",
  "Component",
  "Fusion",
  "affine",
  "bias_field",
  "chain",
  "fgsm",
  "free",
  "lgs_fusion",
  "morph",
  "noise",
  "pgd",
  "scl_fusion",
  "style_statistics",
]
