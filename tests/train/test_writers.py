"""TensorBoard and wandb receive the rows; event files are read back record by record."""

import importlib
import math
import struct
import types

import pytest

from medjax.check import InputError
from medjax.train import Writer, writers


def scalars(path):
  """(step, tag, value) of an event file: records of length, crc, protocol buffer, crc."""
  event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
  data, found = path.read_bytes(), []
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    event = event_pb2.Event.FromString(data[12 : 12 + length])
    found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    data = data[16 + length :]
  return found


def test_tensorboard_holds_the_numbers_by_run(tmp_path):
  pytest.importorskip("tensorboardX")
  writer = writers.tensorboard(tmp_path)
  assert isinstance(writer, Writer)
  writer.write("fold0", 10, {"loss": 0.5, "validation/dice": math.nan})
  writer.write("fold1", 20, {"loss": 0.25})
  writer.close()
  (first,) = (tmp_path / "fold0").iterdir()
  (second,) = (tmp_path / "fold1").iterdir()
  assert scalars(first) == [(10, "loss", 0.5)]
  assert scalars(second) == [(20, "loss", 0.25)]


def test_wandb_gets_one_run_after_the_other(monkeypatch):
  calls = []

  def start(**options):
    calls.append(("init", options["name"], options["project"]))
    log = lambda values, step: calls.append(("log", step, values))  # noqa: E731
    return types.SimpleNamespace(log=log, finish=lambda: calls.append(("finish",)))

  monkeypatch.setitem(importlib.sys.modules, "wandb", types.SimpleNamespace(init=start))
  writer = writers.wandb("hippocampus")
  writer.write("fold0", 10, {"loss": 0.5})
  writer.write("fold0", 20, {"loss": math.nan, "dice": 1.0})
  writer.write("fold1", 10, {"loss": 0.5})
  writer.close()
  assert calls == [
    ("init", "fold0", "hippocampus"),
    ("log", 10, {"loss": 0.5}),
    ("log", 20, {"dice": 1.0}),
    ("finish",),
    ("init", "fold1", "hippocampus"),
    ("log", 10, {"loss": 0.5}),
    ("finish",),
  ]


def test_a_missing_library_names_its_extra(monkeypatch):
  monkeypatch.setitem(importlib.sys.modules, "wandb", None)
  with pytest.raises(InputError, match=r"pip install 'medjax\[wandb\]'"):
    writers.wandb("hippocampus")
