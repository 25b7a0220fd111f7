"""The plain step of a U-Net beside the same network in PyTorch, on CPUs, in one process.

  python -m experiments.bench.torch_step_peer [ROUNDS] [AXES,BATCH,SIDE ...]     wants extra `bench`

U-Net 16-32-64 without norms, leaky ReLU, four classes, cross-entropy, Adam, float32, two threads on
both sides. Rows: PyTorch's step in its own layout and with channels last, medjax's step, and
medjax's with XLA's own convolutions (`convolution="native"`). The rounds are interleaved; the first
one is not counted.

Prints one JSON object: "AXES,BATCH,SIDE" -> row -> {median_s, low_s, high_s, ratio, cpu_ratio,
first_s}; ratios are to PyTorch's own layout, of seconds and of processor time; first_s is the first
call of a medjax step, compilation included.
"""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench.gramian_bench import summary
from experiments.bench.origins import origin
from medjax import losses, methods, nets
from medjax.types import Key, Params

WIDTHS, NUM_CLASSES = (16, 32, 64), 4
SHAPES = ("2,2,128", "2,2,256", "3,4,32", "3,1,64")


def unet_in_torch(torch: Any, axes: int, activation: Any) -> tuple[Any, Callable[[Any], Any]]:
  """The U-Net as a module with its weights, and image -> logits by whatever weights it holds."""
  nn, functional = torch.nn, torch.nn.functional
  convolution = nn.Conv2d if axes == 2 else nn.Conv3d
  pool = functional.max_pool2d if axes == 2 else functional.max_pool3d
  mode = "bilinear" if axes == 2 else "trilinear"

  def block(before: int, after: int) -> Any:
    layers = [convolution(before, after, 3, padding=1), activation()]
    return nn.Sequential(*layers, convolution(after, after, 3, padding=1), activation())

  downs = nn.ModuleList([block(a, b) for a, b in zip((1, *WIDTHS), WIDTHS, strict=False)])
  ups = nn.ModuleList([block(a + b, a) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)])
  module = nn.ModuleList([downs, ups, convolution(WIDTHS[0], NUM_CLASSES, 1)])

  def logits(image: Any) -> Any:
    x, skips = image, []
    for level, down in enumerate(downs):
      x = down(pool(x, 2) if level else x)
      skips.append(x)
    for level in reversed(range(len(ups))):
      larger = functional.interpolate(x, scale_factor=2, mode=mode)
      x = ups[level](torch.cat([larger, skips[level]], 1))
    return module[2](x)

  return module, logits


def in_torch(torch: Any, axes: int, batch: int, side: int, last: bool) -> Callable[[], float]:
  """One step, forward, backward and Adam; gives the loss."""
  module, logits = unet_in_torch(torch, axes, torch.nn.LeakyReLU)
  image = torch.randn(batch, 1, *(side,) * axes)
  label = torch.randint(0, NUM_CLASSES, (batch, *(side,) * axes))
  if last:
    layout = torch.channels_last if axes == 2 else torch.channels_last_3d
    module, image = module.to(memory_format=layout), image.to(memory_format=layout)
  optimiser = torch.optim.Adam(module.parameters(), 1e-3)

  def step() -> float:
    optimiser.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits(image), label)
    loss.backward()
    optimiser.step()
    return loss.item()

  return step


def in_medjax(axes: int, batch: int, side: int, convolution: Any) -> Callable[[], float]:
  """The same through `methods.supervised`."""
  model = nets.from_linen(
    nets.UNet(num_outputs=NUM_CLASSES, widths=WIDTHS, norm="none", convolution=convolution)
  )
  random, space = np.random.default_rng(0), (batch, *(side,) * axes)
  image = jnp.asarray(random.normal(size=(*space, 1)), jnp.float32)
  label = jnp.asarray(random.integers(0, NUM_CLASSES, space), jnp.int32)
  held = {"image": image, "label": label, "index": jnp.arange(batch)}

  def loss_fn(params: Params, example: dict[str, jax.Array], key: Key) -> jax.Array:
    del key
    return losses.cross_entropy(model.apply(params, example["image"])[0], example["label"])

  params, _ = model.init(jax.random.key(0), image[0])
  step = methods.supervised(loss_fn, optax.adam(1e-3))
  state, update = step.init(params, jax.random.key(1)), jax.jit(step.update)

  def run() -> float:
    _, found = update(state, held, jax.random.key(2))
    return float(found["loss"])

  return run


def measured(rounds: int, shapes: list[str]) -> dict[str, Any]:
  torch = importlib.import_module("torch")
  torch.set_num_threads(2)
  report: dict[str, Any] = {}
  for shape in shapes:
    axes, batch, side = map(int, shape.split(","))
    steps = {
      "torch": in_torch(torch, axes, batch, side, False),
      "torch, channels last": in_torch(torch, axes, batch, side, True),
      "medjax": in_medjax(axes, batch, side, "auto"),
      "medjax, native convolution": in_medjax(axes, batch, side, "native"),
    }
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    busy: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(-1, rounds):
      for name, step in steps.items():
        began, used = time.perf_counter(), time.process_time()
        step()
        if repeat >= 0:
          seconds[name].append(time.perf_counter() - began)
          busy[name].append(time.process_time() - used)
        else:
          first[name] = time.perf_counter() - began
    report[shape] = {
      name: {
        **summary(seconds[name], seconds["torch"]),
        "cpu_ratio": statistics.median(busy[name]) / statistics.median(busy["torch"]),
        "first_s": first[name],
      }
      for name in steps
    }
  return report


def main(rounds: int, shapes: list[str]) -> None:
  head = origin("torch_step_peer", rounds, *shapes, peers=("torch",))
  record = head | {"rounds": rounds, "shapes": measured(rounds, shapes)}
  print(json.dumps(record, indent=1))


if __name__ == "__main__":
  words = sys.argv[1:]
  main(int(words[0]) if words else 15, words[1:] or list(SHAPES))
