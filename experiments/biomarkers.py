"""Networks of a whole map of grey matter and of regions of it, and what is made of their answers.

Not a study: what `experiments.ebm_biomarkers` trains and stacks.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import boosted, classical
from medjax import data, explain, losses, methods, rng, study
from medjax.ops import conv
from medjax.types import Array, Key, Params, Step


class VolumeCNN(nn.Module):
  """The log-odds of ONE map [*space, 1]: convolutions of stride 2 and a dense layer.

  The dense layer sees places: a mean over them could not tell where grey matter is missing. No
  norm, which would take from a map how much of it there is.
  """

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    x = image[None]
    run = conv.conv_general_dilated
    for width in self.widths:
      x = nn.relu(nn.Conv(width, (3, 3, 3), strides=(2, 2, 2), conv_general_dilated=run)(x))
    return nn.Dense(1)(x.reshape(-1))


class RegionNets(nn.Module):
  """Log-odds [region] of ONE person's regions [region, *space, 1], each by a network of its own.

  Their costs are added up and Adam treats every weight by itself, so that training them together is
  training each alone on the same batches. DEVIATION: two dense layers each. On cubes of a few
  voxels a second convolution sees the whole cube already, so that a dense layer has all that a
  convolution has there; ten CNNs in a program take minutes to compile on a CPU.
  """

  width: int

  @nn.compact
  def __call__(self, regions: jax.Array) -> jax.Array:
    num, size = regions.shape[0], regions[0].size
    # One matrix a region, each drawn as that of a layer of its own would be.
    drawn = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=0)
    first = self.param("first", drawn, (num, size, self.width))
    second = self.param("second", drawn, (num, self.width, 1))
    bias, shift = (
      self.param(name, nn.initializers.zeros, shape)
      for name, shape in (("first_bias", (num, self.width)), ("second_bias", (num,)))
    )
    hidden = nn.relu(jnp.einsum("rv,rvw->rw", regions.reshape(num, size), first) + bias)
    return jnp.einsum("rw,rwo->r", hidden, second) + shift


def step_of(module: nn.Module, tx: optax.GradientTransformation) -> Step:
  """Cross-entropy in which both classes weigh alike, added up over the networks of `module`."""

  def loss_fn(params: Params, example: dict[str, Any], key: Key) -> Array:
    del key
    logits: Any = module.apply({"params": params}, example["image"])
    costs = jax.vmap(losses.binary_cross_entropy, (0, None))(
      logits[:, None], example["label"][None]
    )
    return example["loss_weight"] * costs.sum()

  return methods.supervised(loss_fn, tx)


def store_of(image: np.ndarray, label: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
  """A store for `data.batches`, with weights by which both classes count alike."""
  own = label[rows]
  share = own.mean()
  weights = np.where(own == 1, 0.5 / share, 0.5 / (1 - share))
  return {
    "image": image[rows],
    "label": own,
    "loss_weight": weights.astype(np.float32),
    "index": rows.astype(np.int32),
  }


def standardised(image: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Maps less the mean map of the training people, over the deviation of all that remains.

  So 0 is what people have on the average, and what an occluded place is filled with.
  """
  moved = image - image[train].mean(0)
  return (moved / moved[train].std()).astype(np.float32)


