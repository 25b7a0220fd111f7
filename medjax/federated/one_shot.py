"""One round of pictures: every client sends a few distilled pictures once, as bytes.

Tian et al., "Communication-efficient federated skin lesion classification with generalizable
dataset distillation" (GDD-FL, 2023): the server trains on the union of what it was sent. The
paper's 2.88 MB are 20 pictures of 224 x 224 x 3 bytes, so that pictures travel as whole numbers
0 .. 255 of a range that all clients know.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medjax import check
from medjax.federated import traffic
from medjax.types import Batch


class PublishedSet(NamedTuple):
  """What a client sends.

  Attributes:
    image: [pictures, *space, channel] uint8.
    label: [pictures] uint8 class ids.
    bounds: (low, high) of pixels; 0 stands for low and 255 for high. Known to all, not sent.
  """

  image: np.ndarray
  label: np.ndarray
  bounds: tuple[float, float]

  @property
  def num_bytes(self) -> int:
    """Bytes of pictures and labels."""
    return traffic.num_bytes((self.image, self.label))

  @property
  def pixels(self) -> np.ndarray:
    """The pictures as the server reads them, float32; off by (high - low) / 510 at most."""
    low, high = self.bounds
    return (low + (high - low) / 255 * self.image.astype(np.float64)).astype(np.float32)


def published(
  images: np.ndarray, labels: np.ndarray, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> PublishedSet:
  """Pictures as a client sends them, cut to the bounds and rounded.

  Args:
    images: [pictures, *space, channel].
    labels: [pictures] class ids below 256.
    bounds: (low, high) of pixels, public.
  Raises:
    InputError: pictures that are not finite, other numbers of labels than pictures, or labels that
      no byte holds.

  >>> sent = published(np.array([[[[0.5]]], [[[7.0]]]]), np.array([0, 1]))
  >>> sent.image.ravel().tolist(), sent.num_bytes
  ([128, 255], 4)
  """
  images, labels = np.asarray(images), np.asarray(labels)
  low, high = check.ordered("bounds", bounds)
  check.same_shape("labels", labels.shape, "pictures", images.shape[:1])
  check.require(
    bool(np.isfinite(images).all()),
    "finite pictures",
    f"{int((~np.isfinite(images)).sum())} pixels that are not",
    "the distillation diverged: lower its learning rate",
  )
  check.require(
    len(labels) > 0 and labels.min() >= 0 and labels.max() < 256,
    "labels from 0 to 255, one at least",
    f"{sorted(set(labels.tolist()))[:5]}",
    "number the classes from 0",
  )
  share = np.clip((images.astype(np.float64) - low) / (high - low), 0, 1)
  # 0.5 goes up, so that the result hangs on no rule for even numbers.
  whole = np.floor(share * 255 + 0.5).astype(np.uint8)
  return PublishedSet(whole, labels.astype(np.uint8), (float(low), float(high)))


def received(sets: Sequence[PublishedSet]) -> Batch:
  """The server's training set: the union of what the clients sent, `domain` is the client.

  Raises:
    InputError: no sets, pictures of other sizes, or other bounds.
  """
  check.require(len(sets) > 0, "at least one client", "none", "pass what each client sent")
  for client, one in enumerate(sets):
    first = sets[0]
    check.require(
      one.image.shape[1:] == first.image.shape[1:],
      f"pictures of {first.image.shape[1:]}, as client 0 sent them",
      f"{one.image.shape[1:]} of client {client}",
      "let all clients distil pictures of one size",
    )
    check.require(
      one.bounds == first.bounds,
      f"bounds {first.bounds}, as those of client 0",
      f"{one.bounds} of client {client}",
      "agree on the range of pixels beforehand",
    )
  owner = np.concatenate([np.full(len(one.label), c) for c, one in enumerate(sets)])
  count = np.arange(len(owner), dtype=np.int32)
  return Batch(
    image=np.concatenate([one.pixels for one in sets]),
    label=np.concatenate([one.label for one in sets]).astype(np.int32),
    domain=owner.astype(np.int32),
    subject=count,
    index=count,
    weight=np.ones(len(owner), np.float32),
  )
