"""What an arm of the replay study keeps of the centres that are over, and what it takes of it."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ms_replay.bench import Bench, Split
from experiments.ms_replay.config import Arm
from experiments.ms_replay.jobs import Stage
from medjax.data.streams import memory as memories
from medjax.data.streams.replay import Drawn
from medjax.methods.ewc import Anchor, merged_anchors
from medjax.types import Params

_PROBES = 8  # patches a case whose gradients or outputs speak for it


@dataclasses.dataclass
class Past:
  """What one course keeps of earlier centres, according to its arm."""

  memory: memories.Memory
  reservoir: memories.Reservoir
  order: tuple[str, ...] = ()
  anchor: Anchor | None = None
  teacher: Params = None
  outputs: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)


def remember(
  bench: Bench,
  arm: Arm,
  past: Past,
  stage: Stage,
  centre: str,
  split: Split,
  seed: int,
) -> None:
  """Keeps of a centre that is over what the arm needs of it."""
  config, rows = bench.config, split[centre]["train"]
  past.order = (*past.order, centre)
  if arm == "replay-reservoir":
    past.reservoir = past.reservoir.offer(rows)
  elif arm == "lwf":
    past.teacher = stage.params
  elif arm == "ewc":
    found = [
      bench.fisher(stage.params, probes, jax.random.key(seed))
      for probes in _probes(bench, rows, seed, centre)
    ]
    mean = jax.tree.map(lambda *f: sum(f) / len(f), *(one.fisher for one in found))
    past.anchor = merged_anchors(past.anchor, Anchor(stage.params, mean))
  elif arm not in ("fine-tuning", "replay-redrawn", "replay-synthetic"):
    places = memories.random(len(rows), config.memory, seed, name=centre)
    if arm == "replay-herding":
      features = [
        np.asarray(bench.features(stage.params, probes["image"])).mean(0)
        for probes in _probes(bench, rows, seed, centre)
      ]
      places = memories.herding(np.stack(features), config.memory)
    elif arm == "replay-diverse":
      keys = jax.random.key(seed), jax.random.key(0)
      sketches = [
        np.asarray(bench.sketches(stage.params, probes, *keys)).mean(0)
        for probes in _probes(bench, rows, seed, centre)
      ]
      places = memories.diverse(np.stack(sketches), config.memory)
    kept = [rows[i] for i in places]
    past.memory = past.memory.store(centre, kept)
    if arm == "der++":
      past.outputs |= {row: bench.stored_output(stage.params, row) for row in kept}


def remembered_by(bench: Bench, arm: Arm, past: Past, split: Split, seed: int, k: int) -> list[int]:
  """Volumes of the past that the training at the k-th centre may draw."""
  if arm in ("fine-tuning", "ewc", "lwf"):
    return []
  if arm == "replay-synthetic":
    return list(bench.setting.synthetic)
  if arm == "replay-redrawn":
    cases = {c: split[c]["train"] for c in past.order}
    return list(memories.redrawn(cases, bench.config.memory, seed, k))
  if arm == "replay-reservoir":
    return list(past.reservoir.items)
  return list(past.memory.indices)


def stored_outputs(bench: Bench, past: Past) -> tuple[Any, np.ndarray]:
  """Outputs of the remembered volumes, and where each volume's lie."""
  slots = np.zeros(len(bench.setting.subjects), np.int64)
  for slot, row in enumerate(past.outputs):
    slots[row] = slot
  return jnp.asarray(np.stack(list(past.outputs.values()))), slots


def _probes(bench: Bench, rows: Sequence[int], seed: int, name: str) -> Iterator[dict[str, Any]]:
  """`_PROBES` patches of each case, one case after the other."""

  def drawn(step: int) -> Drawn:
    chosen = np.full(_PROBES, rows[step], np.int32)
    return Drawn(chosen, np.ones(_PROBES, np.float32), np.zeros(_PROBES, bool))

  stream = bench.patches(drawn, seed, f"{name} probes", per_volume=1)
  for step in range(len(rows)):
    batch = stream(step)
    yield {k: batch[k] for k in ("image", "label", "index", "draw", "weight")}
