"""Writers for TensorBoard and Weights & Biases; each needs the extra of its name.

  fit(..., writers=[writers.tensorboard("runs/demo/tensorboard")])

Rows are sent as they come. After a restart the rows since the last checkpoint are sent once more,
with equal values on CPU: metrics.jsonl is the record, these are windows on it.
"""

import importlib
import math
import os
from collections.abc import Mapping
from typing import Any

from medjax.check import InputError
from medjax.train.logging import Writer
from medjax.types import Json


def tensorboard(directory: str | os.PathLike) -> Writer:
  """Event files under `directory`, one folder a run; extra `medjax[tensorboard]`.

  Raises:
    InputError: tensorboardX is not installed.
  """
  return _TensorBoard(_library("tensorboardX", "tensorboard"), os.fspath(directory))


def wandb(
  project: str, *, group: str | None = None, config: Mapping[str, Json] | None = None
) -> Writer:
  """Runs of a Weights & Biases project; extra `medjax[wandb]`.

  Its own environment variables hold (WANDB_MODE=offline, WANDB_DIR, WANDB_ENTITY).

  Args:
    project: name of the project.
    group: name that gathers the runs of one directory.
    config: settings shown beside the curves.
  Raises:
    InputError: wandb is not installed.
  """
  return _Wandb(_library("wandb", "wandb"), project, group, dict(config or {}))


class _TensorBoard:
  def __init__(self, library: Any, directory: str):
    self._library, self._directory = library, directory
    self._runs: dict[str, Json] = {}

  def write(self, run: str, step: int, values: Mapping[str, Json]) -> None:
    if run not in self._runs:
      folder = os.path.join(self._directory, run)
      self._runs[run] = self._library.SummaryWriter(folder, write_to_disk=True)
    for name, value in values.items():
      if not math.isnan(value):
        self._runs[run].add_scalar(name, value, step)
    self._runs[run].flush()

  def close(self) -> None:
    for writer in self._runs.values():
      writer.close()


class _Wandb:
  def __init__(self, library: Any, project: str, group: str | None, config: dict[str, Json]):
    self._library, self._options = library, {"project": project, "group": group, "config": config}
    self._name, self._run = "", None

  def write(self, run: str, step: int, values: Mapping[str, Json]) -> None:
    if run != self._name:
      self.close()
      self._name, self._run = run, self._library.init(name=run, **self._options)
    assert self._run is not None
    self._run.log({name: value for name, value in values.items() if not math.isnan(value)}, step)

  def close(self) -> None:
    if self._run is not None:
      self._run.finish()
      self._name, self._run = "", None


def _library(name: str, extra: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise InputError(
      f"the library {name}", "none installed", f"pip install 'medjax[{extra}]'"
    ) from error
