"""What the samples of a curriculum do, apart from training: are they harder, and where?

The weights are held at those of the first phase; every rule starts from the same slices and styles
and goes through its updates. (In training, weights move in between, and losses with them.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lscl.training import RULES, Task
from medjax import rng, study
from medjax.data.streams.epochs import take
from medjax.synth.style_bank import StyleBank
from medjax.types import Batch, Params

_SLICES = 32


class Audit(NamedTuple):
  """One rule.

  Attributes:
    figures: "loss" and "coverage" (mean fusion weight) by update, "wrong_way": share of the pixels
      with a positive gradient in which the stylised image is the darker one, first sample.
    samples: [update, height, width] of one slice, first channel.
  """

  figures: dict[str, Any]
  samples: np.ndarray


def audit(task: Task, start: study.Trained, bank: StyleBank) -> dict[str, Audit]:
  """Every curriculum among the arms, by name; on training slices of the first turn."""
  config, turn = task.config, task.setting.turns[0]
  has_structures = (turn.train.label > 0).any((1, 2))
  rows = np.flatnonzero(has_structures) if has_structures.any() else np.arange(len(has_structures))
  kept = rows[np.linspace(0, len(rows) - 1, min(_SLICES, len(rows))).round().astype(int)]
  batch = take(turn.train, kept)
  key = jax.random.key(0)
  keys = rng.example_keys(rng.stream(key, "adversary"), batch)

  @jax.jit
  def losses(params: Params, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    def mean(images: jax.Array) -> jax.Array:
      one = lambda image, label: task.loss(task.logits(params, image), label)  # noqa: E731
      return jax.vmap(one)(images, labels).mean()

    return jax.value_and_grad(mean)(images)

  example: Batch = jax.tree.map(jnp.asarray, batch)
  audits = {}
  for arm in (arm for arm in config.arms if arm in RULES):
    adversary = RULES[arm](config, bank)
    begin, look, project, describe = (
      jax.jit(jax.vmap(function))
      for function in (
        adversary.parameters,
        adversary.render,
        adversary.project,
        adversary.describe,
      )
    )
    a = begin(keys, example)
    found: dict[str, list[float]] = {"loss": [], "coverage": [], "wrong_way": []}
    samples = []
    for number in range(config.num_updates):
      images = look(a, example)
      loss, gradient = losses(start.params, images, example.label)
      described = describe(a, gradient, example)
      found["loss"].append(float(loss))
      found["coverage"].append(float(described["fusion_weight"].mean()))
      found["wrong_way"].append(float(described["wrong_way"].mean()))
      samples.append(np.asarray(images)[len(kept) // 2, ..., 0])
      if number + 1 < config.num_updates:
        ascent = rng.example_keys(jax.random.fold_in(key, number), example)
        a = project(a, gradient, example, ascent)
    audits[arm] = Audit({**found, "wrong_way": found["wrong_way"][0]}, np.stack(samples))
  return audits
