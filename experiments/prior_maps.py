"""Prior maps of SAMAug: masks of a picture and how stable they are, from four generators.

Not a study: what `experiments.samaug` gives its networks beside the picture. A generator takes a
picture [row, column, 3] in [0, 1], and no label, and gives masks with a stability each. A map of
all masks, summed by stability, and one of their boundaries are the two priors.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments import nuclei, prior_sets, prompt_free
from experiments.prior_sets import Nuclei
from medjax import inference, nets, study
from medjax.inference.prompted import PixelPrompt, Prompted, distinct
from medjax.nets.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT
from medjax.types import Array

RULES = ("plain", "augmented", "sum", "entropy")
_OFFSET = 1.0  # of logits on either side of 0, as in SAM's own stability score
_OVERLAP = 0.5  # Jaccard index from which the less sure of two masks goes, as in the paper's code
_LEAST, _MOST = 12, 0.25  # pixels of a mask, and share of the picture


class Masks(NamedTuple):
  """Masks of a picture.

  Attributes:
    mask: [n, row, column] bool.
    stability: [n] in [0, 1]: Jaccard index of a mask and itself under a stricter or laxer setting.
  """

  mask: np.ndarray
  stability: np.ndarray


# --- from masks to maps


def boundary(mask: np.ndarray) -> np.ndarray:
  """Pixels on both sides of a mask's border, as "thick" boundaries of scikit-image are."""
  return ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, border_value=1)


def maps(found: Masks) -> np.ndarray:
  """[row, column, 2]: sum of stability over the masks that hold a pixel, and whether it is border.

  The paper says that a mask's value is drawn into the map, its code adds: so masks within masks
  reach values above 1.

  >>> inner, outer = np.zeros((2, 1, 5), bool)
  >>> outer[0, 1:5], inner[0, 2:4] = True, True
  >>> maps(Masks(np.stack([outer, inner]), np.array([0.5, 0.75])))[0, :, 0].tolist()
  [0.0, 0.5, 1.25, 1.25, 0.5]
  """
  shape = found.mask.shape[1:]
  inside, border = np.zeros(shape), np.zeros(shape, bool)
  for mask, stability in zip(found.mask, found.stability, strict=True):
    inside += stability * mask
    border |= boundary(mask)
  return np.stack([inside, border], -1).astype(np.float32)


def kept(masks: np.ndarray, stability: np.ndarray, rating: np.ndarray, least: float) -> Masks:
  """Masks of a sensible size whose rating reaches `least`, none of them twice."""
  area = masks.sum((1, 2))
  fits = np.flatnonzero((area >= _LEAST) & (area <= _MOST * masks[0].size) & (stability > 0))
  chosen = distinct(masks[fits], rating[fits], least_quality=least, overlap=_OVERLAP)
  return Masks(masks[fits[chosen]], stability[fits[chosen]])


# --- generators


def of_boxes(reader: Prompted, picture: np.ndarray, boxes: np.ndarray) -> Masks:
  """Answers of a promptable segmenter to boxes [n, 4]; its own estimate chooses among them.

  The stability is SAM's: pixels with a logit above 1 over those with one above -1.
  """
  corners = np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32)
  asked = [PixelPrompt(box.reshape(2, 2), corners) for box in boxes]
  logits, quality = reader.masks(reader.embedded(picture), asked)
  strict, lax = ((logits > offset).sum((1, 2)) for offset in (_OFFSET, -_OFFSET))
  return kept(logits > 0, strict / np.maximum(lax, 1), quality, 0.5)


def grid(side: int, num: int, share: float) -> np.ndarray:
  """[num^2, 4] boxes (left, top, right, bottom) of `share` of the side, evenly over a picture.

  >>> grid(10, 2, 0.5).tolist()
  [[0.0, 0.0, 4.0, 4.0], [5.0, 0.0, 9.0, 4.0], [0.0, 5.0, 4.0, 9.0], [5.0, 5.0, 9.0, 9.0]]
  """
  first = np.linspace(0, side * (1 - share), num)
  top, left = (x.ravel() for x in np.meshgrid(first, first, indexing="ij"))
  reach = side * share - 1
  return np.stack([left, top, left + reach, top + reach], -1).astype(np.float32)


def of_thresholds(picture: np.ndarray, num: int = 9, delta: float = 0.04) -> Masks:
  """Connected parts of what is darker, or brighter, than each of `num` thresholds.

  The stability is SAM's definition on intensities in [0, 1] in place of logits: of a part, what
  stays where the threshold is stricter by `delta`, over the part of the laxer one that holds it.
  """
  grey = ndimage.gaussian_filter(picture.mean(-1), 1.0)
  grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-8)
  masks, stability = [np.zeros(grey.shape, bool)], [0.0]
  for values in (grey, 1 - grey):
    for threshold in np.linspace(0, 1, num + 2)[1:-1]:
      parts, count = ndimage.label(values > threshold)
      around, _ = ndimage.label(values > threshold - delta)
      sizes, larger = np.bincount(parts.ravel()), np.bincount(around.ravel())
      strict = np.bincount(parts[values > threshold + delta], minlength=count + 1)
      for part in 1 + np.flatnonzero(sizes[1:] >= _LEAST):
        mask = parts == part
        masks.append(mask)
        stability.append(strict[part] / larger[around[mask][0]])
  rating = np.array(stability)
  return kept(np.stack(masks), rating, rating, 0.5)


