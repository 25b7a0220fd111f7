"""Pictures of four kinds of tissue, or of nuclei, and what two frozen encoders see in them.

Not a study: the data of `experiments.sam_path`. Simulated tissue is a quilt of textures: stripes
(stroma), dots (inflammation), clumps (tumour), flat and pale (necrosis), in a ground of fine noise.
"""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prompt_free
from experiments.click_sets import smooth
from medjax import check, data, losses, methods, nets, rng, study
from medjax.data.seeds import generator
from medjax.inference.prompted import Prompted
from medjax.types import Array, Key, Params, PyTree

CLASSES = ("others", "stroma", "inflammation", "tumour", "necrosis")


class Tissue(NamedTuple):
  """Pictures and their label maps.

  Attributes:
    image: [n, side, side, channel] in [0, 1].
    label: [n, side, side] class ids.
    names: of the classes, background first.
    subjects: person of each.
    manifest: what the run directory records.
  """

  image: np.ndarray
  label: np.ndarray
  names: tuple[str, ...]
  subjects: tuple[str, ...]
  manifest: Any


def texture(kind: int, side: int, random: np.random.Generator) -> np.ndarray:
  """[side, side] of about mean 0 and deviation 1, without an edge or a mean that tells the kind."""
  y, x = np.mgrid[:side, :side]
  if kind == 1:
    angle, phase = random.uniform(0, np.pi, 2)
    found = np.sin(1.3 * (x * np.cos(angle) + y * np.sin(angle)) + 2 * phase)
  elif kind == 2:
    found = smooth((random.random((side, side)) < 0.04).astype(float), 0.8)
  else:
    found = smooth(random.normal(size=(side, side)), {0: 0.3, 3: 1.8, 4: 6.0}[kind])
  return (found - found.mean()) / found.std() + 0.2 * random.normal(size=(side, side))


def quilts(count: int, side: int, seed: int) -> Tissue:
  """Simulated pictures; each shows two to four kinds, in regions of smooth borders."""
  images, labels = [], []
  for index in range(count):
    random = generator(seed, "quilts", index)
    kinds = [0, *(1 + random.permutation(4)[: random.integers(2, 5)])]
    fields = np.stack([smooth(random.normal(size=(side, side)), 6.0) for _ in kinds])
    label = np.array(kinds)[fields.argmax(0)]
    drawn = np.stack([texture(kind, side, random) for kind in range(len(CLASSES))])
    images.append(_stained(np.take_along_axis(drawn, label[None], 0)[0], random))
    labels.append(label)
  about = {"kind": "simulated tissue", "count": count, "side": side, "seed": seed}
  names = tuple(f"picture {i}" for i in range(count))
  image = np.stack(images)[..., None]
  return Tissue(image, np.stack(labels).astype(np.int32), CLASSES, names, about)


def folder(path: pathlib.Path, subject: str) -> Tissue:
  """Labelled square pictures of one size of an nnU-Net folder, of one or three channels."""
  source = data.NnUNetFolder(path, subject_pattern=subject or None, normalise="none")
  batch = data.stack(source)
  image = np.asarray(batch.image, np.float32)
  check.require(
    image.shape[1] == image.shape[2] and image.shape[-1] in (1, 3),
    f"square pictures of 1 or 3 channels in {path}",
    f"{image.shape[1:]}",
    "cut them: both encoders have to see the same places",
  )
  low, high = (f(image, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
  image = (image - low) / np.maximum(high - low, 1e-8)
  names, people = tuple(source.class_names), tuple(source.subjects)
  return Tissue(image, np.asarray(batch.label), names, people, source.manifest())


# --- encoders


def small_encoder() -> nets.ViT:
  """The encoder of `nets.mini_promptable`."""
  encoder = nets.mini_promptable().encoder
  assert isinstance(encoder, nets.ViT)
  return encoder


def trained_on_textures(config: Any, directory: Any, seed: int) -> study.Trained:
  """An encoder that knows textures: it tells which one fills each quarter of a picture.

  Whole pictures of one texture would not ask attention over the picture to keep places apart. Of
  quilts a logistic regression on the map of this one tells the kind of .49 of the patches, on that
  of the small segmenter .31; the most frequent kind has .29.
  """
  random = generator(seed, "textures", 0)
  kinds = random.integers(0, len(CLASSES), (400, 2, 2)).astype(np.int32)
  half = config.size // 2
  images = np.stack([
    _stained(np.block([[texture(int(k), half, random) for k in row] for row in own]), random)
    for own in kinds
  ])  # fmt: skip
  net = small_encoder()

  def loss(params: Params, example: PyTree, key: Key) -> Array:
    del key
    seen: Any = net.apply({"params": params["encoder"]}, example["image"])
    rows, columns, width = seen.shape
    quarters = seen.reshape(2, rows // 2, 2, columns // 2, width).mean((1, 3))
    return losses.cross_entropy(quarters @ params["head"], example["kind"])

  key = jax.random.key(seed)
  first: Any = jax.jit(net.init)(rng.stream(key, "tissue"), images[0][..., None])
  start = {"encoder": first["params"], "head": jnp.zeros((net.out_width, len(CLASSES)))}
  step = methods.supervised(loss, optax.adam(1e-3))
  stream = data.batches({"image": images[..., None], "kind": kinds}, 16, key, name="textures")
  job = study.Job(f"textures-{seed}", step, stream, start, key, config.num_pretraining)
  return study.train_job(job, directory, log_every=config.log_every)


def embedded(net: nets.ViT, params: Params, images: np.ndarray) -> np.ndarray:
  """[n, h, w, channel] of a small encoder."""
  call: Any = jax.jit(lambda params, image: net.apply({"params": params}, image))
  return np.stack([np.asarray(call(params, image)) for image in images])


def random_weights(grid: int, width: int, images: np.ndarray, seed: int) -> np.ndarray:
  """[n, grid, grid, width] of an encoder that nothing has trained, of equal width: a control."""
  patch = images.shape[1] // grid
  net = nets.ViT(patch=patch, width=96, depth=4, num_heads=4, grid=(grid, grid), out_width=width,
                 mlp_ratio=2)  # fmt: skip
  key = rng.stream(jax.random.key(seed), "random encoder")
  params: Any = jax.jit(net.init)(key, images[0])
  return embedded(net, params["params"], images)


def of_weights(
  images: np.ndarray, segmenter: str, tissue: str, folder: pathlib.Path
) -> tuple[nets.PromptableSegmenter, Params, dict[str, np.ndarray]]:
  """LiteMedSAM and EfficientNet-Lite0 on pictures of 256 x 256: the module, its weights, and maps.

  The map of Lite0 is a sixteenth of the picture; each of its pixels stands beside sixteen.
  """
  module = nets.lite_medsam()
  params = prompt_free.lite_weights(segmenter)
  net = nets.promptable(module)
  prompted = Prompted(net.embed, net.decode, params, size=256, channels=3, cache=folder)
  maps = [np.asarray(prompted.embedded(image).embedding) for image in images]
  other = nets.imagenet_features(images, tissue, layer="block10", folder=folder)
  times = maps[0].shape[0] // other.shape[1]
  large = np.repeat(np.repeat(other, times, 1), times, 2)
  return module, params, {"segmenter": np.stack(maps), "tissue": large}


def _stained(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
  return np.clip(0.5 + random.uniform(0.1, 0.18) * picture, 0, 1).astype(np.float32)
