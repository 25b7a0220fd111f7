"""Computations on gradients: hypergradients through an optimiser step."""

from medjax.grads.batch import batch_mean
from medjax.grads.hyper import Hyper, HyperAux, hypergradient

__all__ = ["Hyper", "HyperAux", "batch_mean", "hypergradient"]
