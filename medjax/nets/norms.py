"""Normalisation that a network offers in two kinds: of each example, or of the batch.

BatchNorm couples examples. It takes its batch along the vmapped axis named "batch" (as
`grads.batch_mean` and `supervised` name it) and keeps running statistics in `model_state`; outside
such a vmap it refuses to train, and so do all methods that need per-example gradients.
"""

import math
from typing import Literal

from flax import linen as nn
from jax.typing import DTypeLike

from medjax.axes import BATCH_AXIS, require_batch, require_batch_axis
from medjax.check import one_of

NormKind = Literal["batch", "group"]


def norm(
  kind: NormKind, width: int, *, train: bool, dtype: DTypeLike | None, name: str
) -> nn.BatchNorm | nn.GroupNorm:
  """A layer for [1, *space, width].

  Args:
    kind: "batch" (momentum .9, epsilon 1e-5, PyTorch's defaults; running variances are of the
      population) or "group" (8 groups, fewer where the width does not divide).
    width: channels.
    train: statistics of the batch instead of the running ones.
    dtype: computation type; statistics are float32 whatever it is.
    name: name of the layer.
  Raises:
    InputError: "batch" in training without a batch axis, or with a batch of one.
  """
  one_of("norm", kind, ("batch", "group"))
  if kind == "group":
    groups = math.gcd(8, width)
    return nn.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=dtype, name=name)
  if train:
    require_batch_axis(
      f"a vmapped axis {BATCH_AXIS!r} to take BatchNorm's statistics over",
      "one example alone",
      "train with `supervised`, or use norm='group', which couples no examples",
    )
    require_batch(BATCH_AXIS)
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    axis_name=BATCH_AXIS if train else None,
    dtype=dtype,
    name=name,
  )
