"""Keeps the scores of a finished job in the run directory, so that a resumed run need not predict.

Each job has one file, scores/<name>.npz, with a digest of the weights that were scored. If the
training has ended with other weights since, the cases are scored anew. A private run keeps nothing,
since its rows would name people.
"""

import io
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from medjax import files, programs, train
from medjax.study.scores import Scored, ShownPlane
from medjax.types import PyTree

_FOLDER = "scores"
_ARRAYS = ("image", "truth", "prediction")


def kept(
  directory: train.RunDirectory, name: str, network: PyTree, score: Callable[[], Scored]
) -> Scored:
  """`score()`, or what it gave for the same weights before the run was interrupted.

  Args:
    directory: of the run.
    name: name of the job and of what is scored, "arm-turn-seed" or "arm-turn-seed-role".
    network: the weights that `score` looks at; any pytree of arrays.
    score: predicts and measures. The settings of a run directory do not change, so the weights are
      all that it can depend on.
  Returns:
    Rows, pictures, seconds and arrays; the same objects, to the bit, whether found or made now.
  """
  if directory.private is not None:
    return score()
  path = directory.path / _FOLDER / f"{name.replace('/', '_')}.npz"
  digest = programs.of_arrays(network)
  found = _read(path, digest)
  if found is None:
    content = _packed(score(), digest)
    path.parent.mkdir(exist_ok=True)
    files.write_bytes(path, content)
    found = _read(path, digest)
  assert found is not None
  return found


def _packed(scored: Scored, digest: str) -> bytes:
  pictures = [(p.name, p.site, p.score) for p in scored.pictures]
  about = {"digest": digest, "rows": scored.rows, "seconds": scored.seconds, "pictures": pictures}
  # Python's own JSON keeps NaN and every digit of a float, unlike the strict one of results.json.
  arrays: dict[str, Any] = {"about": np.array(json.dumps(about, default=_plain))}
  for i, picture in enumerate(scored.pictures):
    own = {name: getattr(picture, name) for name in _ARRAYS}
    arrays |= {f"{name} {i}": array for name, array in own.items() if array is not None}
  arrays |= {f"more {name}": array for name, array in scored.more.items()}
  file = io.BytesIO()
  np.savez_compressed(file, **arrays)
  return file.getvalue()


def _read(path: pathlib.Path, digest: str) -> Scored | None:
  if not path.exists():
    return None
  with np.load(path) as file:
    about = json.loads(str(file["about"]))
    if about["digest"] != digest:
      return None
    arrays = {name: file[name] for name in file.files if name != "about"}
  pictures = [
    ShownPlane(
      name,
      site,
      arrays[f"image {i}"],
      arrays.get(f"truth {i}"),
      arrays[f"prediction {i}"],
      score,
    )
    for i, (name, site, score) in enumerate(about["pictures"])
  ]
  more = {name[5:]: array for name, array in arrays.items() if name.startswith("more ")}
  return Scored(about["rows"], pictures, about["seconds"], more)


def _plain(value: Any) -> Any:
  return value.item()
