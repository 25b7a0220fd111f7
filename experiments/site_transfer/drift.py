"""How features move from one site to another while a network adapts (the paper's Fig. 1).

Features are those of the deepest encoder level, averaged over an image. They are shown on the two
axes along which they differed most between slices of both sites before adaptation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.site_transfer.networks import Task, as_float
from experiments.site_transfer.setting import Pair
from medjax.types import Batch, Params, PyTree, TrainState

_SLICES = 32  # of each group
GROUPS = ("source", "target train", "target test")


class Drift:
  """Evaluator: mean features of source, target training and target test slices on two axes.

  Metrics "<group>/x" and "<group>/y", and "distance" between source and target test, in units of
  the spread of the source's slices before adaptation.
  """

  def __init__(
    self,
    task: Task,
    start: tuple[Params, PyTree],
    pool: Batch,
    pair: Pair,
    size: float,
    seed: int,
  ):
    """`start` is the source's network: parameters and running statistics."""
    self._features = jax.jit(jax.vmap(_features(task), (None, 0)))
    tested = np.concatenate([case.image for case in pair.target_test])
    self._groups = [
      jnp.asarray(pool.image[_some(pair.source_rows)]),
      jnp.asarray(pool.image[_some(pair.target_rows(size, seed))]),
      jnp.asarray(_some(tested)),
    ]
    first = [np.asarray(self._features(start, group), np.float64) for group in self._groups]
    self._middle = first[0].mean(0)
    self._spread = max(float(np.sqrt(first[0].var(0).sum())), 1e-12)
    both = np.concatenate([first[0], first[2]])
    self._axes = np.linalg.svd(both - both.mean(0), full_matrices=False)[2][:2]

  def __call__(self, state: TrainState) -> dict[str, float]:
    now = (state.params, state.model_state)
    found, means = {}, []
    for name, group in zip(GROUPS, self._groups, strict=True):
      means.append(np.asarray(self._features(now, group), np.float64).mean(0))
      x, y = self._axes @ (means[-1] - self._middle) / self._spread
      found |= {f"{name}/x": float(x), f"{name}/y": float(y)}
    found["distance"] = float(np.linalg.norm(means[2] - means[0])) / self._spread
    return found


def _features(task: Task) -> Any:
  """[channel] of one image; the deepest level is the widest of these modules, then the last."""

  def is_level(module: Any, method: str) -> bool:
    name = module.name or ""
    return method == "__call__" and name.startswith(task.deepest)

  def features(network: tuple[Params, PyTree], image: jax.Array) -> jax.Array:
    params, model_state = network
    _, state = task.network.apply(
      {"params": params, **model_state}, as_float(image), capture_intermediates=is_level
    )
    found = state["intermediates"]
    deepest = max(found, key=lambda name: (found[name]["__call__"][0].shape[-1], name))
    return found[deepest]["__call__"][0].mean((0, 1, 2))

  return features


def _some(entries: np.ndarray) -> np.ndarray:
  """At most `_SLICES`, evenly spread."""
  most = min(_SLICES, len(entries))
  return entries[np.linspace(0, len(entries) - 1, most).round().astype(int)]
