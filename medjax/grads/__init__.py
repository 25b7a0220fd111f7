"""Computations on gradients: per-example, clipped, and hypergradients through an optimiser step."""

from medjax.grads import combine, weights
from medjax.grads.batch import batch_mean
from medjax.grads.clipping import ClippedSum, clipped_sum
from medjax.grads.domains import Domains, domains
from medjax.grads.ghost.explain import Explanation, LeafCost, explain
from medjax.grads.gramian import gramian, jacobian
from medjax.grads.hyper import hypergradient
from medjax.grads.hyper_result import Hyper, HyperAux
from medjax.grads.hyper_samples import SampleEffect, sample_effect
from medjax.grads.per_sample import PerSample, per_sample, per_sample_dot
from medjax.grads.sketch import sketched
from medjax.grads.task_gradients import TaskGradients, task_gradients, task_gramian

__all__ = [
  "ClippedSum",
  "Domains",
  "Explanation",
  "Hyper",
  "HyperAux",
  "LeafCost",
  "PerSample",
  "SampleEffect",
  "TaskGradients",
  "batch_mean",
  "combine",
  "clipped_sum",
  "domains",
  "explain",
  "gramian",
  "hypergradient",
  "jacobian",
  "per_sample",
  "per_sample_dot",
  "sample_effect",
  "sketched",
  "task_gradients",
  "task_gramian",
  "weights",
]
