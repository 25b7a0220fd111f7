"""Shapes and repetitions of the benchmark, and its presets."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Config:
  shape: tuple[int, int] = (64, 64)
  """Pixels per axis of the 2D steps."""
  volume: tuple[int, int, int] = (16, 16, 16)
  """Voxels per axis of the 3D steps, and of a window of inference."""
  synthesis_shape: tuple[int, int] = (128, 128)
  """Pixels per axis of 2D synthesis."""
  synthesis_volume: tuple[int, int, int] = (32, 32, 32)
  """Voxels per axis of 3D synthesis, of distances, and of the volume that is predicted."""
  batch_size: int = 4
  """Examples a step."""
  num_classes: int = 6
  """Classes, background included."""
  widths: tuple[int, ...] = (16, 32, 64)
  """Channels of the U-Nets' levels."""
  images: int = 8
  """32 x 32 images of the clipped sums and of the matrices of products."""
  chunks: tuple[int, ...] = (8, 4)
  """Examples of a clipped sum that are worked on together, as many as are tried."""
  clipped_volumes: int = 4
  """3D examples of the clipped sums."""
  inner_steps: tuple[int, ...] = (1,)
  """Numbers K of inner steps of the hypergradients."""
  num_runs: int = 2
  """Networks that are trained at once."""
  noise_size: int = 100_000
  """Numbers of a private release."""
  num_pairs: int = 16
  """Query and support pairs of a call of the network that reads a support."""
  num_clients: int = 16
  """Clients of a federated round."""
  blocks: tuple[int, ...] = (1, 4, 16)
  """Clients that are worked on together, as many as are tried."""
  num_tasks: int = 8
  """Tasks whose gradients are joined."""
  num_parameters: int = 1_000_000
  """Numbers in the gradient of a task."""
  segmenter: str = "mini"
  """Promptable segmenter: mini, or lite_medsam with random weights."""
  num_prompts: int = 16
  """Prompts on one embedding."""
  num_rounds: int = 15
  """Timed rounds; every program of a group runs once a round."""
  only: tuple[str, ...] = ()
  """Run the groups whose title begins with one of these words; all if there are none."""
  minutes: float = 0.0
  """Start no further group after so many minutes, and name those left out; 0 runs all."""
  cached: bool = True
  """Measure the first call a second time, with compiled programs on the disk."""
  compare: pathlib.Path | None = None
  """A record.json: rows that are slower beyond the spread, or larger, end the command with 1."""
  profile: bool = False
  """Write a trace of one round of each group to trace/."""


PRESETS = {
  "demo": Config(num_rounds=5, minutes=4.0, cached=False),
  "evidence": Config(
    shape=(128, 128),
    volume=(32, 32, 32),
    synthesis_shape=(256, 256),
    synthesis_volume=(128, 128, 128),
    images=64,
    chunks=(64, 8, 4, 2),
    clipped_volumes=8,
    noise_size=1_000_000,
    num_pairs=64,
    num_rounds=25,
  ),
  "rooms": Config(num_rounds=9, cached=False),
  "device": Config(
    shape=(256, 256),
    volume=(64, 64, 64),
    synthesis_shape=(256, 256),
    synthesis_volume=(128, 128, 128),
    batch_size=16,
    widths=(32, 64, 128),
    images=512,
    chunks=(512, 64),
    inner_steps=(1, 16),
    num_runs=8,
    noise_size=100_000_000,
    num_pairs=1024,
    num_parameters=10_000_000,
    segmenter="lite_medsam",
    num_rounds=20,
    minutes=7.0,
    cached=False,
  ),
}
