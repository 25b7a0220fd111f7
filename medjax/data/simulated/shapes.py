"""Label maps of random shapes: anatomies that nobody has, of which there are as many as one wants.

As the shapes of SynthMorph (Hoffmann et al., IEEE TMI 2022): each class has a smooth random image,
and a voxel belongs to the class whose image is largest there.
"""

from collections.abc import Sequence

import numpy as np

from medjax import check
from medjax.data.seeds import Seed, generator


def random_shapes(
  number: int, shape: Sequence[int], num_classes: int, seed: Seed, *, scale: float = 0.12
) -> np.ndarray:
  """Maps [number, *space] int32 of 2 to `num_classes` classes each; class ids mean nothing.

  >>> random_shapes(2, (8, 8), 4, seed=0).shape
  (2, 8, 8)

  Args:
    number: maps.
    shape: voxels an axis, 2D or 3D.
    num_classes: the most that a map has, 2 or more, class 0 included.
    seed: any int; map i is a function of (seed, i).
    scale: of the smoothing, as a share of the extent; a map draws half to twice of it.
  """
  from scipy import ndimage

  check.positive("number", number)
  check.positive("scale", scale)
  check.require(num_classes >= 2, "num_classes >= 2", f"{num_classes}", "count the background")
  maps = np.zeros((number, *shape), np.int32)
  for index in range(number):
    random = generator(seed, "random shapes", index)
    classes = int(random.integers(2, num_classes + 1))
    width = scale * 2 ** random.uniform(-1, 1) * np.array(shape)
    images = [
      ndimage.gaussian_filter(random.standard_normal(shape), width, mode="nearest")
      for _ in range(classes)
    ]
    # Smoothing leaves little of the noise; each image is brought to one spread again.
    maps[index] = np.argmax([image / image.std() for image in images], axis=0)
  return maps
