"""Networks over the tiles of a slide, forests beside them, and the networks' reasons.

Not a study: what the study of attention over tiles trains and explains.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import classical
from experiments.bags import Bags
from medjax import explain, losses, metrics, nets
from medjax.types import Array, Evaluator, Key, Params, TrainState


class Task:
  """A network over tiles, its loss, its scores and its reasons."""

  def __init__(self, width: int, *, is_linear: bool, is_uniform: bool):
    self.is_linear = is_linear
    self.net = nets.AttentionMIL(2, width, 1, 0 if is_linear else width, is_uniform)
    self.predict = jax.jit(jax.vmap(self.net.apply, (None, 0, 0)))

  def loss(self, params: Params, example: dict[str, Any], key: Key) -> Array:
    del key
    found: Any = self.net.apply(params, example["feature"], example["is_tile"])
    return losses.cross_entropy(found.logits, example["label"])

  def evaluator(self, store: dict[str, np.ndarray]) -> Evaluator:
    def evaluate(state: TrainState) -> dict[str, float]:
      logits = self.predict(state.params, store["feature"], store["is_tile"]).logits
      return {"auroc": float(metrics.auroc(logits[:, 1] - logits[:, 0], store["label"]))}

    return evaluate

  def score(self, params: Params, bag: Array) -> Array:
    """The log-odds of a slide with these features z: a bag whose one tile is z has that mean."""
    found: Any = self.net.apply(params, bag[None], jnp.ones(1, bool))
    return found.logits[1] - found.logits[0]

  @functools.partial(jax.jit, static_argnums=0)
  def parts(self, params: Params, new: Array, background: Array) -> tuple[Array, Array]:
    """Parts [slide, feature] of the log-odds of slides z, and how far their sums are off."""
    score = functools.partial(self.score, params)
    if self.is_linear:
      slopes = jax.grad(score)(new[0])  # w, the same everywhere
      alone = jnp.ones(1, new.dtype)
      values = jax.vmap(
        lambda z: explain.linear_parts(z[None], alone, slopes, background.mean(0)).features
      )(new)
      rise = jax.vmap(score)(new) - jax.vmap(score)(background).mean()
      return values, values.sum(1) - rise
    found = jax.vmap(lambda z: explain.expected_gradients(score, z, background, num_steps=32))(new)
    return found.values, found.gap


def forest(known: Bags, feature: np.ndarray, seed: int, *, by_tile: bool) -> np.ndarray:
  """[test slide, class] probabilities: the mean over tiles, or of the mean tile."""
  train, new = (np.array(known.parts[part]) for part in ("train", "test"))
  count = known.is_tile.sum(1)
  if not by_tile:
    means = feature.sum(1) / count[:, None]
    return classical.forest(means[train], known.label[train], means[new], 2, seed)
  owner = np.repeat(known.label[train], count[train])
  said = classical.forest(
    feature[train][known.is_tile[train]], owner, feature[new][known.is_tile[new]], 2, seed
  )
  return np.stack([part.mean(0) for part in np.split(said, np.cumsum(count[new])[:-1])])


class Reasons(NamedTuple):
  """Of an arm, by seed: mean size of each feature's part, largest gap, and the sanity check."""

  sizes: list[np.ndarray]
  gaps: list[float]
  sanity: list[float]


def reasons_of(
  task: Task,
  params: Params,
  stores: dict[str, dict[str, np.ndarray]],
  new: Array,
  into: Reasons,
  key: Key,
) -> np.ndarray:
  """Mean size [feature] of the parts of the test slides z; also checks them."""
  train = stores["train"]
  background = task.predict(params, train["feature"], train["is_tile"]).bag
  values, gap = task.parts(params, new, background)
  own = explain.randomised_weights(
    lambda params, z: task.parts(params, z[None], background)[0][0], params, new, key
  )
  into.sizes.append(np.abs(np.asarray(values)).mean(0))
  into.gaps.append(float(np.abs(gap).max()))
  into.sanity.append(float(own[""].mean()))
  return into.sizes[-1]


def cells_found(task: Task, params: Params, held: Bags, feature: np.ndarray) -> float:
  """How well parts of nuclei tell those in which the label shows: mean area under the ROC curve.

  Exact for a linear head: the part of a tile is shared out over its nuclei by `cell_parts`. .5 for
  parts that know nothing. The slides are those of the test whose label is 1.
  """
  if held.cells is None:
    return float("nan")
  own = held.cells
  mean, spread = (moment[list(own.columns)] for moment in held.moments(held.feature))
  score = functools.partial(task.score, params)
  slopes = np.asarray(jax.grad(score)(jnp.zeros(feature.shape[-1])))[list(own.columns)]
  rows = [i for i in held.parts["test"] if held.label[i] == 1]
  said: Any = task.predict(params, feature[rows], held.is_tile[rows])
  areas = []
  for attention, units in zip(np.asarray(said.attention), own.unit[rows], strict=True):
    cells, is_cell = (own.cells[units] - mean) / spread, own.is_cell[units]
    # The background moves all nuclei of a tile alike, so that any serves here.
    given = map(jnp.asarray, (cells, is_cell, attention, slopes, 0 * mean))
    parts = explain.cell_parts(*given).sum(-1)
    shown = own.is_shown[units] & is_cell
    tiles = shown.any(1)  # nuclei of one tile are told apart: between tiles the attention differs
    for part, is_shown, is_there in zip(
      np.asarray(parts)[tiles], shown[tiles], is_cell[tiles], strict=True
    ):
      areas.append(float(metrics.auroc(part[is_there], is_shown[is_there].astype(np.int32))))
  return float(np.mean(areas))
