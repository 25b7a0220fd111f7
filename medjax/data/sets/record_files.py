"""ArrayRecord files of a prepared set, written shard by shard, so that a killed run goes on.

A shard is a file of a few cases. It is written under another name, renamed when it is whole, and
noted with its digest in progress.json; what is noted and unchanged is not written again. When all
shards are there TFDS's own description is added, and the folder takes its final name.
"""

import contextlib
import fcntl
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from medjax import files
from medjax.check import require
from medjax.data import manifest
from medjax.types import Json

_PROGRESS = "progress.json"
_SHARD_BYTES = 2**26  # of the cases in a shard, before they are compressed

RecordProgress = Callable[[Sequence[str]], Iterable[str]]
"""Given the names of the cases that are left; hands them on one by one, and may draw a bar."""


def write_shards(
  folder: pathlib.Path,
  parts: Mapping[str, Sequence[int]],
  made_of: Json,
  serialise: Callable[[int], bytes],
  *,
  name: str,
  case_bytes: int,
  progress: RecordProgress = iter,
) -> dict[str, list[dict[str, Json]]]:
  """Writes every case once; goes on where an earlier call for the same cases was stopped.

  Args:
    folder: made if absent.
    parts: name of a part -> positions of its cases, in the order of the records.
    made_of: what the cases are made of; what was written from something else is removed.
    serialise: position -> bytes of a record.
    name: of the set.
    case_bytes: size of a case, from which the number of cases a shard follows.
    progress: see `RecordProgress`.
  Returns:
    Part -> its shards: {"file", "cases", "bytes", "digest"}.
  Raises:
    InputError: another process is writing this folder.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with _locked(folder):
    plan = _plan(parts, name, max(1, _SHARD_BYTES // max(case_bytes, 1)))
    said = json.loads(json.dumps({"made_of": made_of, "plan": plan}))
    done = _done(folder, said)
    left = [shard for shards in plan.values() for shard in shards if shard["file"] not in done]
    steps = iter(progress([f"{s['file']} {i}" for s in left for i in range(len(s["cases"]))]))
    for shard in left:
      path = folder / shard["file"]
      with files.replacing(path) as temporary:
        _write(temporary, (serialise(index) for index in shard["cases"]), steps)
      done[shard["file"]] = {
        "file": shard["file"],
        "cases": len(shard["cases"]),
        "bytes": path.stat().st_size,
        "digest": manifest.file_digest(path),
      }
      files.write_json(folder / _PROGRESS, {**said, "shards": done})
    for _ in steps:  # lets a bar end
      pass
    return {part: [done[shard["file"]] for shard in shards] for part, shards in plan.items()}


def finish(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Gives a complete folder its final name."""
  (folder / _PROGRESS).unlink()
  (folder / _LOCK).unlink(missing_ok=True)
  folder.rename(target)


_LOCK = ".lock"


def _plan(
  parts: Mapping[str, Sequence[int]], name: str, cases: int
) -> dict[str, list[dict[str, Json]]]:
  """The cases of each shard, of equal number but for the last of a part."""
  plan = {}
  for part, indices in parts.items():
    cut = [list(map(int, indices[i : i + cases])) for i in range(0, len(indices), cases)]
    plan[part] = [
      {"file": f"{name}-{part}.array_record-{i:05d}-of-{len(cut):05d}", "cases": held}
      for i, held in enumerate(cut)
    ]
  return plan


def _done(folder: pathlib.Path, said: Json) -> dict[str, Any]:
  """The shards that are there whole; everything else is removed."""
  held: dict[str, Any] = {}
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    progress = files.read_json(folder / _PROGRESS)
    if {key: progress[key] for key in said} == said:
      held = {
        name: shard
        for name, shard in progress["shards"].items()
        if manifest.file_digest(folder / name) == shard["digest"]
      }
  for path in folder.iterdir():
    if path.name not in (*held, _PROGRESS, _LOCK):
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  return held


def _write(path: pathlib.Path, records: Iterable[bytes], steps: Iterator[str]) -> None:
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(str(path), "group_size:1")  # each record can be read by itself
  try:
    for record in records:
      writer.write(record)
      next(steps, None)
  finally:
    writer.close()


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """The folder for this process alone; the lock ends with the process, however it ends."""
  with open(folder / _LOCK, "a", encoding="utf-8") as lock:
    is_free = True
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      is_free = False
    require(
      is_free,
      f"a set that no other process prepares in {folder.parent}",
      "one that is being written",
      "wait for it, or choose another name",
    )
    yield
