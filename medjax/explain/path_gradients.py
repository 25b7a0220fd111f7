"""Integrated and expected gradients: what each number of an image adds to a score.

  IG_i(x, b) = (x_i - b_i) integral_0^1 df/dx_i (b + t (x - b)) dt              (integrated, Eq. 1)
  EG_i(x)    = mean over references b of a background of IG_i(x, b)               (expected, Eq. 4)

Sundararajan et al., "Axiomatic Attribution for Deep Networks" (2017); Erion et al., "Improving
performance of deep learning models with axiomatic attribution priors and expected gradients"
(2021). The chain rule along the path makes them complete: their sum over i is f(x) - f(b), or
f(x) - mean f(b).

The integral is taken at the nodes of Gauss and Legendre, which is exact if the score is a
polynomial of a degree up to 2 num_steps along the path; rectifiers bend it, so that the sum is off
by a `gap`, which is told. DEVIATION: the papers take equal steps and draws of (b, t).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.types import Array


class Attribution(NamedTuple):
  """What each number of an image adds.

  Attributes:
    values: shape of the image, in units of the score.
    gap: sum of the values less what they should sum to; 0 if the integral is exact. A gap that is
      large beside the score asks for more steps.
  """

  values: Array
  gap: Array


def integrated_gradients(
  score_fn: Callable[[Array], Array], image: Array, baseline: Array, *, num_steps: int = 16
) -> Attribution:
  """Attributions of ONE image against one reference; `jax.vmap` gives those of a batch.

  >>> found = integrated_gradients(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]), jnp.zeros(2))
  >>> [round(float(v), 4) for v in found.values], abs(float(found.gap)) < 1e-5  # half each
  ([3.0, 3.0], True)

  Args:
    score_fn: `score_fn(image) -> scalar`, differentiable.
    image: any shape.
    baseline: same shape: the image that stands for "nothing".
    num_steps: gradients that are taken along the path; memory is that of so many images.
  Raises:
    InputError: another shape of the baseline, or num_steps below 1.
  """
  check.same_shape("baseline", baseline.shape, "image", image.shape)
  check.positive("num_steps", num_steps)
  nodes, weights = np.polynomial.legendre.leggauss(num_steps)  # on [-1, 1]; moved to [0, 1]
  times, parts = (jnp.asarray(x / 2, image.dtype) for x in (nodes + 1, weights))
  slopes = jax.vmap(lambda t: jax.grad(score_fn)(baseline + t * (image - baseline)))(times)
  values = (image - baseline) * jnp.tensordot(parts, slopes, 1, precision="highest")
  return Attribution(values, values.sum() - (score_fn(image) - score_fn(baseline)))


def expected_gradients(
  score_fn: Callable[[Array], Array], image: Array, background: Array, *, num_steps: int = 8
) -> Attribution:
  """Attributions of ONE image against a background of images, all of which are used.

  They estimate SHAP values (Lundberg and Lee 2017) under features that are independent, and are
  these exactly where the score is a sum of functions of one number each.

  >>> background = jnp.array([[0.0, 0.0], [2.0, 0.0]])
  >>> found = expected_gradients(lambda x: 3 * x[0] + x[1], jnp.array([2.0, 5.0]), background)
  >>> [round(float(v), 4) for v in found.values]  # 3 (2 - 1) and 5
  [3.0, 5.0]

  Args:
    score_fn: `score_fn(image) -> scalar`, differentiable.
    image: any shape.
    background: [reference, *shape of the image]: images that stand for the population.
    num_steps: gradients for each reference; memory is that of num_steps x references images.
  Returns:
    The mean over the references of `integrated_gradients`; the values sum to f(x) - mean f(b).
  Raises:
    InputError: a background of another shape or without a reference, or num_steps below 1.
  """
  check.require(len(background) > 0, "a reference or more", "an empty background", "add images")
  found = jax.vmap(lambda b: integrated_gradients(score_fn, image, b, num_steps=num_steps))(
    background
  )
  return Attribution(found.values.mean(0), found.gap.mean())
