"""The same ResNet9 in PyTorch: plain gradients beside Opacus, as a ratio in one process.

  python -m experiments.bench.opacus_peer [BATCH] [ROUNDS]        needs the extra `bench`

Prints one JSON object: row -> {median_s, low_s, high_s, ratio}. Ratios compare within PyTorch only;
seconds of two frameworks differ by their convolutions.
"""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def network(torch: Any) -> Any:
  """ResNet9 with scale normalisation, as `nets.ResNet9`."""
  nn = torch.nn

  def block(width_in: int, width: int) -> Any:
    return nn.Sequential(
      nn.Conv2d(width_in, width, 3, padding=1), nn.Mish(), nn.GroupNorm(32, width)
    )

  class Residual(nn.Module):
    def __init__(self, width: int):
      super().__init__()
      self.inner = nn.Sequential(block(width, width), block(width, width))
      self.norm = nn.GroupNorm(32, width)

    def forward(self, x: Any) -> Any:
      return self.norm(x + self.inner(x))

  pool = nn.MaxPool2d(2)
  return nn.Sequential(
    block(3, 64),
    block(64, 128),
    pool,
    Residual(128),
    block(128, 256),
    pool,
    block(256, 256),
    pool,
    Residual(256),
    pool,
    nn.Flatten(),
    nn.Linear(1024, 10),
  )


def rows(torch: Any, opacus: Any, batch: int) -> dict[str, Callable[[], None]]:
  """Each function computes one (clipped) gradient of the batch."""
  grad_sample = opacus.grad_sample
  images, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
  plain_model = network(torch)
  hooked = grad_sample.GradSampleModule(network(torch), loss_reduction="sum")
  ghost = grad_sample.GradSampleModuleFastGradientClipping(
    network(torch), max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="sum"
  )

  def loss(model: Any, reduction: str = "sum") -> Any:
    return torch.nn.functional.cross_entropy(model(images), labels, reduction=reduction)

  def plain() -> None:
    plain_model.zero_grad()
    loss(plain_model).backward()

  def hooks() -> None:
    hooked.zero_grad()
    loss(hooked).backward()
    grads = [p.grad_sample.flatten(1) for p in hooked.parameters()]
    factor = (1 / torch.stack([g.norm(dim=1) for g in grads]).norm(dim=0)).clamp(max=1)
    for g in grads:
      torch.einsum("b,bi->i", factor, g)
    for p in hooked.parameters():
      p.grad_sample = None

  def two_passes() -> None:
    ghost.zero_grad()
    values = loss(ghost, "none")
    values.sum().backward(retain_graph=True)
    factor = (1 / ghost.get_norm_sample()).clamp(max=1)
    ghost.zero_grad()
    ghost.disable_hooks()
    (factor * values).sum().backward()
    ghost.enable_hooks()

  return {"plain": plain, "opacus hooks": hooks, "opacus ghost": two_passes}


def main(batch: int = 64, rounds: int = 5) -> None:
  torch, opacus = map(importlib.import_module, ("torch", "opacus"))
  importlib.import_module("opacus.grad_sample")
  torch.manual_seed(0)
  functions = rows(torch, opacus, batch)
  times: dict[str, list[float]] = {name: [] for name in functions}
  for repeat in range(-1, rounds):
    for name, function in functions.items():
      began = time.perf_counter()
      function()
      if repeat >= 0:
        times[name].append(time.perf_counter() - began)
  report = {}
  for name, seconds in times.items():
    low, high = np.percentile(seconds, [10, 90])
    ratios = [a / b for a, b in zip(seconds, times["plain"], strict=True)]
    report[name] = {
      "median_s": statistics.median(seconds),
      "low_s": float(low),
      "high_s": float(high),
      "ratio": statistics.median(ratios),
    }
  versions = {"torch": torch.__version__, "opacus": opacus.__version__}
  print(json.dumps({"batch": batch, "rounds": rounds, "versions": versions, "rows": report}))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
