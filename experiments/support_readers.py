"""The networks of the study of UniverSeg: one that reads a support, and U-Nets trained on it.

Not a study. An arm of `experiments.universeg` is a call of `Task.read` or `Task.unet`.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from experiments import support_tasks
from experiments.support_tasks import Fold
from medjax import check, data, inference, losses, methods, nets, rng, study, synth
from medjax.data import augmentation
from medjax.methods import support
from medjax.train import RunDirectory
from medjax.types import Array, Key, Params

BALANCES = {"family": data.by_family, "task": data.by_task, "map": data.by_map}


@dataclasses.dataclass(frozen=True)
class Settings(study.Settings):
  """What the networks are told."""

  size: int = 32  # side of a slice in pixels
  balance: str = "family"  # what is drawn alike in training: "family", "task" or "map"
  absent_fraction: float = 0.0  # of training maps that may lack the structure; 0 in UniverSeg
  widths: tuple[int, ...] = (16, 16, 16)  # channels of each level of the network that reads
  num_support: int = 6  # pairs of a training problem
  num_shown: int = 8  # slices that a query is shown at most
  num_updates: int = 700  # of the network that reads
  batch_size: int = 4  # problems an update
  learning_rate: float = 2e-3  # Adam's, of both networks
  unet_widths: tuple[int, ...] = (8, 16, 32)  # channels of each level of a U-Net
  unet_updates: int = 200  # of a U-Net
  log_every: int = 50

  def __post_init__(self):
    super().__post_init__()
    check.one_of("balance", self.balance, BALANCES)


class Task:
  """Both kinds of networks, and what an arm says of the tested cases of a fold."""

  def __init__(self, config: Settings, seed: int, directory: RunDirectory):
    self.config, self.seed, self.directory = config, seed, directory
    self.net = nets.CrossConvUNet(config.widths)
    self.trained: list[study.Trained] = []
    self.params: Params = None  # of the network that reads, see `meta_train`

  def meta_train(self, families: list[data.TaskFamily]) -> study.Trained:
    config, key = self.config, jax.random.key(self.seed)
    render = functools.partial(synth.render_problem, support_tasks.generator(config.size))
    loss_fn = support.support_loss(self.net.apply, render)
    step = methods.supervised(loss_fn, optax.adam(config.learning_rate))
    stream = data.support_problems(
      families,
      config.num_support,
      config.batch_size,
      self.seed,
      balance=BALANCES[config.balance],
      absent_fraction=config.absent_fraction,
    )
    space = (config.size, config.size)
    shapes = (*space, 1), (config.num_support, *space, 1), (config.num_support, *space)
    empty = [np.zeros(shape, np.float32) for shape in shapes]
    params = jax.jit(self.net.init)(rng.stream(key, "parameters"), *empty)
    job = study.Job(f"reader-{self.seed}", step, stream, params, key, config.num_updates)
    one = study.train_job(job, self.directory, log_every=config.log_every)
    self.params = one.params
    return one

  def read(
    self,
    fold: Fold,
    num: int,
    *,
    inclusive: bool = False,
    weigh: inference.support.Nearness = inference.near,
    draws: int = 1,
    shuffles: bool = False,
    trusts: bool = False,
  ) -> list[np.ndarray]:
    """Masks by class of the tested cases, each structure read by itself."""
    cases, classes = fold.volumes.cases, fold.volumes.class_names
    segmenter = inference.SupportSegmenter(
      self.net.apply,
      self.params,
      number=self.config.num_shown,
      chunk=8,
      draws=draws,
      weigh=weigh,
      inclusive=inclusive,
    )
    shown = labelled(fold, num)
    found = [np.zeros((len(classes), *cases[i].label.shape), bool) for i in fold.test]
    for k, name in enumerate(classes[1:], 1):
      pool = inference.support_pool([c.image for c in shown], [c.label for c in shown], k, name)
      trust = None
      if shuffles:  # masks of other slices, upside down: a picture alone has no other slice
        order = np.random.default_rng(self.seed).permutation(len(pool.masks))
        pool = pool._replace(masks=pool.masks[order, ::-1, ::-1])
      if trusts and len(pool.masks) > 1:
        number = self.config.num_shown
        trust = inference.fit_trust(
          self.net.apply, self.params, pool, support.mask_loss, self.seed, number=number
        )
      for place, i in enumerate(fold.test):
        places = range(len(cases[i].image))
        said = segmenter(cases[i].image, places, pool, self.seed + i, trust=trust)
        found[place][k] = said > 0.5
    return found

  def unet(self, fold: Fold, num: int, *, augments: bool = True) -> list[np.ndarray]:
    """Masks by class of a U-Net that is trained on the labelled slices."""
    config, cases = self.config, fold.volumes.cases
    classes, key = len(fold.volumes.class_names), jax.random.key(self.seed)
    step, predict = _unet(config.unet_widths, classes, config.size, config.learning_rate, augments)
    shown = labelled(fold, num)
    store = {name: np.concatenate([getattr(c, name) for c in shown]) for name in ("image", "label")}
    stream = data.batches(store, 8, key, name="slices")
    net = nets.from_linen(nets.UNet(classes, config.unet_widths))
    params, _ = net.init(rng.stream(key, "unet"), store["image"][0])
    name = f"unet{'' if augments else '-plain'}-{fold.turn}-{num}-{self.seed}"
    job = study.Job(name, step, stream, params, key, config.unet_updates)
    one = study.train_job(job, self.directory, log_every=config.log_every, progress=False)
    self.trained.append(one)
    said = [predict(one.params, cases[i].image).argmax(-1) for i in fold.test]
    return [np.stack([own == k for k in range(classes)]) for own in said]


@functools.cache
def _unet(widths: tuple[int, ...], classes: int, size: int, rate: float, augments: bool) -> Any:
  """Step and predictor, one program for all folds of as many classes."""
  model = nets.from_linen(nets.UNet(classes, widths))
  moved = augmentation.Augmentation(
    (size, size),
    augmentation.Spatial(15.0, 0.5, (0.8, 1.25), 0.5, (0.0, 2.0), 0.5, mirror_axes=()),
  )

  def logits(params: Params, image: Array) -> Array:
    return model.apply(params, image)[0]

  def loss_fn(params: Params, example: Any, key: Key) -> Array:
    image, label = example["image"], example["label"]
    if augments:
      image, label = moved(key, image, label)
    said = logits(params, image)
    return losses.soft_dice(said, label) + losses.cross_entropy(said, label)

  step = methods.supervised(loss_fn, optax.adam(rate))
  return step, study.ChunkedPredictor(logits, chunk=8)


def labelled(fold: Fold, num: int) -> list[Any]:
  """Cases of the first `num` people of the pool."""
  cases = [fold.volumes.cases[i] for i in fold.pool]
  people = list(dict.fromkeys(case.subject for case in cases))[:num]
  return [case for case in cases if case.subject in people]


def check_shown(fold: Fold, num: int) -> None:
  """Holds the labelled people to showing every structure, before anything is trained.

  Raises:
    InputError: a structure that none of the first `num` people has.
  """
  shown = labelled(fold, num)
  for k, name in enumerate(fold.volumes.class_names[1:], 1):
    inference.support_pool([c.image for c in shown], [c.label for c in shown], k, name)