def of_superpixels(picture: np.ndarray, num: int) -> Masks:
  """About `num` superpixels; the stability is how well one is met where shape counts for more."""
  own, other = (nuclei.superpixels(picture, num, compactness) for compactness in (10.0, 20.0))
  table = np.zeros((own.max() + 1, other.max() + 1))
  np.add.at(table, (own, other), 1)
  union = table.sum(1)[:, None] + table.sum(0)[None] - table
  stability = (table / np.maximum(union, 1)).max(1)[1:]
  return Masks(np.arange(1, len(table))[:, None, None] == own, stability)


def edges(picture: np.ndarray, share: float) -> np.ndarray:
  """[row, column, 2] without masks: slope of the grey picture, and where it is steepest.

  The control of equal cost: two channels as the others, with as many pixels marked as border.

  Args:
    picture: see above.
    share: of the pixels that are marked.
  """
  slope = ndimage.gaussian_gradient_magnitude(picture.mean(-1), 1.0)
  steepest = np.zeros(slope.size, bool)
  order = np.argsort(-slope.ravel(), kind="stable")
  steepest[order[: round(share * slope.size)]] = True
  scaled = slope / max(float(slope.max()), 1e-8)
  return np.stack([scaled, steepest.reshape(slope.shape)], -1).astype(np.float32)


def of_others(prior: np.ndarray, random: np.random.Generator) -> np.ndarray:
  """Every picture with the priors of another one: the control "shuffled"."""
  order = random.permutation(len(prior))
  found = np.empty_like(prior)
  found[order] = prior[np.roll(order, 1)]  # one circle through all pictures: none keeps its own
  return found


# --- all of them


def every(
  config: Any, own: Nuclei, directory: Any, seed: int, trained: dict[str, list[study.Trained]]
) -> dict[str, np.ndarray]:
  """Generator -> [n, side, side, 2] of all pictures; no label is looked at."""
  if config.weights:
    module, name, size, channels = nets.lite_medsam(), "priors", 256, 3
    params = prompt_free.lite_weights(config.weights)
  else:
    module, name, size, channels = nets.mini_promptable(num_masks=1), f"priors-{seed}", 64, 1
    one = prior_sets.segmenter(config, directory, seed)
    trained.setdefault("segmenter", []).append(one)
    params = one.params
  net = nets.promptable(module)
  cache = pathlib.Path(directory.path) / "embeddings" if config.weights else None
  reader = Prompted(net.embed, net.decode, params, size=size, channels=channels, cache=cache)
  boxes = grid(own.image.shape[1], config.num_boxes, config.box_fraction)

  def make() -> study.Scored:
    answers = [maps(of_boxes(reader, x, boxes)) for x in own.image]
    return study.Scored([], more={"boxes": np.stack(answers)})

  found = {"boxes": study.kept(directory, name, params, make).more["boxes"]}
  parts = [maps(of_thresholds(x)) for x in own.image]
  pixels = [maps(of_superpixels(x, config.num_superpixels)) for x in own.image]
  share = float(found["boxes"][..., 1].mean())
  return found | {
    "thresholds": np.stack(parts),
    "superpixels": np.stack(pixels),
    "edges": np.stack([edges(x, share) for x in own.image]),
    "shuffled": of_others(found["boxes"], np.random.default_rng(seed)),
  }


def quality(
  held: Sequence[dict[str, np.ndarray]], number: np.ndarray, test: np.ndarray
) -> dict[str, dict[str, float]]:
  """Kind of prior -> Dice of what its masks hold with the nuclei, and share of border pixels."""
  truth = number[test] > 0
  found: dict[str, dict[str, float]] = {}
  for kind in held[0]:
    inside = np.stack([prior[kind][test][..., 0] > 0.5 for prior in held])
    dice = 2 * (inside & truth).sum((2, 3)) / (inside.sum((2, 3)) + truth.sum((1, 2)))
    marked = np.mean([prior[kind][test][..., 1].mean() for prior in held])
    found[kind] = {"dice": float(dice.mean()), "marked": float(marked)}
  return found


# --- inputs and answers


def joined(image: np.ndarray, prior: np.ndarray, join: str) -> np.ndarray:
  """x^aug: priors added to green and blue, as the paper has it, or as two channels more.

  Args:
    image: [n, row, column, 3].
    prior: [n, row, column, 2]; zeros give x in the same form.
    join: "added", which leaves [0, 1] and is not normalised again, or "stacked".
  """
  if join == "stacked":
    return np.concatenate([image, prior], -1)
  return image + np.pad(prior, [(0, 0)] * 3 + [(1, 0)])


def answered(rule: str, plain: Array, augmented: Array) -> Array:
  """[row, column] classes by a rule for tests, from logits of one picture without and with priors.

  Rules of the paper: "augmented" (3), "sum" of both (4), and "entropy", the one of the two whose
  mean entropy is lower (5, 6). "plain" looks at no prior.
  """
  if rule == "entropy":
    less = inference.entropy(augmented).mean() < inference.entropy(plain).mean()
    logits = jnp.where(less, augmented, plain)
  else:
    logits = {"plain": plain, "augmented": augmented, "sum": plain + augmented}[rule]
  return logits.argmax(-1)
