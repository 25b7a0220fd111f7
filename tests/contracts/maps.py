"""The table of maps that explain a score: a further one is one more row."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from medjax import explain


class Row(NamedTuple):
  """A map.

  Attributes:
    name: of its function.
    make: `make(score, activations [*space, channel]) -> [*space]`.
    degree: how the map grows with the score: 1 if a score twice as large has a map twice as large.
  """

  name: str
  make: Callable[..., Any]
  degree: int = 1


def _integrated(score: Callable[..., Any], image: Any) -> Any:
  return explain.integrated_gradients(score, image, 0 * image, num_steps=4).values.sum(-1)


def _expected(score: Callable[..., Any], image: Any) -> Any:
  background = jnp.stack([0 * image, 0 * image + 1])
  return explain.expected_gradients(score, image, background, num_steps=4).values.sum(-1)


ROWS = (
  Row("gradcam", explain.gradcam),
  Row("occlusion", lambda score, image: explain.occlusion(score, image, window=(1, 2))),
  Row("integrated_gradients", _integrated),
  Row("expected_gradients", _expected),
)
