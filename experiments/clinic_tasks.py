"""What is learnt in the clinics: survival, a class or a mask, with its model, loss and score.

Not a study: what the study of clinics trains. A Task holds the cases of both parts and three pure
functions of one example or of all test cases.
"""

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from experiments import clinic_sets, prostate_sites
from medjax import check, data, losses, metrics, nets, study
from medjax.types import Array, Batch, Json, Key, LossFn, Model, Params

Rows = list[dict[str, Json]]


class Task(NamedTuple):
  """One task in all clinics.

  Attributes:
    clinics: cases and parts.
    train, test: arrays; `domain` is the clinic.
    names: of the test people, case by case.
    model: network of ONE image.
    loss_fn: of one example.
    score: `score(outputs of the test cases, about, comparable) -> rows`; `comparable`: whether the
      outputs of two clinics come from one network.
    each: `each(outputs of some test cases, their positions) -> score` of one clinic.
  """

  clinics: clinic_sets.Clinics
  train: Batch
  test: Batch
  names: list[str]
  model: Model
  loss_fn: LossFn
  score: Callable[[np.ndarray, Mapping[str, Json], bool], Rows]
  each: Callable[[np.ndarray, np.ndarray], float]

  def by_clinic(self, outputs: np.ndarray) -> dict[str, float]:
    """The score within each clinic; NaN where nothing can be compared."""
    names = sorted(set(self.clinics.source.domains))
    places = {name: np.flatnonzero(self.test.domain == k) for k, name in enumerate(names)}
    return {name: self.each(outputs[own], own) for name, own in places.items()}

  def output(self, params: Params, image: Array) -> Array:
    return self.model.apply(params, image)[0]


def survival(clinics: clinic_sets.Clinics, *, scales: bool = True) -> Task:
  """A linear log hazard by Cox's partial likelihood; concordance within clinics, and among all.

  Args:
    clinics: with labels (event, days).
    scales: whether columns are brought to mean 0 and deviation 1 of the training people.
  """
  train, test, names = _arrays(clinics, scales=scales)
  model = _linear(1)

  def loss_fn(params: Params, example: Batch, key: Key) -> Array:
    del key
    risk = model.apply(params, example.image)[0][0]
    event, days = example.label[0] > 0, example.label[1]
    return losses.cox(risk, days, event, is_there=example.weight > 0)

  def score(outputs: np.ndarray, about: Mapping[str, Json], comparable: bool) -> Rows:
    event, days = test.label[:, 0], test.label[:, 1]
    found = []
    for pairs, strata in (("", test.domain), (", all pairs", None)):
      if strata is None and not comparable:
        continue  # the hazards of two networks have no common scale
      parts = metrics.concordance_parts(outputs[:, 0], days, event, strata=strata)
      own = {**about, "role": f"{about['role']}{pairs}"}
      found += [
        {**_row(clinics, names, i, own), "concordance/all": float(u)} for i, u in enumerate(parts)
      ]
    return found

  def each(outputs: np.ndarray, places: np.ndarray) -> float:
    event, days = test.label[places, 0], test.label[places, 1]
    try:
      return metrics.concordance(outputs[:, 0], days, event)
    except check.InputError:  # no event before another person's last visit
      return math.nan

  return Task(clinics, train, test, names, model, loss_fn, score, each)


def classes(clinics: clinic_sets.Clinics, *, widths: tuple[int, ...] = ()) -> Task:
  """A class by cross-entropy: a linear model of a table, or a small network of pictures."""
  train, test, names = _arrays(clinics)
  count = len(clinics.source.class_names)
  module = nets.SmallCNN(count, widths, convolution="product")
  model = nets.from_linen(module) if widths else _linear(count)

  def loss_fn(params: Params, example: Batch, key: Key) -> Array:
    del key
    return losses.cross_entropy(model.apply(params, example.image)[0], example.label)

  def score(outputs: np.ndarray, about: Mapping[str, Json], comparable: bool) -> Rows:
    del comparable  # a class needs no scale
    return study.classes(outputs, test.label, about=about, subjects=names, wanted=("accuracy",))

  def each(outputs: np.ndarray, places: np.ndarray) -> float:
    return float((outputs.argmax(-1) == test.label[places]).mean())

  return Task(clinics, train, test, names, model, loss_fn, score, each)


