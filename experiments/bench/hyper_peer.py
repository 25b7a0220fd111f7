"""Hypergradients through K Adam steps of a U-Net beside TorchOpt's, on CPUs, in one process.

  python -m experiments.bench.hyper_peer [ROUNDS] [SIDE] [K ...]      wants extra `bench`

U-Net 16-32-64 without norms, ELU, four classes, cross-entropy, 4 images of SIDE x SIDE, Adam,
float32, two threads on both sides. theta is a gain and a noise level of the inner images. TorchOpt
0.7 unrolls its differentiable Adam and keeps the graph of all steps; `grads.hypergradient` pushes
tangents forward over one reverse pass a step, with the moments' share (`carry="full"`), so that
both give the whole derivative. The first round, which compiles, is not counted.

Prints one JSON object. steps: K -> row -> {median_s, low_s, high_s, ratio, cpu_ratio}, ratios to
TorchOpt, of seconds and of processor time. Each K is told on the error stream as it is done.
"""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.gramian_bench import summary
from experiments.bench.origins import origin
from experiments.bench.torch_step_peer import NUM_CLASSES, WIDTHS, unet_in_torch
from medjax import grads, losses, nets
from medjax.types import Key, Params

STEPS, BATCH, RATE, ROOT = (1, 4, 16), 4, 1e-3, 1e-8
THETA = (1.0, 0.1)  # gain and noise level
Call = Callable[[], np.ndarray]


def pictures(side: int) -> dict[str, np.ndarray]:
  """Inner and outer images, labels and noise, channels last."""
  random = np.random.default_rng(0)
  space = (BATCH, side, side)
  made = {name: random.normal(size=(*space, 1)) for name in ("inner", "noise", "outer")}
  labels = {name: random.integers(0, NUM_CLASSES, space) for name in ("label", "outer_label")}
  return {name: x.astype(np.float32) for name, x in made.items()} | labels


def in_torchopt(torch: Any, torchopt: Any, own: dict[str, np.ndarray], steps: int) -> Call:
  module, logits = unet_in_torch(torch, 2, torch.nn.ELU)
  optimiser = torchopt.MetaAdam(module, lr=RATE, eps_root=ROOT)
  first = tuple(torchopt.extract_state_dict(x, by="copy") for x in (module, optimiser))
  tensors = {name: torch.from_numpy(x) for name, x in own.items()}
  moved = {name: x.permute(0, 3, 1, 2) for name, x in tensors.items() if x.ndim == 4}
  entropy = torch.nn.functional.cross_entropy

  def call() -> np.ndarray:
    for kept, one in zip(first, (module, optimiser), strict=True):
      torchopt.recover_state_dict(one, kept)
    theta = torch.tensor(THETA, requires_grad=True)
    for _ in range(steps):
      seen = theta[0] * moved["inner"] + theta[1] * moved["noise"]
      optimiser.step(entropy(logits(seen), tensors["label"]))
    outer = entropy(logits(moved["outer"]), tensors["outer_label"])
    return torch.autograd.grad(outer, theta)[0].numpy()

  return call


def in_medjax(own: dict[str, np.ndarray], steps: int) -> Call:
  net = nets.UNet(num_outputs=NUM_CLASSES, widths=WIDTHS, norm="none", activation="elu")
  model = nets.from_linen(net)

  def inner(params: Params, theta: jax.Array, example: Any, key: Key) -> jax.Array:
    del key
    seen = theta[0] * example["inner"] + theta[1] * example["noise"]
    return losses.cross_entropy(model.apply(params, seen)[0], example["label"])

  def outer(params: Params, example: Any, key: Key) -> jax.Array:
    del key
    return losses.cross_entropy(model.apply(params, example["outer"])[0], example["outer_label"])

  tx, arrays = optax.adam(RATE, eps_root=ROOT), jax.tree.map(jnp.asarray, own)
  params, _ = model.init(jax.random.key(0), arrays["inner"][0])
  batches = jax.tree.map(lambda x: jnp.stack([x] * steps), arrays)
  compute = jax.jit(grads.hypergradient(inner, outer, tx, steps=steps, carry="full"))

  def call() -> np.ndarray:
    found = compute(jnp.array(THETA), params, tx.init(params), batches, arrays, jax.random.key(0))
    return np.asarray(found.grad)

  return call


def measured(rounds: int, side: int, counts: Sequence[int]) -> dict[str, Any]:
  torch, torchopt = (importlib.import_module(name) for name in ("torch", "torchopt"))
  torch.set_num_threads(2)
  own, report = pictures(side), {}
  for steps in counts:
    calls = {"TorchOpt": in_torchopt(torch, torchopt, own, steps), "medjax": in_medjax(own, steps)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    busy: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(-1, rounds):
      for name, call in calls.items():
        began, used = time.perf_counter(), time.process_time()
        found = call()
        if not np.isfinite(found).all():
          raise FloatingPointError(f"{name}, {steps} steps: {found}")
        if repeat >= 0:
          seconds[name].append(time.perf_counter() - began)
          busy[name].append(time.process_time() - used)
    report[str(steps)] = {
      name: {
        **summary(seconds[name], seconds["TorchOpt"]),
        "cpu_ratio": statistics.median(busy[name]) / statistics.median(busy["TorchOpt"]),
      }
      for name in calls
    }
    print(f"{steps}: {report[str(steps)]}", file=sys.stderr, flush=True)
  return report


def main(rounds: int, side: int, counts: Sequence[int]) -> None:
  head = origin("hyper_peer", rounds, side, *counts, peers=("torch", "torchopt"))
  record = head | {"rounds": rounds, "steps": measured(rounds, side, counts)}
  print(json.dumps(record, indent=1))


if __name__ == "__main__":
  words = [int(word) for word in sys.argv[1:]]
  main(words[0] if words else 5, words[1] if len(words) > 1 else 64, words[2:] or STEPS)
