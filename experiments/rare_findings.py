"""Findings of very unequal number, simulated or of your own, and frozen features of them.

Not a study: what the study of rare classes looks at.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medjax import check, data, losses, methods, nets, rng, study, train
from medjax.types import Array, Batch, Key, Params, Source, Step

CLASSES = 10
COUNTS = tuple(round(300 * 100 ** (-k / (CLASSES - 1))) for k in range(CLASSES))  # 300 down to 3
_SIDE = 16  # pixels
_READ = 96  # pixels that pictures are scaled to before a frozen network of ImageNet reads them


def source(counts: tuple[int, ...], seed: int, use: str) -> Source:
  """Five outlines, plain or striped, at any place and size, so many pictures of each class."""
  y, x = np.meshgrid(*[np.linspace(-1, 1, _SIDE)] * 2, indexing="ij")

  def drawer(k: int) -> Any:
    def draw(random: np.random.Generator) -> tuple[np.ndarray, int]:
      cy, cx = random.uniform(-0.25, 0.25, 2)
      size = random.uniform(0.5, 0.75)
      v, u = (y - cy) / size, (x - cx) / size
      radius, widest = np.hypot(u, v), np.maximum(abs(u), abs(v))
      outlines = (
        radius < 1,
        (radius < 1) & (radius > 0.55),
        widest < 0.85,
        (np.minimum(abs(u), abs(v)) < 0.3) & (widest < 1),
        (abs(v) < 0.4) & (abs(u) < 1.1),
      )
      fill = 1.0 if k % 2 else 0.6 + 0.6 * np.sin(9 * (u + v) + random.uniform(0, 6))
      image = fill * outlines[k // 2] + random.normal(0, 0.3, (_SIDE, _SIDE))
      return image.astype(np.float32)[..., None], k

    return draw

  names = [f"finding {k}" for k in range(CLASSES)]
  kind = "simulated findings"
  about: dict[str, Any] = {"class_names": names, "options": {"counts": list(counts)}}
  return data.concat(
    {
      name: data.Simulated(kind, number, seed, drawer(k), domain=f"{use} {k}", **about)
      for k, (name, number) in enumerate(zip(names, counts, strict=True))
    }
  )


def simulated(num_tests: int, seed: int) -> dict[str, Source]:
  """Training and test pictures, and public ones for the frozen network to learn on."""
  counts = {"train": COUNTS, "test": (num_tests,) * CLASSES, "public": (60,) * CLASSES}
  return {use: source(own, seed, use) for use, own in counts.items()}


def pictures(path: pathlib.Path, num_tests: int, seed: int) -> dict[str, Source]:
  """Ten classes of an npz file as those of MedMNIST, thinned to the same unequal numbers.

  Pictures that are there twice are left out. Class 0 is the commonest.

  Raises:
    InputError: other than ten classes, or too few pictures of one.
  """
  found: dict[str, Source] = {}
  for use, counts in {"train": COUNTS, "test": (num_tests,) * CLASSES}.items():
    whole = data.MedMNIST(path, split=use, drop_duplicates=True)
    check.require(
      len(whole.class_names) == CLASSES,
      f"{CLASSES} classes in {path}",
      f"{len(whole.class_names)}",
      "the groups head, medium and tail are made of ten",
    )
    label = np.array([int(np.asarray(whole[i].label)) for i in range(len(whole))])
    random, rows = np.random.default_rng([seed, len(use)]), []
    for k, count in enumerate(counts):
      own = np.flatnonzero(label == k)
      check.require(
        len(own) >= count, f"{count} {use} pictures of class {k}", f"{len(own)}", "ask for fewer"
      )
      rows += np.sort(random.permutation(own)[:count]).tolist()
    found[use] = data.subset(whole, rows)
  return found


class Frozen:
  """A network that learns how a picture is turned; its last features, before and after."""

  def __init__(self):
    module = nets.SmallCNN(4, (8, 16))
    self.model = nets.from_linen(module)
    self.features = nets.features(module, "GroupNorm_1")

  def step(self) -> Step:
    def loss_fn(params: Params, example: Batch, key: Key) -> Array:
      turns = jax.random.randint(key, (), 0, 4)
      turned = jnp.stack([jnp.rot90(example.image, k) for k in range(4)])[turns]
      return losses.cross_entropy(self.model.apply(params, turned)[0], turns)

    return methods.supervised(loss_fn, optax.adam(3e-3))

  def flat(self, params: Params, image: Array) -> Array:
    found = self.features(params, image).reshape(-1)
    return found / jnp.maximum(jnp.linalg.norm(found), 1e-6)


def frozen_features(
  public: Batch, images: np.ndarray, seed: int, num_steps: int, directory: train.RunDirectory
) -> tuple[dict[str, np.ndarray], list[study.Trained]]:
  """Features of the training pictures by a network before and after it learnt, and its training."""
  frozen, key = Frozen(), rng.stream(jax.random.key(seed), "frozen")
  params, _ = frozen.model.init(key, public.image[0])
  stream = data.batches(public, 32, seed, name="public")
  job = study.Job("frozen", frozen.step(), stream, params, key, num_steps)
  ready = study.train_job(job, directory, log_every=num_steps, progress=False)
  predict = study.ChunkedPredictor(frozen.flat, chunk=64)
  known = {"learnt": ready.params, "random": params}
  return {name: predict(own, images) for name, own in known.items()}, [ready]


def imagenet_features(
  images: np.ndarray, weights: pathlib.Path, seed: int
) -> dict[str, np.ndarray]:
  """Unit features of pictures in [0, 1] by EfficientNet-Lite0, as ImageNet left it and as drawn."""
  module = nets.EfficientNetLite0(num_outputs=0)
  drawn, _ = nets.from_linen(module).init(
    rng.stream(jax.random.key(seed), "frozen"), jnp.zeros((_READ, _READ, 3))
  )

  def random_features(params: Params, image: Array) -> Array:
    large = jax.image.resize(image, (_READ, _READ, image.shape[-1]), "linear")
    return nets.from_linen(module).apply(params, nets.imagenet_normalised(large))[0]

  found = {
    "learnt": nets.imagenet_features(images, weights, size=_READ),
    "random": study.ChunkedPredictor(random_features, chunk=16)(drawn, images),
  }
  return {
    name: own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-6)
    for name, own in found.items()
  }
