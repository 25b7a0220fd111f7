"""Folds of patients, sets of their lesions of one shape, and a network that reads them.

Not a study: what the study of patients' lesions trains and tests.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.patients import SEXES, SITES, Lesions
from medjax import check, data, metrics, nets, study
from medjax.data.seeds import generator
from medjax.types import Array, Evaluator, Key, Params, TrainState

_CHUNK = 64  # sets that are scored at once


def standardised(feature: np.ndarray, train: np.ndarray) -> np.ndarray:
  """Features less the mean of the training lesions, over their deviation.

  Raises:
    InputError: a feature that is the same in all training lesions: what differs from it in a test
      would be divided by nothing.
  """
  spread = feature[train].std(0)
  check.require(
    (spread > 0).all(),
    "features that differ among the training lesions",
    f"feature {int(np.argmin(spread))} the same in all",
    "leave it out",
  )
  return (feature - feature[train].mean(0)) / spread


def sets(
  lesions: Lesions, feature: np.ndarray, rows: np.ndarray, most: int, patients: np.ndarray
) -> dict[str, np.ndarray]:
  """Sets of up to `most` lesions, padded; a patient with more has several sets of even size.

  Args:
    lesions: all of them.
    feature: [n, feature], standardised.
    rows: of the lesions that are packed.
    most: lesions of a set.
    patients: [n] code of the patient whose set each lesion goes into.
  Returns:
    A store for `data.batches`: feature [set, most, d], is_item [set, most], site and label [set,
    most], sex [set, 3] and age [set, 9] of the set's first lesion, row [set, most] (-1 for
    padding), subject [set], index [set].
  """
  packed = []
  for patient in np.unique(patients[rows]):
    own = rows[patients[rows] == patient]
    packed += [(patient, part) for part in np.array_split(own, -(-len(own) // most))]
  row = np.full((len(packed), most), -1)
  for i, (_, part) in enumerate(packed):
    row[i, : len(part)] = part
  first = row[:, 0]
  is_item = row >= 0
  return {
    "feature": np.where(is_item[..., None], feature[row], 0).astype(np.float32),
    "is_item": is_item,
    "site": np.where(is_item, lesions.site[row], 0).astype(np.int32),
    "label": np.where(is_item, lesions.label[row], 0).astype(np.int32),
    "sex": np.eye(len(SEXES), dtype=np.float32)[lesions.sex[first]],
    "age": age_code(lesions.age[first]),
    "row": row.astype(np.int32),
    "subject": np.array([patient for patient, _ in packed], np.int32),
    "index": np.arange(len(packed), dtype=np.int32),
  }


def age_code(age: np.ndarray) -> np.ndarray:
  """[n, 9]: sines and cosines of bins of five years at four wavelengths, and whether known."""
  bins = np.nan_to_num(age // 5)[:, None] * (2 * np.pi / np.array([4.0, 8.0, 16.0, 32.0]))
  is_known = ~np.isnan(age)[:, None]
  waves = np.concatenate([np.sin(bins), np.cos(bins)], 1) * is_known
  return np.concatenate([waves, is_known], 1).astype(np.float32)


def turns_of(lesions: Lesions, num_folds: int, seed: int) -> list[study.Turn]:
  """A turn a fold: its patients test, a fifth of the others choose the cut, the rest train.

  Folds are drawn so that each has its share of the patients with a melanoma, unless the table has
  folds. Where lesions of a fold share pictures the next fold chooses the cut.
  """
  has = {p for p, y in zip(lesions.patients, lesions.label, strict=True) if y}
  kind = lambda names: ["melanoma" if name in has else "none" for name in names]  # noqa: E731
  if lesions.folds is not None:
    names = sorted(set(lesions.folds.tolist()))
    own = np.array(lesions.patients)
    tested = {f"{seed}-{name}": set(own[lesions.folds == name]) for name in names}
  else:
    drawn = data.folds(lesions.patients, num_folds, seed=seed, domains=kind(lesions.patients))
    tested = {f"{seed}-{i}": set(fold.parts["validation"]) for i, fold in enumerate(drawn)}
  turns, order = [], list(tested)
  for place, (name, test) in enumerate(tested.items()):
    rest = sorted(set(lesions.patients) - test)
    inner = data.folds(rest, 5, seed=seed, domains=kind(rest))[0].parts
    if lesions.shares_pictures:
      chooses = tested[order[(place + 1) % len(order)]]
      inner = {"train": tuple(sorted(set(rest) - chooses)), "validation": tuple(sorted(chooses))}
    people = {"train": inner["train"], "validation": inner["validation"], "test": sorted(test)}
    for part, own in people.items():
      check.require(
        set(own) & has and set(lesions.label[np.isin(lesions.patients, list(own))]) == {0, 1},
        f"melanomas and other lesions in the {part} part of fold {name}",
        "one kind",
        "take fewer folds or more patients",
      )
    turns.append(study.Turn(name, None, None, {}, people))
  return turns


class Fold(NamedTuple):
  """Stores of sets by part."""

  train: dict[str, np.ndarray]
  validation: dict[str, np.ndarray]
  test: dict[str, np.ndarray]


def stores_of(lesions: Lesions, most: int, turn: study.Turn, seed: int, *, strangers: bool) -> Fold:
  """The sets of a fold.

  Args:
    lesions: all of them.
    most: lesions of a set.
    turn: whose people are in which part.
    seed: of the strangers.
    strangers: whether each lesion goes into the set of a patient of its part drawn at random; the
      sets keep their sizes.
  """
  names, code = np.unique(np.array(lesions.patients), return_inverse=True)
  rows = {part: np.flatnonzero(np.isin(lesions.patients, own)) for part, own in turn.people.items()}
  feature = standardised(lesions.feature, rows["train"])
  found = {}
  for part, own in rows.items():
    owner = code.copy()
    if strangers:
      random = generator(seed, f"strangers {part}")
      owner[own] = random.permutation(owner[own])
    found[part] = sets(lesions, feature, own, most, owner)
  label, is_item = found["train"]["label"], found["train"]["is_item"]
  # Inverse class proportions, so that both classes weigh alike and the mean weight of a set is 1.
  share = label[is_item].mean()
  weights = np.where(label == 1, 0.5 / share, 0.5 / (1 - share)) * is_item / is_item.sum(1).mean()
  return Fold(**{**found, "train": {**found["train"], "loss_weight": weights.astype(np.float32)}})


class Task:
  """A network that sees some of what is known of a set, its loss and its scores of lesions."""

  def __init__(self, size: tuple[int, int, int], *, context: bool, site: bool, about: bool):
    """Width, layers and heads, and what the network sees beside a lesion's features."""
    self.site, self.about = site, about
    kinds = len(SITES) if site else 0
    self.net = nets.SetTransformer(1, *size, num_kinds=kinds, has_context=context)

  def given(self, example: dict[str, Any]) -> tuple[Any, ...]:
    about = (example["sex"], example["age"]) if self.about else ()
    kinds = example["site"] if self.site else None
    return example["feature"], example["is_item"], kinds, about

  def logits(self, params: Params, example: dict[str, Any]) -> Array:
    found: Any = self.net.apply(params, *self.given(example))
    return found.logits[:, 0]

  def loss(self, params: Params, example: dict[str, Any], key: Key) -> Array:
    del key
    wrong = optax.sigmoid_binary_cross_entropy(self.logits(params, example), example["label"])
    return (example["loss_weight"] * wrong).sum()

  @functools.cached_property
  def predict(self) -> Any:
    return jax.jit(jax.vmap(self.logits, (None, 0)))

  def scores(self, params: Params, store: dict[str, np.ndarray], num_lesions: int) -> np.ndarray:
    """[lesion] logits, NaN where a lesion is in no set; sets in chunks of one shape."""
    found = np.full(num_lesions, np.nan)
    wanted = {name: store[name] for name in ("feature", "is_item", "site", "sex", "age")}
    for start in range(0, len(store["row"]), _CHUNK):
      place = np.minimum(np.arange(start, start + _CHUNK), len(store["row"]) - 1)
      said = np.asarray(self.predict(params, {k: jnp.asarray(v[place]) for k, v in wanted.items()}))
      is_item = store["is_item"][place]
      found[store["row"][place][is_item]] = said[is_item]
    return found

  def evaluator(self, store: dict[str, np.ndarray], label: np.ndarray) -> Evaluator:
    """The area under the ROC curve of the lesions of a store."""

    def evaluate(state: TrainState) -> dict[str, float]:
      scores = self.scores(state.params, store, len(label))
      own = ~np.isnan(scores)
      return {"auroc": float(metrics.auroc(scores[own], label[own]))}

    return evaluate
