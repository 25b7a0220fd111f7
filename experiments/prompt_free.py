"""Objects with a class in pictures, asked by prompts or drawn without any, and how they suffer.

Not a study: data, networks and losses of `surgical_sam`; `spoiled_answers` scores them.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prompted_sets
from experiments.grouped_prompts import jittered, mask_loss
from medjax import adapt, check, data, losses, nets, rng, tree
from medjax.nets.prompt_encoder import BOTTOM_RIGHT, FOREGROUND, IGNORED, NOT_A_POINT, TOP_LEFT
from medjax.types import Array, Key, Params, PyTree

DICE_SHARE = 0.8  # of the loss of class masks, lambda in the paper
_LABELS = {"box": (TOP_LEFT, BOTTOM_RIGHT), "point": (FOREGROUND, NOT_A_POINT),
           "none": (IGNORED, IGNORED)}  # fmt: skip
PROMPTS = tuple(_LABELS)


class Scenes(NamedTuple):
  """Pictures with objects of classes.

  Attributes:
    image: [n, side, side, 3] float32 in [0, 1].
    label: [n, side, side] int32, 0 outside of every object.
    classes: names of the classes 1, 2, ...
    subjects: person or operation of each picture.
    manifest: what the run directory records.
    title: of the page.
  """

  image: np.ndarray
  label: np.ndarray
  classes: tuple[str, ...]
  subjects: tuple[str, ...]
  manifest: Any
  title: str


def drawn(count: int, side: int, seed: int) -> Scenes:
  """Simulated instruments over tissue."""
  source = data.instrument_scenes(count, side, seed)
  examples = [source[i] for i in range(count)]
  image = np.stack([np.asarray(example.image) for example in examples])
  label = np.stack([np.asarray(example.label) for example in examples])
  return Scenes(image, label, source.class_names[1:], source.subjects, source.manifest(),
                "simulated instruments")  # fmt: skip


def folder(path: pathlib.Path, side: int, *, condition: str, person: str, most: int) -> Scenes:
  """Pictures of an nnU-Net folder: one class, or those of a column of class.csv."""
  if condition:
    own = prompted_sets.folders([path], side, condition=condition, person=person, most=most)
  else:
    own = prompted_sets.lesions(path, side)
    rows = np.flatnonzero(own.mask.any((1, 2)))
    # The first pictures of a folder may be of one kind: those that are taken lie far apart.
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]
    image = own.image[rows]
    own = own._replace(
      image=np.repeat(image, 3, -1) if image.shape[-1] == 1 else image,
      mask=own.mask[rows], group=own.group[rows],
      subjects=tuple(own.subjects[i] for i in rows), groups=("object",),
    )  # fmt: skip
  label = own.mask * (1 + own.group[:, None, None])
  return Scenes(
    own.image, label.astype(np.int32), own.groups, own.subjects, own.manifest, own.title
  )


def check_alike(sets: Scenes, people: Any, near_duplicates: float, picture: pathlib.Path) -> None:
  """Refuses pictures of two people on two sides that look like one."""
  group = np.zeros(len(sets.label), np.int32)
  own = prompted_sets.Pictures(
    sets.image, sets.label > 0, group, ("",), sets.subjects, sets.manifest, sets.title
  )
  prompted_sets.check_alike(own, people, near_duplicates, picture)


@functools.cache
def lite_weights(path: str) -> Params:
  """LiteMedSAM's parameters, read once; asked for first, so that a bad file leaves no run."""
  check.existing_file(path, "pass --weights with the file of LiteMedSAM")
  return nets.import_torch(path, nets.lite_medsam())[0]


@functools.cache
def imagenet_weights(path: str) -> Params:
  """EfficientNet-Lite0's parameters without its classes, read once and first as the others."""
  check.existing_file(path, "pass --weights with the file of EfficientNet-Lite0")
  return nets.import_torch(path, nets.EfficientNetLite0(num_outputs=0))[0]


# --- prompts


