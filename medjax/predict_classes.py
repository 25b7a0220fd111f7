"""Pictures in, a table of class probabilities out: what `medjax.predict` does with classifiers."""

import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from medjax import files
from medjax.check import InputError, require
from medjax.data import manifest
from medjax.data.grid.preprocess import Preprocessing
from medjax.data.sets import class_folders
from medjax.data.sets.medmnist import MedMNIST
from medjax.inference import Member
from medjax.metrics import case_table
from medjax.train.progress import counted
from medjax.types import Json

TABLE = "predictions.csv"


class _Picture(NamedTuple):
  """A picture to predict: its name, and how to get its digest and its pixels in [0, 1]."""

  name: str
  digest: Any
  pixels: Any

  def __str__(self) -> str:
    return self.name


def predict_classes(
  members: Sequence[Member],
  source: str | pathlib.Path,
  output: str | pathlib.Path,
  *,
  overwrite: bool = False,
  progress: bool = True,
  training_files: Collection[str] = (),
) -> pathlib.Path:
  """Writes predictions.csv: a row a picture, with the probability of every class or finding.

  Columns are "case", for classes "class" (the most probable), "probability/NAME" for each name, and
  "of_the_training" ("yes" where the file is one of the training set). Pictures are cut and scaled
  as `ClassFolders` and `picture_table` do for training. One that cannot be read does not end the
  batch.

  Args:
    members: networks of one preprocessing with `answers` "classes" or "findings"; probabilities are
      averaged.
    source: a picture (.png, .jpg), a folder of pictures at any depth, or a MedMNIST file.
    output: folder, made if absent.
    overwrite: replace a table that is there.
    progress: print what is done.
    training_files: digests of the files of the training, see `predict.training_files`.
  Returns:
    The table's path.
  Raises:
    InputError: members that differ, no pictures, a table that is there; at the end, the pictures
      that cannot be read, each with its reason.
  """
  preprocess = members[0].preprocess
  for member in members[1:]:
    require(
      member.preprocess == preprocess,
      f"networks of one preprocessing, that of {members[0].name}",
      f"another of {member.name}",
      "predict with each run apart",
    )
  path = pathlib.Path(output) / TABLE
  require(overwrite or not path.exists(), f"no file {path}", "one", "pass --overwrite")
  networks = {member.model.apply: _network(member, preprocess.answers) for member in members}
  rows, failed, seen = [], {}, set()
  for picture in counted(
    list(_pictures(pathlib.Path(source), preprocess)), "predicting", enabled=progress
  ):
    try:
      pixels = picture.pixels()
      is_known = picture.digest() in training_files
    except (InputError, OSError) as error:
      failed[picture.name] = str(error)
      continue
    answers = [
      np.asarray(networks[m.model.apply](m.params, dict(m.model_state), pixels)) for m in members
    ]
    values = np.mean(answers, axis=0)
    if is_known:
      seen.add(picture.name)
    rows.append(_row(picture.name, values, preprocess, is_known))
  path.parent.mkdir(parents=True, exist_ok=True)
  if rows:
    case_table.write_cases(path, rows)
    settings = {"networks": [member.name for member in members], "preprocess": preprocess.to_dict()}
    files.write_json(path.parent / "prediction.json", {"settings": settings})
  if seen and progress:
    print(
      f"note: {len(seen)} of these pictures belong to the data set of the training; how well they"
      " are predicted says nothing of new people"
    )
  if failed:
    shown = "; ".join(f"{name} ({reason})" for name, reason in list(failed.items())[:3])
    raise InputError(
      f"{len(rows) + len(failed)} pictures that can be predicted",
      f"{len(failed)} that cannot: {shown}" + ("; ..." if len(failed) > 3 else ""),
      f"correct or remove them; the other {len(rows)} are in {path}",
    )
  return path


def _network(member: Member, answers: str) -> Any:
  """Probabilities [class] of one picture."""
  to_probability = jax.nn.softmax if answers == "classes" else jax.nn.sigmoid

  def one(params: Any, model_state: Any, image: jax.Array) -> jax.Array:
    logits = member.model.apply(params, image, model_state=model_state)[0]
    return to_probability(logits.astype("float32"))

  return jax.jit(one)


def _row(
  name: str, values: np.ndarray, preprocess: Preprocessing, is_known: bool
) -> dict[str, Json]:
  names = preprocess.class_names
  require(
    values.shape == (len(names),),
    f"an answer for each of {', '.join(names)}",
    f"shape {values.shape}",
    "check the network's outputs",
  )
  best = {"class": names[int(values.argmax())]} if preprocess.answers == "classes" else {}
  shares = {f"probability/{name}": float(v) for name, v in zip(names, values, strict=True)}
  return {"case": name, **best, **shares, "of_the_training": "yes" if is_known else "no"}


def _pictures(source: pathlib.Path, preprocess: Preprocessing) -> Iterator[_Picture]:
  """In the order of their names."""
  require(source.exists(), f"a file or folder {source}", "nothing there", "check the path")
  size, is_colour = preprocess.patch, len(preprocess.channel_names) == 3
  if source.suffix == ".npz":
    held, digest = MedMNIST(source, split="all"), manifest.file_digest(source)
    for index in range(len(held)):
      image = held[index].image
      assert image is not None
      require(
        image.shape == (*(size or ()), len(preprocess.channel_names)),
        f"images {size} of {len(preprocess.channel_names)} channels in {source}",
        f"{image.shape}",
        "pass the kind of file that the network was trained on",
      )
      yield _Picture(held.names[index], lambda: digest, lambda image=image: image)
    return
  if size is None:
    raise InputError("the size of pictures in the preprocessing", "None", "set its patch")
  root = source if source.is_dir() else source.parent
  found = sorted(source.rglob("*")) if source.is_dir() else [source]
  found = [
    p
    for p in found
    if p.suffix.lower() in class_folders.ENDINGS
    and not any(part.startswith((".", "__")) for part in p.relative_to(root).parts)
  ]
  wanted = ", ".join(class_folders.ENDINGS)
  require(found, f"pictures ({wanted}) in {source}", "none", "check the path")
  height, width = size
  for path in found:

    def pixels(path: pathlib.Path = path) -> np.ndarray:
      cut = class_folders.read_picture(path, (height, width), is_colour)
      return cut.astype(np.float32) / np.float32(255)

    name = path.relative_to(root).as_posix()
    yield _Picture(name, lambda path=path: manifest.file_digest(path), pixels)
