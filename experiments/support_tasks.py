"""What networks that learn from a support are trained and tested on: label maps, and volumes.

Not a study. The families of label maps are the training tasks, and their images come from the
generator. The volumes are what nobody trained on; a picture is a volume of one slice.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import abdomens
from medjax import check, data, synth
from medjax.data import png
from medjax.study import stack_scores
from medjax.study.stacks import Grid, Stack
from medjax.types import Example, Json, Source

NUM_VALUES = 64  # label values that the generator has an intensity for


def generator(size: int) -> synth.Generator:
  """Contrasts without a prior, deformations and artefacts as they differ within one study."""
  return synth.Generator(
    synth.identity(NUM_VALUES),
    mixture=synth.Mixture((0.0, 1.0), (0.0, 0.1), 0.1, 0.1, (0.0, 0.1), (0.0, 0.05)),
    deformation=synth.Deformation(
      rotation_degrees=12.0,
      scaling=(0.85, 1.15),
      translation_fraction=0.05,
      elastic=(0.0, 0.05),
      elastic_unit="extent",
      nodes=(2, 6),
      steps=4,
    ),
    bias=synth.BiasField((0.0, 0.3), (3,)),
    gamma=synth.Gamma(0.15),
    blur=synth.Blur((0.0, size / 32)),
    quantiles=(0.01, 0.99),
  )


# --- label maps to train on


def families(
  size: int, num_maps: int, seed: int, folders: Sequence[str] = ()
) -> list[data.TaskFamily]:
  """Random shapes, three procedural anatomies, and a family of each folder of label maps."""
  shapes = data.random_shapes(num_maps, (size, size), 8, seed)
  found = [data.TaskFamily("shapes", shapes, is_template=True)]
  for classes in (4, 6, 9):
    source = data.ProceduralAnatomy(16, (size, size), classes, seed + classes)
    maps = np.stack([np.asarray(example.label) for example in source])
    found.append(data.TaskFamily(f"procedural {classes}", maps))
  return found + [data.TaskFamily(folder, plane_maps(folder, size)) for folder in folders]


def plane_maps(folder: str, size: int, most: int = 60) -> np.ndarray:
  """[map, size, size]: of each map of a folder (NIfTI or PNG) the plane with most foreground."""
  path = pathlib.Path(folder)
  pictures = sorted(path.glob("*.png"))
  if pictures:
    maps = [png.read_labels(one).array for one in pictures[:most]]
  else:
    source = _label_maps(path)
    whole = (np.asarray(source[i].label) for i in range(min(len(source), most)))
    maps = [label[..., int((label > 0).sum((0, 1)).argmax())] for label in whole]
  grid = Grid((size, size), "resize")
  return renumbered([grid.placed(around(one), is_label=True)[None] for one in maps])[0]


def renumbered(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[int, ...]]:
  """Label maps in a row with the values 0, 1, ..., and the values that these stood for."""
  joined = np.concatenate(maps)
  values = np.unique(np.append(joined, 0))
  check.require(
    len(values) <= NUM_VALUES and values[0] == 0,
    f"label values of 0 or more, {NUM_VALUES} of them at most",
    f"{len(values)} from {values[0]}",
    "group the structures",
  )
  return np.searchsorted(values, joined).astype(np.int32), tuple(values.tolist())


def _label_maps(path: pathlib.Path) -> data.LabelMapFolder:
  # All values are allowed, or the folder would be read twice to find out which there are.
  return data.LabelMapFolder(path, label_values=range(4096))


def around(label: np.ndarray) -> np.ndarray:
  """[x, y, ...] cut to the foreground with half its extent on each side, as far as there is any."""
  cut = []
  for axis in (0, 1):
    rows = np.flatnonzero((label > 0).any(tuple(i for i in range(label.ndim) if i != axis)))
    if len(rows):
      margin = (rows[-1] + 1 - rows[0]) // 2
      cut.append(slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin))
    else:
      cut.append(slice(None))
  return label[tuple(cut)]


# --- volumes to test on


@dataclasses.dataclass(frozen=True)
class LabelledVolumes:
  """Cases of one kind, whose classes above 0 are the structures to segment.

  Attributes:
    name: stands in front of structures and people where there are several kinds.
    class_names: background first.
    cases: on the network's grid and on their own.
    grid: of the network.
    manifest: what the run directory records.
  """

  name: str
  class_names: tuple[str, ...]
  cases: tuple[Stack, ...]
  grid: Grid
  manifest: dict[str, Any]


def simulated(num: int, size: int, num_slices: int, seed: int) -> LabelledVolumes:
  """Abdomens of one hospital, organs with their tumours; they end above and below the organs."""
  source = abdomens.abdomen(num, (num_slices, size, size), seed, "liver")
  organs = np.array([0, 1, 1, 2, 2, 3, 3, 4])
  grid = Grid((size, size), "resize", "percentile", is_by_slice=False)

  def case(example: Example) -> Stack:
    assert example.image is not None
    moved = dataclasses.replace(
      example,
      image=np.moveaxis(example.image, 0, 2),
      label=np.moveaxis(organs[example.label], 0, 2).astype(np.int32),
    )
    return grid.stack(moved, "")

  names = ("background", "kidney", "liver", "pancreas", "spleen")
  return LabelledVolumes(
    "", names, tuple(case(source[i]) for i in range(num)), grid, source.manifest()
  )


def of_maps(path: pathlib.Path, num: int, size: int, seed: int) -> LabelledVolumes:
  """Label maps of a folder with images by the generator under one contrast, none deformed."""
  source = _label_maps(path)
  chosen = sorted(np.random.default_rng(seed).permutation(len(source))[:num].tolist())
  grid = Grid((size, size), "resize", "none", is_by_slice=False)
  placed = []
  for i in chosen:
    planes = np.moveaxis(around(np.asarray(source[i].label)), 2, 0)
    placed.append(np.stack([grid.placed(plane, is_label=True) for plane in planes]))
  every, values = renumbered(placed)
  still = dataclasses.replace(generator(size), deformation=None, bias=None)
  render = jax.jit(lambda key, labels: synth.generate_alike(still, key, labels, spread=0.0))
  cases, start = [], 0
  for i, planes in zip(chosen, placed, strict=True):
    stack = every[start : start + len(planes)]
    start += len(planes)
    filled = np.pad(stack, ((0, -len(stack) % 32), (0, 0), (0, 0)))  # few lengths, few programs
    image = np.asarray(render(jax.random.key(seed), filled)[0])[: len(stack)]
    truth = np.moveaxis(stack, 0, 2)
    cases.append(
      Stack(source.names[i], source.subjects[i], "", "", image, stack, truth, (1.0,) * 3)
    )
  names = tuple(f"label {value}" if value else "background" for value in values)
  record = {"folder": str(path), "cases": [source.names[i] for i in chosen]}
  return LabelledVolumes("", names, tuple(cases), grid, record)


def folder(path: pathlib.Path, size: int, subject: str, name: str = "") -> LabelledVolumes:
  """An nnU-Net folder; colour pictures become grey."""
  source: Source = data.NnUNetFolder(path, normalise="none", subject_pattern=subject or None)
  grid = Grid((size, size), "resize", "percentile", is_by_slice=False)

  def case(example: Example) -> Stack:
    assert example.image is not None
    grey = example.image.mean(-1, keepdims=True)
    return grid.stack(dataclasses.replace(example, image=grey), name)

  cases = tuple(case(source[i]) for i in range(len(source)))
  return LabelledVolumes(name, tuple(source.class_names), cases, grid, source.manifest())


# --- who is labelled, who is tested


class Fold(NamedTuple):
  """A turn of one kind of volumes: positions of the people who are labelled and of those tested."""

  volumes: LabelledVolumes
  turn: str
  pool: tuple[int, ...]
  test: tuple[int, ...]


def folds(volumes: LabelledVolumes, most: int, seed: int, *, num_folds: int = 0) -> list[Fold]:
  """Everybody is tested once, by labelled people among the others.

  Args:
    volumes: of which people are drawn.
    most: the largest number of labelled people that is asked for.
    seed: of the order.
    num_folds: 0: as few folds as leave `most` people to label; 1: one fold, the first `most`
      people are labelled and nobody of them is tested.
  Raises:
    InputError: fewer people than `most` + 1.
  """
  subjects = [case.subject for case in volumes.cases]
  people = sorted(set(subjects))
  check.require(
    len(people) > most,
    f"more than {most} people in {volumes.name or 'the volumes'}, the largest number of --shots",
    f"{len(people)}",
    "label fewer, for example with --shots 1 2",
  )
  order = [people[i] for i in np.random.default_rng(seed).permutation(len(people))]
  if num_folds == 1:
    parts = [order[most:]]
  else:
    least = next(k for k in range(2, len(order) + 1) if len(order) - -(-len(order) // k) >= most)
    parts = [order[i::least] for i in range(least)]
  found = []
  for number, tested in enumerate(parts):
    rest = [person for person in order if person not in tested][:most]
    rows = [tuple(i for i, s in enumerate(subjects) if s in own) for own in (rest, tested)]
    name = f"{volumes.name}{number}" if volumes.name else ("" if num_folds == 1 else str(number))
    # Those labelled first come first: --shots takes people in this order.
    pool = tuple(sorted(rows[0], key=lambda i: rest.index(subjects[i])))
    found.append(Fold(volumes, name, pool, rows[1]))
  return found


def ceiling(volumes: LabelledVolumes) -> float:
  """Mean Dice of the true labels brought to the network's grid and back.

  A network that is right on its own grid has this. Small structures on a coarse grid lose much.
  """
  found = []
  for case in volumes.cases:
    back = volumes.grid.restored(np.maximum(case.label, 0), case)
    own = stack_scores.dice(back, case.truth, len(volumes.class_names))
    found.append(float(np.nanmean(own)) if np.isfinite(own).any() else 1.0)
  return float(np.mean(found))


def scored(
  predictions: Sequence[np.ndarray], fold: Fold, about: Mapping[str, Json]
) -> list[dict[str, Json]]:
  """A row a tested case: Dice of each structure in the volume, and in slices that show it.

  Args:
    predictions: class ids or masks by class, [class, slice, height, width] bool, of each case.
    fold: whose test cases they are.
    about: goes in front.
  """
  volumes, rows = fold.volumes, []
  for masks, place in zip(predictions, fold.test, strict=True):
    case = volumes.cases[place]
    row: dict[str, Json] = {
      **about, "turn": fold.turn, "case": case.name, "subject": f"{case.site}{case.subject}",
      "domain": case.site,
    }  # fmt: skip
    for k, name in enumerate(volumes.class_names[1:], 1):
      found = volumes.grid.restored(masks[k].astype(np.int32), case)
      truth = np.where(case.truth < 0, -1, case.truth == k)
      row[f"dice/{name}"] = float(stack_scores.dice(found, truth, 2)[0])
      planes = (np.moveaxis(np.atleast_3d(x), 2, 0) for x in (found, truth))
      pairs = [(f, t) for f, t in zip(*planes, strict=True) if (t == 1).any()]
      own = [float(stack_scores.dice(f, t, 2)[0]) for f, t in pairs]
      row[f"slice_dice/{name}"] = float(np.mean(own)) if own else float("nan")
    rows.append(row)
  return rows
