"""Predictions of networks on many images, in chunks; networks of one `apply` share a program."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from medjax import check, inference
from medjax.types import Array, Batch, Evaluator, PyTree, TrainState

Apply = Callable[[PyTree, Array], Array]


class ChunkedPredictor:
  """`predictor(network, images) -> [n, ...]`, outputs on the host.

  >>> predictor = ChunkedPredictor(lambda scale, image: scale * image.sum(), chunk=2)
  >>> predictor(2.0, np.ones((3, 4, 4, 1), np.float32)).tolist()
  [32.0, 32.0, 32.0]
  """

  def __init__(
    self,
    apply: Apply,
    *,
    chunk: int = 16,
    symmetries: Sequence[inference.Symmetry] = (inference.IDENTITY,),
  ):
    """Keeps a program for `apply`; predictors of the same function share it.

    Args:
      apply: `apply(network, image) -> output` of ONE image [*space, channel]; `network` is whatever
        it needs, parameters or parameters and running statistics.
      chunk: images a call; the last call is filled up, so that one program serves any number.
      symmetries: outputs [*space, class] are averaged over these; (IDENTITY,) predicts once.
    """
    check.positive("chunk", chunk)
    check.require(symmetries, "a symmetry", "none", "pass (inference.IDENTITY,)")
    self._program, self._chunk, self._symmetries = _program(apply), chunk, tuple(symmetries)

  def __call__(self, network: PyTree, images: np.ndarray) -> np.ndarray:
    """Outputs [n, ...] of images [n, *space, channel], n at least 1."""
    if self._symmetries == (inference.IDENTITY,):
      return self._plain(network, images)
    total: Any = 0.0
    for symmetry in self._symmetries:
      moved = np.stack([symmetry.forward(image) for image in images])
      values = self._plain(network, moved)
      total = total + np.stack([symmetry.backward(value) for value in values])
    return total / len(self._symmetries)

  def _plain(self, network: PyTree, images: np.ndarray) -> np.ndarray:
    spare = -len(images) % self._chunk
    filled = np.pad(images, [(0, spare), *[(0, 0)] * (images.ndim - 1)])
    parts = [
      np.asarray(self._program(network, filled[i : i + self._chunk]))
      for i in range(0, len(filled), self._chunk)
    ]
    return np.concatenate(parts)[: len(images)]


def accuracy_of(predictor: ChunkedPredictor, cases: Batch) -> Evaluator:
  """An evaluator, {"accuracy": share of the cases whose class is right}, for validation people.

  Args:
    predictor: of logits [class] of one image; it is given the parameters alone.
    cases: with images and class ids.
  """

  def evaluate(state: TrainState) -> dict[str, float]:
    is_right = predictor(state.params, cases.image).argmax(-1) == cases.label
    return {"accuracy": float(is_right.mean())}

  return evaluate


@functools.lru_cache(maxsize=16)
def _program(apply: Apply) -> Callable[..., Array]:
  return jax.jit(jax.vmap(apply, (None, 0)))
