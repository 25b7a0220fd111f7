"""The networks of `gramian_bench` in PyTorch: torchjd's engine beside plain gradients.

  python -m experiments.bench.torchjd_peer [BATCH] [ROUNDS]      needs torchjd 0.18 and torch

Rows: the plain gradient, the matrix of inner products by torchjd's engine, and from all gradients
by `torch.func.vmap`, of tasks one after the other; of tasks also the matrix and then the gradient
of a weighted sum. Ratios compare within PyTorch only; seconds of two frameworks differ by their
convolutions. Memory: how far a process that runs one row rises above one that has built everything
(resident set, Linux); the plain gradient's own rise stands beside it.

Prints one JSON object: network -> row -> {median_s, low_s, high_s, ratio, rise_MiB}.
"""

import importlib
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.bench.gramian_bench import CHANNELS, NUM_CLASSES, NUM_TASKS, WIDTHS, summary


def network(torch: Any, name: str) -> tuple[Any, tuple[int, ...]]:
  """A module and the shape of its image."""
  nn = torch.nn
  if name == "perceptron":
    sizes, layers = (784, *WIDTHS), [nn.Flatten()]
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
      layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10)), (1, 28, 28)
  layers, before = [], 3
  for width in CHANNELS:
    layers += [nn.Conv2d(before, width, 3, 2, 1), nn.Mish(), nn.GroupNorm(min(8, width), width)]
    before = width
  side = 32 // 2 ** len(CHANNELS)
  return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side**2, 10)), (3, 32, 32)


def rows(torch: Any, name: str, batch: int) -> dict[str, Callable[[], Any]]:
  """Functions without arguments, each the whole computation of a row."""
  if name == "tasks":
    return of_tasks(torch, batch)
  module, shape = network(torch, name)
  hooked, _ = network(torch, name)  # the engine leaves hooks in its module
  engine = importlib.import_module("torchjd.autogram").Engine(hooked, batch_dim=0)
  images, labels = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
  cost = torch.nn.functional.cross_entropy
  named = {key: value.detach() for key, value in module.named_parameters()}

  def plain() -> None:
    module.zero_grad()
    cost(module(images), labels).backward()

  def of_one(parameters: Any, image: Any, label: Any) -> Any:
    logits = torch.func.functional_call(module, parameters, (image[None],))
    return cost(logits, label[None])

  def formed() -> Any:
    each = torch.func.vmap(torch.func.grad(of_one), (None, 0, 0))(named, images, labels)
    return sum(g.flatten(1) @ g.flatten(1).T for g in each.values())

  def engined() -> Any:
    return engine.compute_gramian(cost(hooked(images), labels, reduction="none"))

  return {
    "plain gradient": plain,
    "gramian, torchjd": engined,
    "gramian, all gradients": formed,
  }


def of_tasks(torch: Any, batch: int) -> dict[str, Callable[[], Any]]:
  """`rows` of a trunk with a head a task: the matrix is that of the trunk's gradients."""
  nn, sizes = torch.nn, (784, *WIDTHS)

  def layers() -> list[Any]:
    pairs = zip(sizes[:-1], sizes[1:], strict=True)
    return [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.Tanh())]

  plain_trunk, hooked = (nn.Sequential(nn.Flatten(), *layers()) for _ in range(2))
  heads = nn.ModuleList([nn.Linear(sizes[-1], NUM_CLASSES) for _ in range(NUM_TASKS)])
  engine = importlib.import_module("torchjd.autogram").Engine(hooked, batch_dim=None)
  images = torch.randn(batch, 1, 28, 28)
  labels = torch.randint(0, NUM_CLASSES, (NUM_TASKS, batch))
  cost = torch.nn.functional.cross_entropy

  def costs(trunk: Any) -> Any:
    features = trunk(images)
    return torch.stack([cost(h(features), y) for h, y in zip(heads, labels, strict=True)])

  def cleared() -> None:
    for module in (plain_trunk, hooked, heads):
      module.zero_grad()

  def plain() -> None:
    cleared()
    costs(plain_trunk).sum().backward()

  def formed(has_sum: bool) -> Any:
    cleared()
    values, own = costs(plain_trunk), list(plain_trunk.parameters())
    each = [torch.autograd.grad(value, own, retain_graph=True) for value in values]
    flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in each])
    if has_sum:
      flat.mean(0)
      (values.sum() / NUM_TASKS).backward(inputs=list(heads.parameters()))
    return flat @ flat.T

  def engined(has_sum: bool) -> Any:
    cleared()
    values = costs(hooked)
    found = engine.compute_gramian(values)
    if has_sum:
      values.backward(torch.ones(NUM_TASKS) / NUM_TASKS)
    return found

  return {
    "plain gradient": plain,
    "gramian, torchjd": lambda: engined(False),
    "gramian, all gradients": lambda: formed(False),
    "gramian and weighted sum, torchjd": lambda: engined(True),
    "gramian and weighted sum, all gradients": lambda: formed(True),
  }


def rise_of(name: str, row: str, batch: int) -> float:
  """MiB by which this process grows when it runs a row once."""
  function = rows(importlib.import_module("torch"), name, batch)[row]
  before = _peak_mib()
  function()
  return _peak_mib() - before


def _peak_mib() -> float:
  """Highest resident set of this process so far; `resource` would count that of its parent."""
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(batch: int, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
  torch, found = importlib.import_module("torch"), {}
  for name in ("perceptron", "convolutions", "tasks"):
    torch.manual_seed(0)
    functions = rows(torch, name, batch)
    times: dict[str, list[float]] = {row: [] for row in functions}
    for repeat in range(-1, rounds):
      for row, function in functions.items():
        began = time.perf_counter()
        function()
        if repeat >= 0:
          times[row].append(time.perf_counter() - began)
    found[name] = {
      row: {**summary(own, times["plain gradient"]), "rise_MiB": alone(name, row, batch)}
      for row, own in times.items()
    }
  return found


def alone(name: str, row: str, batch: int) -> float:
  """`rise_of` in a process of its own."""
  command = [sys.executable, "-m", "experiments.bench.torchjd_peer", "rise", name, row, str(batch)]
  return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
  if sys.argv[1:2] == ["rise"]:
    print(rise_of(sys.argv[2], sys.argv[3], int(sys.argv[4])))
  else:
    size, count = [int(word) for word in [*sys.argv[1:], "64", "9"][:2]]
    print(json.dumps({"batch": size, "rounds": count, "networks": measured(size, count)}))