def objects(label: np.ndarray) -> dict[str, np.ndarray]:
  """Every class of every picture as one object: its picture, mask, box and point.

  The point is the pixel of the object next to its centre of mass (DEVIATION: the paper clicks on
  the centre of the contour, which of a bent instrument may lie beside it).
  """
  pairs = [(i, c) for i, own in enumerate(label) for c in np.unique(own[own > 0])]
  masks = np.stack([label[i] == c for i, c in pairs])
  points = []
  for mask in masks:
    rows, columns = np.nonzero(mask)
    apart = (rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2
    nearest = int(apart.argmin())
    points.append((columns[nearest], rows[nearest]))
  return {
    "picture": np.array([i for i, _ in pairs], np.int32),
    "class": np.array([c for _, c in pairs], np.int32),
    "mask": masks,
    "box": prompted_sets.boxes(masks),
    "point": np.array(points, np.float32),
  }


def asked(kind: str, box: Array, point: Array) -> nets.Prompts:
  """A prompt of two tokens of any kind, so that one program answers them all."""
  held = {"box": box.reshape(2, 2), "point": jnp.stack([point, jnp.zeros(2)])}
  return nets.Prompts(held.get(kind, jnp.zeros((2, 2))), jnp.array(_LABELS[kind], jnp.int32))


def widened(box: np.ndarray, share: float, side: int) -> np.ndarray:
  """Boxes [n, 4] with each side moved outwards by a share of the picture's side, inside of it."""
  return np.clip(box + share * side * np.array([-1, -1, 1, 1]), 0, side - 1).astype(np.float32)


def filled(box: np.ndarray, side: int) -> np.ndarray:
  """Boxes [n, 4] as masks: what is known of an object without a look at the picture."""
  y, x = np.mgrid[:side, :side]
  left, top, right, bottom = box.T[:, :, None, None]
  return (x >= left) & (x <= right) & (y >= top) & (y <= bottom)


# --- networks and losses


class Problem:
  """A frozen promptable network, its low-rank updates and its decoders."""

  def __init__(
    self, module: nets.PromptableSegmenter, num_classes: int, side: int,
    shares: tuple[float, ...] = (1, 1, 1),
  ):  # fmt: skip
    """`shares`: how often each of `PROMPTS` is drawn in training, in proportion."""
    self.side, self.num_classes, self.shares = side, num_classes, shares
    self.net = nets.promptable(module)
    decoder: Any = module.decoder
    # Masks 1, 2, ... are the classes and mask 0 is what lies outside of all.
    self.classed = nets.promptable(module.clone(decoder=decoder.clone(num_masks=1 + num_classes)))

  def fresh(self, params: Params, key: Key) -> Params:
    """Parameters with a decoder of class masks; what the given one has in that shape is taken."""
    image = jnp.zeros((self.side, self.side, 3))
    start = self.classed.init(rng.stream(key, "class masks"), image)
    known = tree.named_leaves(params)
    take = lambda name, x: known[name] if name in known and known[name].shape == x.shape else x  # noqa: E731
    return tree.map_named(take, start)

  def take(self, params: Params, key: Key, rank: int) -> tuple[adapt.SmallPart, PyTree]:
    """What trains: the decoder, the vector of no prompt, and with a rank q and v of the encoder."""
    trains = adapt.under("decoder/*", "prompts/no_mask")
    if not rank:
      return adapt.take(params, trains=trains)
    low = adapt.under("encoder/*attention/query/kernel", "encoder/*attention/value/kernel")
    return adapt.take(params, trains=trains, low_rank_of=low, rank=rank, key=key)

  def taught_loss(self, params: Params, example: PyTree, key: Key) -> Array:
    """Mask loss of one object by a prompt of a kind that is drawn: box, point or none."""
    of_kind, of_box, of_point = rng.streams(key, "kind", "box", "point")
    box = jittered(example["box"], of_box, self.side)
    inside = example["mask"].ravel().astype(jnp.float32)
    place = jax.random.categorical(of_point, jnp.log(inside + 1e-9))
    point = jnp.stack([place % self.side, place // self.side]).astype(jnp.float32)
    every = [asked(kind, box, point) for kind in PROMPTS]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *every)
    drawn = jax.random.categorical(of_kind, jnp.log(jnp.array(self.shares)))
    prompt = jax.tree.map(lambda x: x[drawn], stacked)
    logits = self.net.decode(params, self._seen(self.net, params, example), prompt).logits
    return mask_loss(logits[..., 0], example["mask"])

  def boxed_loss(self, params: Params, example: PyTree, key: Key) -> Array:
    """Mask loss of one object by its box, through the encoder."""
    box = jittered(example["box"], key, self.side)
    logits = self.net.apply(params, example["image"], nets.box_prompt(box)).logits
    return mask_loss(logits[..., 0], example["mask"])

  def class_loss(self, params: Params, example: PyTree, key: Key) -> Array:
    """lambda Dice + (1 - lambda) cross-entropy of the class masks, without a prompt."""
    del key
    logits = self._classes(params, self._seen(self.classed, params, example))
    label = example["label"]
    overlap = losses.soft_dice(logits, label)
    return DICE_SHARE * overlap + (1 - DICE_SHARE) * losses.cross_entropy(logits, label)

  def _seen(self, net: nets.Promptable, params: Params, example: PyTree) -> Array:
    """A kept embedding where there is one."""
    return example["embedding"] if "embedding" in example else net.embed(params, example["image"])

  def _classes(self, params: Params, embedding: Array) -> Array:
    logits = self.classed.decode(params, embedding, nets.no_prompt()).logits
    return jax.image.resize(logits, (self.side, self.side, 1 + self.num_classes), "linear")

  @functools.cached_property
  def embed(self) -> Callable[..., np.ndarray]:
    """(params, pictures) -> embeddings, of the adapted network too."""
    return self._over(self.net.embed)

  @functools.cached_property
  def classes(self) -> Callable[..., np.ndarray]:
    """(params, embeddings) -> class ids [n, side, side]."""
    return self._over(lambda params, seen: self._classes(params, seen).argmax(-1))

  @functools.cached_property
  def masks(self) -> Callable[..., np.ndarray]:
    """(params, (embeddings, prompts)) -> [n, side, side] inside or not."""

    def inside(params: Params, row: Any) -> Array:
      logits = self.net.decode(params, *row).logits[..., 0]
      return jax.image.resize(logits, (self.side, self.side), "linear") > 0

    return self._over(inside)

  def _over(self, one: Callable[[Params, Any], Array]) -> Callable[..., np.ndarray]:
    """`one` over the first axis of its rows: at once, or row by row where a row takes 100 MB."""
    if self.side <= 64:
      many = jax.jit(lambda params, rows: jax.vmap(lambda row: one(params, row))(rows))
      return lambda params, rows: np.asarray(many(params, rows))
    single = jax.jit(one)
    row = lambda rows, i: jax.tree.map(lambda x: jnp.asarray(x[i]), rows)  # noqa: E731
    return lambda params, rows: np.stack(
      [np.asarray(single(params, row(rows, i))) for i in range(len(jax.tree.leaves(rows)[0]))]
    )


def adamw(rate: float, steps: int) -> optax.GradientTransformation:
  """The paper's optimiser: a warm-up, then exponential decay to a tenth, weights decay by .1."""
  warm = max(1, steps // 10)
  schedule = optax.warmup_exponential_decay_schedule(
    0.0, rate, warm, max(1, steps - warm), 0.1
  )  # fmt: skip
  return optax.adamw(schedule, weight_decay=0.1)