def masks(clinics: clinic_sets.Clinics, *, widths: tuple[int, ...], every: int) -> Task:
  """A mask by Dice and cross-entropy, of every `every`-th pixel of the pictures."""
  train, test, names = _arrays(clinics)
  train, test = (
    x.replace(image=x.image[:, ::every, ::every], label=x.label[:, ::every, ::every])
    for x in (train, test)
  )
  structures = clinics.source.class_names
  model = nets.from_linen(nets.UNet(len(structures), widths, convolution="product"))

  def loss_fn(params: Params, example: Batch, key: Key) -> Array:
    del key
    logits = model.apply(params, example.image)[0]
    return losses.soft_dice(logits, example.label) + losses.cross_entropy(logits, example.label)

  def dice(outputs: np.ndarray, label: np.ndarray) -> np.ndarray:
    measure = jax.vmap(lambda found, true: metrics.dice(found, true, num_classes=len(structures)))
    return np.asarray(measure(outputs.argmax(-1), label))

  def score(outputs: np.ndarray, about: Mapping[str, Json], comparable: bool) -> Rows:
    del comparable
    return [
      _row(clinics, names, i, about)
      | {f"dice/{name}": float(x) for name, x in zip(structures[1:], own, strict=True)}
      for i, own in enumerate(dice(outputs, test.label))
    ]

  def each(outputs: np.ndarray, places: np.ndarray) -> float:
    return float(np.nanmean(dice(outputs, test.label[places])))

  return Task(clinics, train, test, names, model, loss_fn, score, each)


def task_of(name: str, paths: tuple[pathlib.Path, ...], num_people: int, seed: int) -> Task:
  """The task of a preset, on the folder after --data."""
  root = paths[0] if paths else pathlib.Path()
  if name == "simulated":
    return survival(clinic_sets.simulated(num_people, seed))
  if name in ("tcga", "flamby"):
    return survival(clinic_sets.tcga(root), scales=name == "tcga")
  if name == "heart":
    return classes(clinic_sets.heart(root, seed))
  if name == "scanners":
    return classes(clinic_sets.scanners(root, seed, 32), widths=(16, 32, 32))
  if name == "prostate":
    return masks(prostate_sites.prostates(root, seed), widths=(8, 16, 32), every=1)
  return masks(clinic_sets.folders(root, seed), widths=(8, 16, 32), every=2)


TASKS = ("simulated", "tcga", "flamby", "heart", "scanners", "masks", "prostate")


def _linear(count: int) -> Model:
  """Weights uniform in -+ 1 / sqrt(columns), as PyTorch and so FLamby draw them."""
  start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
  return nets.from_linen(nn.Sequential([lambda x: x.ravel(), nn.Dense(count, kernel_init=start)]))


def _arrays(clinics: clinic_sets.Clinics, *, scales: bool = True) -> tuple[Batch, Batch, list[str]]:
  train, test = (data.stack(clinics.source, clinics.parts[part]) for part in ("train", "test"))
  if scales:
    axes = tuple(range(train.image.ndim - 1))  # columns of tables, colours of pictures
    mean, deviation = train.image.mean(axes), np.maximum(train.image.std(axes), 1e-3)
    train, test = (x.replace(image=(x.image - mean) / deviation) for x in (train, test))
  names = [clinics.source.subjects[i] for i in clinics.parts["test"]]
  return train, test, names


def _row(
  clinics: clinic_sets.Clinics, names: list[str], i: int, about: Mapping[str, Json]
) -> dict[str, Json]:
  place = clinics.parts["test"][i]
  case = f"{names[i]} {place}" if names.count(names[i]) > 1 else names[i]
  return {**about, "case": case, "subject": names[i], "domain": clinics.source.domains[place]}
