"""What a run leaves behind while it trains: its rows and its checkpoints, or nothing."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax

from medjax import programs
from medjax.check import InputError
from medjax.train import logging
from medjax.train.checkpoint import Checkpoints
from medjax.train.engine import RunState
from medjax.types import Json


class RunRecord:
  """Rows and checkpoints of the run `name` under `workdir`; memory only if that is None.

  Opening it cuts the rows of this run back to its newest checkpoint (all of them if it has none).

  Attributes:
    rows: rows so far, in order of their steps.
    step: step of the newest checkpoint, None if there is none.
    stamp: text that is saved with every checkpoint; at first that of the newest one, "" without.
  """

  def __init__(
    self,
    workdir: str | os.PathLike | None,
    name: str,
    manifest: Mapping[str, Json],
    writers: Sequence[logging.Writer] = (),
  ):
    if not name or name.startswith(".") or set(name) & set("/\\"):
      raise InputError("a run name that can name a folder", repr(name), "use letters, digits and -")
    self._manifest = dict(manifest)
    self._writers = tuple(writers)
    self.rows: list[logging.LogRow] = []
    self.step: int | None = None
    self.stamp = ""
    self._name = name
    self.path = None if workdir is None else pathlib.Path(workdir)
    self._checkpoints = self._writer = None
    if self.path is None:
      return
    self.path.mkdir(parents=True, exist_ok=True)
    self._checkpoints = Checkpoints(self.path / "checkpoints" / name)
    try:
      self.step = self._checkpoints.latest()
      self.stamp = self._checkpoints.stamp()
      file = self.path / logging.FILE
      done = self.step or 0
      if jax.process_index() == 0:  # one process writes; all save their part of a checkpoint
        self.rows = logging.truncate_rows(file, run=name, step=done)
        self._writer = logging.MetricsWriter(file, name)
      else:
        rows = logging.read_rows(file, run=name)
        self.rows = [row for row in rows if row["step"] <= done]
    except BaseException:
      self._checkpoints.close()
      raise

  def note_update(self, digest: Callable[[], str]) -> None:
    """Adds the update's digest to what checkpoints hold and are compared with."""
    if self._checkpoints is not None:
      self._manifest |= {"update": {"digest": digest(), "made_with": programs.made_with()}}

  def restore(self, template: RunState, *, allow_change: bool = False) -> RunState:
    """The newest checkpoint; `step` is not None. Raises InputError if it belongs to another run."""
    assert self._checkpoints is not None
    manifest = self._manifest
    return self._checkpoints.restore(template, manifest, allow_change=allow_change)[1]

  def has_row(self, step: int) -> bool:
    return bool(self.rows) and self.rows[-1]["step"] >= step

  def add(self, step: int, values: Mapping[str, float]) -> None:
    self.rows.append({"run": self._name, "step": step, **values})
    if self._writer is not None:
      self._writer.write(step, values)
    if jax.process_index() == 0:
      for writer in self._writers:
        writer.write(self._name, step, values)

  def save(self, step: int, carry: RunState, *, wait: bool = False) -> None:
    """Checkpoints `carry`, after the rows that lead to it are on the disk; once per step."""
    if self._checkpoints is None:
      return
    if self.step != step:
      if self._writer is not None:
        self._writer.sync()
      self._checkpoints.save(step, carry, self._manifest, stamp=self.stamp)
      self.step = step
    if wait:
      self._checkpoints.wait()

  def __enter__(self) -> "RunRecord":
    return self

  def __exit__(self, *_: object) -> None:
    if self._writer is not None:
      self._writer.close()
    if self._checkpoints is not None:
      self._checkpoints.close()
