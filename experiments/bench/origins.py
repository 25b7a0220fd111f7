"""Where a figure of a bench beside a peer comes from: the head of the object that it prints."""

import importlib

import jax
import numpy as np

from medjax.train.rundir import checkout_commit


def origin(bench: str, *arguments: object, peers: tuple[str, ...] = ()) -> dict[str, object]:
  """What a record opens with: command, commit, versions and device.

  Args:
    bench: name of the module in this folder.
    arguments: of its command line.
    peers: packages that are measured beside medjax, which are imported for their versions.
  """
  packages = {name: importlib.import_module(name) for name in peers} | {"jax": jax, "numpy": np}
  return {
    "command": " ".join([f"python -m experiments.bench.{bench}", *map(str, arguments)]),
    "commit": checkout_commit(),
    "versions": {name: package.__version__ for name, package in packages.items()},
    "device": str(jax.devices()[0]),
  }
