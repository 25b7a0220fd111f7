"""Streams of batches as functions of (seed, step), and the memories that replay feeds on."""

from medjax.data.streams.by_class import class_batches
from medjax.data.streams.cut import cut
from medjax.data.streams.epochs import batches, load_cases, sequential, stack, take, zip_streams
from medjax.data.streams.memory import Memory, Reservoir
from medjax.data.streams.mixture import mix, mmtl_paper, mmtl_released, pooled, rows
from medjax.data.streams.patches import patches
from medjax.data.streams.reading import ahead, read_batches
from medjax.data.streams.replay import replayed
from medjax.data.streams.resampled import resampled
from medjax.data.streams.support import (
  SupportTask,
  TaskFamily,
  by_family,
  by_map,
  by_task,
  support_problems,
)
from medjax.data.streams.volume_pool import cut_patches, volume_pool

__all__ = [
  "Memory",
  "Reservoir",
  "SupportTask",
  "TaskFamily",
  "ahead",
  "batches",
  "by_family",
  "by_map",
  "by_task",
  "cut",
  "class_batches",
  "cut_patches",
  "load_cases",
  "mix",
  "mmtl_paper",
  "mmtl_released",
  "patches",
  "pooled",
  "read_batches",
  "replayed",
  "resampled",
  "rows",
  "sequential",
  "stack",
  "support_problems",
  "take",
  "volume_pool",
  "zip_streams",
]