class Networks:
  """The networks of a study: of the whole map and of regions, their Steps and what they say."""

  def __init__(
    self,
    image: np.ndarray,
    label: np.ndarray,
    tx: optax.GradientTransformation,
    *,
    widths: tuple[int, ...],
    width: int,
    window: int,
    batch_size: int,
    num_steps: int,
  ):
    """Maps as `standardised` gives them; see the settings of the study for the rest."""
    self.image, self.label = image, label
    self._batch_size, self._num_steps, self._window = batch_size, num_steps, window
    self.whole, self.parts = VolumeCNN(widths), RegionNets(width)
    modules: tuple[nn.Module, ...] = (self.whole, self.parts)
    self._steps = {module: step_of(module, tx) for module in modules}
    self._say = {module: self._sayer(module) for module in modules}

  def _sayer(self, module: nn.Module) -> study.ChunkedPredictor:
    def probability(params: Params, image: Array) -> Array:
      logits: Any = module.apply({"params": params}, image)
      return jax.nn.sigmoid(logits)

    return study.ChunkedPredictor(probability, chunk=128)

  def job(self, name: str, image: np.ndarray, rows: np.ndarray, key: Key) -> study.Job:
    """A training on the maps, or on regions [person, region, *space, channel], of some people."""
    module = self._of(image)
    params = jax.jit(module.init)(rng.stream(key, "parameters"), image[0])["params"]
    stream = data.batches(store_of(image, self.label, rows), self._batch_size, key, name=name)
    return study.Job(name, self._steps[module], stream, params, key, self._num_steps)

  def probabilities(self, params: Params, image: np.ndarray) -> np.ndarray:
    """[person, network] of everybody."""
    return self._say[self._of(image)](params, image)

  def _of(self, image: np.ndarray) -> nn.Module:
    return self.whole if image.ndim == self.image.ndim else self.parts

  def maps(self, params: Params, rows: np.ndarray) -> np.ndarray:
    """[person, *space], 0 or more: how much the probability moves as a cube becomes the mean."""
    return np.asarray(self._occluded(params, jnp.asarray(self.image[rows])))

  @functools.cached_property
  def _occluded(self) -> Any:
    def one(params: Params, image: Array) -> Array:
      def score(x: Array) -> Array:
        logits: Any = self.whole.apply({"params": params}, x)
        return jax.nn.sigmoid(logits[0])

      return jnp.abs(explain.occlusion(score, image, window=self._window, chunk=256))

    return jax.jit(lambda params, images: jax.lax.map(lambda x: one(params, x), images))


# --- biomarkers


class Seen(NamedTuple):
  """What an arm judges everybody by.

  Attributes:
    feature: [person, feature].
    names: of the features.
    found: share of the planted places in the regions that it looks at; NaN without regions.
  """

  feature: np.ndarray
  names: tuple[str, ...]
  found: float = float("nan")


def out_of_fold(by_fold: np.ndarray, fold: np.ndarray) -> np.ndarray:
  """[person, feature]: a training person's by the network of their fold, which has not seen them.

  Args:
    by_fold: [fold, person, feature] of the network that was trained on all folds but that one.
    fold: [person] fold of training people, -1 for test people, who get the mean over the networks.
  """
  own = by_fold[np.maximum(fold, 0), np.arange(len(fold))]
  return np.where((fold < 0)[:, None], by_fold.mean(0), own)


def in_fold(by_fold: np.ndarray, fold: np.ndarray) -> np.ndarray:
  """As `out_of_fold`, but a training person's are those of the networks that have seen them."""
  others = np.arange(len(by_fold))[:, None] != fold  # [fold, person]; all of them for test people
  return (by_fold * others[..., None]).sum(0) / others.sum(0)[:, None]


def most_different(feature: np.ndarray, label: np.ndarray, num: int) -> np.ndarray:
  """Positions of the `num` columns of the largest |t| of Welch's test between the two classes."""
  one, other = feature[label == 1], feature[label == 0]
  error = np.sqrt(one.var(0, ddof=1) / len(one) + other.var(0, ddof=1) / len(other))
  return np.sort(np.argsort(-np.abs(one.mean(0) - other.mean(0)) / error, kind="stable")[:num])


def judged(
  own: Seen,
  label: np.ndarray,
  train: np.ndarray,
  test: np.ndarray,
  seed: int,
  *,
  judge: str,
  num_pairs: int,
  num_bags: int,
) -> tuple[np.ndarray, dict[str, float]]:
  """[test person, class] logits, and the mean size of a machine's terms, {} of the others.

  Args:
    own: features of everybody.
    label: [person].
    train, test: positions.
    seed: of what is drawn.
    judge: "machine", "logistic", or "mean" of features that are probabilities.
    num_pairs, num_bags: of the machine.
  """
  known, new = own.feature[train], own.feature[test]
  if judge == "machine":
    found = boosted.boosted(
      known, label[train], new, seed, names=own.names, num_pairs=num_pairs, num_bags=num_bags
    )
    sizes = dict(zip(found.terms, found.importance.tolist(), strict=True))
    return np.stack([0 * found.log_odds, found.log_odds], 1), sizes
  if judge == "logistic":
    share = classical.logistic(known, label[train], new, 2, seed)[:, 1]
  else:
    share = new.mean(1)
  share = np.clip(share, 1e-6, 1 - 1e-6)
  return np.log(np.stack([1 - share, share], 1)), {}
