"""Pictures in which only a prompt tells what is asked for.

Not a study: what the small segmenter of `surgical_sam` learns from.
"""

import numpy as np

from experiments import prompt_free, prompted_sets


def of_many_kinds(side: int, seed: int) -> dict[str, np.ndarray]:
  """What the small segmenter learns from: tinted shapes, instruments of other operations, mosaics.

  A mosaic shows four of these pictures at half their size, and the object is that of one of them:
  only the prompt tells of which. Where a picture shows one object, a prompt need not be read.
  """
  random = np.random.default_rng(seed)
  shapes, scenes = (
    prompted_sets.drawn(256, side, seed, has_groups=False),
    prompt_free.drawn(200, side, seed),
  )
  own = prompt_free.objects(scenes.label)
  tinted = shapes.image * random.uniform(0.5, 1, (256, 1, 1, 3))
  image = np.concatenate([tinted, scenes.image[own["picture"]]]).astype(np.float32)
  mask = np.concatenate([shapes.mask, own["mask"]])
  half = lambda x: x.reshape(-1, side // 2, 2, side // 2, 2, x.shape[-1]).mean((2, 4))  # noqa: E731
  small, small_mask = half(image), half(mask[..., None].astype(np.float32)) > 0.5
  tiles = random.integers(0, len(image), (1536, 4))
  joined = lambda x: np.concatenate(  # noqa: E731
    [np.concatenate([x[:, 0], x[:, 1]], 2), np.concatenate([x[:, 2], x[:, 3]], 2)], 1
  )
  is_asked = np.arange(4) == random.integers(0, 4, (len(tiles), 1))
  chosen = joined(small_mask[tiles] & is_asked[..., None, None, None])[..., 0]
  every, masks = np.concatenate([image, joined(small[tiles])]), np.concatenate([mask, chosen])
  seen = masks.any((1, 2))  # a thin tip may be gone at half the size
  return {"image": every[seen], "mask": masks[seen], "box": prompted_sets.boxes(masks[seen])}
