"""Pictures in which only a prompt tells what is asked for.

Not a study: what the small segmenters of `surgical_sam`, `click_sam` and `sam_path` learn from.
"""

import numpy as np

from experiments import prompt_free, prompted_sets
from experiments.click_sets import smooth
from medjax.data.seeds import generator


def by_clicks(count: int, side: int, seed: int) -> dict[str, np.ndarray]:
  """Grey pictures, half of them quilts and half of `of_many_kinds`, with masks; no boxes.

  A quilt has two to four regions of different grey and grain, and one of them, or two together,
  are asked for: clicks tell which, and where they end the picture tells.
  """
  images, masks = [], []
  for index in range(count // 2):
    random = generator(seed, "quilts by clicks", index)

    def noise(sigma: float, r: np.random.Generator = random) -> np.ndarray:
      field = smooth(r.normal(size=(side, side)), sigma)
      return (field - field.mean()) / field.std()

    num = int(random.integers(2, 5))
    coarse = random.uniform(0.08, 0.2) * side
    region = np.stack([noise(coarse) for _ in range(num)]).argmax(0)
    drawn = [random.uniform(-2, 2) + random.uniform(0.3, 1) * noise(random.uniform(0.5, 2.5))
             for _ in range(num)]  # fmt: skip
    picture = np.take_along_axis(np.stack(drawn), region[None], 0)[0] + 0.4 * noise(side / 8)
    asked = random.permutation(num)[: 1 + (num > 2) * random.integers(2)]
    images.append((picture - picture.min()) / (picture.max() - picture.min()))
    masks.append(np.isin(region, asked))
  other = of_many_kinds(side, seed)
  rows = np.random.default_rng(seed).permutation(len(other["mask"]))[: count - len(images)]
  grey = other["image"][rows].mean(-1)
  found = {"image": np.concatenate([np.stack(images), grey]).astype(np.float32)[..., None],
           "mask": np.concatenate([np.stack(masks), other["mask"][rows]])}  # fmt: skip
  seen = found["mask"].sum((1, 2)) >= 12  # pixels: a region may lose its place to the others
  return {name: values[seen] for name, values in found.items()}


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
