"""Numbered nuclei, simulated or of a folder, and a promptable segmenter that knows shapes alone.

Not a study: the data of `experiments.samaug`, and what it asks for masks.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from experiments.click_sets import smooth
from experiments.grouped_prompts import mask_loss
from medjax import check, data, methods, nets, rng, study
from medjax.data.formats import format_of
from medjax.data.seeds import generator
from medjax.types import Array, Key, Params, PyTree

INSIDE, EDGE = 1, 2
"""Classes that a network learns; 0 is outside of all nuclei."""
_REACH = 2.5  # pixels from the inside of a nucleus to its edge
_LEAST = 12  # pixels of an object that is kept


class Nuclei(NamedTuple):
  """Pictures with numbered nuclei.

  Attributes:
    image: [n, side, side, 3] float32 in [0, 1].
    number: [n, side, side] int32, 0 outside.
    subjects: person of each.
    manifest: what the run directory records.
    title: of the page.
  """

  image: np.ndarray
  number: np.ndarray
  subjects: tuple[str, ...]
  manifest: Any
  title: str


def drawn(count: int, side: int, seed: int) -> Nuclei:
  """Simulated stained tissue: faint nuclei that touch, among stripes and spots of their colour."""
  images, numbers = [], []
  for index in range(count):
    random = generator(seed, "stained nuclei", index)
    number = _ellipses(side, random, int(side * side / 340), 1.0)
    tissue = _scaled(smooth(random.normal(size=(side, side)), 4.0))
    grain = _scaled(smooth(random.normal(size=(side, side)), 0.8))
    stripes = np.maximum(_scaled(smooth(random.normal(size=(side, side)), 1.8)) - 1.0, 0)
    depth = random.uniform(0.16, 0.34, number.max() + 1)  # some nuclei are hardly darker
    depth[0] = 0
    dark = smooth(depth[number], 0.7) + 0.05 * tissue + 0.05 * grain + 0.14 * stripes
    ground = np.array([0.88, 0.66, 0.78]) + random.uniform(-0.06, 0.06, 3)
    absorbed = np.array([1.1, 1.0, 0.5])  # of red, green and blue by the stain
    noise = random.normal(0, 0.03, (side, side, 3))
    images.append(np.clip(ground - dark[..., None] * absorbed + noise, 0, 1))
    numbers.append(number)
  about = {"kind": "simulated stained nuclei", "count": count, "side": side, "seed": seed}
  names = tuple(f"picture {i}" for i in range(count))
  image = np.stack(images).astype(np.float32)
  return Nuclei(image, np.stack(numbers), names, about, "simulated nuclei")


def folder(path: pathlib.Path, side: int, subject: str) -> Nuclei:
  """The middle `side` x `side` pixels of each picture of an nnU-Net folder with instancesTr."""
  source = data.NnUNetFolder(path, subject_pattern=subject or None, normalise="eight_bit")
  numbered = check.existing_folder(path / "instancesTr", "pass pictures whose nuclei are numbered")
  images, numbers, people = [], [], []
  for index, name in enumerate(source.names):
    image = np.asarray(source[index].image, np.float32)
    check.require(
      min(image.shape[:2]) >= side and image.shape[-1] == 3,
      f"colour pictures of {side} pixels or more", f"{image.shape} of {name}", "lower --size",
    )  # fmt: skip
    file = check.existing_file(next(iter(numbered.glob(f"{name}.*")), numbered / f"{name}.png"))
    number = np.asarray(format_of(file).read_labels(file).array).reshape(image.shape[:2])
    top, left = ((n - side) // 2 for n in number.shape)
    window = slice(top, top + side), slice(left, left + side)
    if number[window].any():
      images.append(image[window])
      numbers.append(number[window].astype(np.int32))
      people.append(source.subjects[index])
  check.require(images, f"nuclei in {numbered}", "none", "pass a folder whose nuclei are numbered")
  about = {**source.manifest(), "window": side}
  return Nuclei(np.stack(images), np.stack(numbers), tuple(people), about, path.name)


def classes(number: np.ndarray) -> np.ndarray:
  """[row, column] int32 outside, inside and edge: a pixel beside one of another number."""
  beside = np.zeros(number.shape, bool)
  for axis in (0, 1):
    differs = np.diff(number, axis=axis) != 0
    pad = [(0, 0), (0, 0)]
    for side in ((1, 0), (0, 1)):
      pad[axis] = side
      beside |= np.pad(differs, pad)
  return np.where(number > 0, np.where(beside, EDGE, INSIDE), 0).astype(np.int32)


def objects(found: np.ndarray) -> np.ndarray:
  """Numbers [row, column] of the nuclei in a map of classes: each inside, with the edge around it.

  >>> objects(np.array([[2, 2, 2, 0, 2, 2, 2], [2, 1, 2, 0, 2, 1, 2], [2, 2, 2, 0, 2, 2, 2]]))[1]
  array([0, 0, 0, 0, 0, 0, 0], dtype=int32)

  Objects of fewer than 12 pixels, as these of 9, are left out.
  """
  parts, _ = ndimage.label(found == INSIDE)
  measured: Any = ndimage.distance_transform_edt(parts == 0, return_indices=True)
  apart, nearest = measured
  grown = np.where((apart <= _REACH) & (found > 0), parts[tuple(nearest)], 0)
  sizes = np.bincount(grown.ravel())
  return np.where(sizes[grown] >= _LEAST, grown, 0).astype(np.int32)


# --- what is asked for masks


def shapes(count: int, side: int, seed: int) -> dict[str, np.ndarray]:
  """Grey pictures of many shapes, a box in each, and what the box asks for.

  Half of the boxes lie around a shape, each side moved by up to a fifth of it; the others lie
  anywhere, as those of a grid do. A box asks for the shape whose own box it meets best, and for
  nothing where that Jaccard index is below .3.
  """
  found: dict[str, list[np.ndarray]] = {"image": [], "box": [], "mask": []}
  for index in range(count):
    random = generator(seed, "shapes", index)
    number = _ellipses(side, random, int(side * side / 400), random.uniform(0.8, 1.4))
    depth = random.uniform(0.3, 1.0, number.max() + 1) * random.choice([-1.0, 1.0])
    depth[0] = 0
    ground = 0.25 * _scaled(smooth(random.normal(size=(side, side)), random.uniform(2, 8)))
    image = ground + smooth(depth[number], 0.7) + random.normal(0, 0.12, (side, side))
    held = np.array([
      (x.start, y.start, x.stop - 1, y.stop - 1)
      for y, x in filter(None, ndimage.find_objects(number))
    ])  # fmt: skip
    names = np.unique(number[number > 0])
    if random.random() < 0.5:
      own = held[random.integers(len(held))]
      reach = np.tile(own[2:] - own[:2] + 1, 2)
      box = own + reach * random.uniform(-0.2, 0.2, 4)
    else:
      extent = random.uniform(0.12, 0.3) * side
      corner = random.uniform(0, side - extent, 2)
      box = np.concatenate([corner, corner + extent])
    box = np.clip(box, 0, side - 1)
    low, high = np.maximum(held[:, :2], box[:2]), np.minimum(held[:, 2:], box[2:])
    area = lambda x: np.prod(x[..., 2:] - x[..., :2] + 1, axis=-1)  # noqa: E731
    both = np.prod(np.maximum(high - low + 1, 0), axis=-1)
    shares = both / (area(held) + area(box) - both)
    best = int(shares.argmax())
    found["image"].append((image - image.min())[..., None] / (image.max() - image.min()))
    found["box"].append(box)
    found["mask"].append((number == names[best]) & (shares[best] >= 0.3))
  kinds = {"image": np.float32, "box": np.float32, "mask": bool}
  return {name: np.stack(own).astype(kinds[name]) for name, own in found.items()}


def segmenter(config: Any, directory: Any, seed: int) -> study.Trained:
  """The small promptable segmenter, which rates its own masks, trained on `shapes`."""
  net = nets.promptable(nets.mini_promptable(num_masks=1))
  store = shapes(1024, 64, seed + 1000)

  def loss(params: Params, example: PyTree, key: Key) -> Array:
    del key
    answer = net.apply(params, example["image"], nets.box_prompt(example["box"]))
    said = jax.image.resize(answer.logits[..., 0], example["mask"].shape, "linear") > 0
    both, either = (said & example["mask"]).sum(), (said | example["mask"]).sum()
    rated = jnp.square(answer.quality[0] - both / jnp.maximum(either, 1))
    return mask_loss(answer.logits[..., 0], example["mask"]) + rated

  key = jax.random.key(seed)
  start = net.init(rng.stream(key, "segmenter"), jnp.asarray(store["image"][0]))
  rate = optax.cosine_decay_schedule(1e-3, config.num_pretraining)
  step = methods.supervised(loss, optax.adam(rate))
  stream = data.batches(store, 8, key, name="shapes")
  job = study.Job(f"segmenter-{seed}", step, stream, start, key, config.num_pretraining)
  return study.train_job(job, directory, log_every=config.log_every)


def _ellipses(side: int, random: np.random.Generator, count: int, scale: float) -> np.ndarray:
  """[side, side] int32 of about `count` numbered lobed ellipses, which touch but never overlap."""
  y, x = np.mgrid[:side, :side].astype(np.float32)
  number = np.zeros((side, side), np.int32)
  for _ in range(4 * count):
    if number.max() >= count:
      break
    centre = random.uniform(0, side, 2)
    long = random.uniform(4.0, 7.0) * scale
    short = long * random.uniform(0.6, 1.0)
    turn, phase = random.uniform(0, 2 * np.pi, 2)
    down, right = y - centre[0], x - centre[1]
    u, v = right * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - right * np.sin(turn)
    edge = 1 + 0.12 * np.cos(3 * np.arctan2(v, u) + phase)
    inside = (u / long) ** 2 + (v / short) ** 2 < edge**2
    if inside.any() and not number[inside].any():
      number[inside] = number.max() + 1
  return number


def _scaled(values: np.ndarray) -> np.ndarray:
  return (values - values.mean()) / values.std()
