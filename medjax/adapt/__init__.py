"""Training a small part of a large network: which leaves train, low-rank updates, small files.

The small part is a tree of its own, so that whatever counts numbers counts those that train and no
others: per-example gradients, clipping norms, noise, optimiser states, messages of clients, files.
"""

from medjax.adapt.lora import low_rank, with_low_rank
from medjax.adapt.parts import SmallPart, adapted_loss, share_of, take, under, whole
from medjax.adapt.saved import load_small, save_small

__all__ = [
  "SmallPart",
  "adapted_loss",
  "load_small",
  "low_rank",
  "save_small",
  "share_of",
  "take",
  "under",
  "whole",
  "with_low_rank",
]
