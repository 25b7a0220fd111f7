"""The groups of the benchmark: programs that are compared with the first of their group."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.bench import distance_bench
from experiments.throughput import (
  clipping_programs,
  core_programs,
  curriculum_programs,
  device_programs,
  explain_programs,
  gradient_programs,
  host_programs,
  method_programs,
  prompt_programs,
  round_programs,
  support_programs,
  transfer_programs,
)
from experiments.throughput.config import Config
from experiments.throughput.measuring import Program
from medjax import check


class Group(NamedTuple):
  """Programs that run in turn.

  Attributes:
    make: makes the programs and their arguments.
    voxels: of one example, 0 where an example is no image.
  """

  make: Callable[[], Sequence[Program]]
  voxels: int = 0


def groups(config: Config) -> dict[str, Group]:
  """Title -> group, in the order in which they run; a further method adds a row to one of them."""
  flat, volume = math.prod(config.shape), math.prod(config.volume)
  unet = (config.batch_size, config.shape, config.widths)
  plain = (config.widths, config.num_classes)
  found = {
    "Learn2Synth, 2D U-Net": Group(lambda: core_programs.learn2synth_programs(config), flat),
    "Methods, 2D U-Net": Group(lambda: method_programs.unet(*unet), flat),
    "Style curriculum, 2D U-Net": Group(
      lambda: curriculum_programs.unet(config.batch_size, config.shape), flat
    ),
    "Transfer and replay, 2D U-Net": Group(lambda: transfer_programs.unet(*unet), flat),
    "Federated rounds, 2D U-Net": Group(
      lambda: round_programs.unet(
        1, config.shape, config.widths, config.num_clients, config.blocks
      ),
      flat,
    ),
    "Clipping, ResNet9": Group(
      lambda: clipping_programs.resnet(config.images, config.chunks), 32 * 32
    ),
    "Clipping, 3D U-Net": Group(
      lambda: clipping_programs.unet(config.clipped_volumes, config.volume), volume
    ),
    "Products of gradients, small CNN": Group(
      lambda: gradient_programs.matrices(config.images), 32 * 32
    ),
    "Joining the gradients of tasks": Group(
      lambda: gradient_programs.rules(config.num_tasks, config.num_parameters)
    ),
    "Number types, 2D plain step": Group(
      lambda: device_programs.number_types(core_programs.images(config, config.shape), *plain),
      flat,
    ),
    "Number types, 3D plain step": Group(
      lambda: device_programs.number_types(core_programs.images(config, config.volume), *plain),
      volume,
    ),
    "3D U-Net training step": Group(lambda: core_programs.convolution_programs(config), volume),
    "Inner steps of a hypergradient": Group(
      lambda: device_programs.inner_steps(
        core_programs.images(config, config.shape), *plain, config.inner_steps
      ),
      flat,
    ),
    "Networks at once": Group(
      lambda: device_programs.runs_at_once(
        core_programs.images(config, config.shape), *plain, config.num_runs
      ),
      flat,
    ),
    "Promptable segmenter": Group(
      lambda: prompt_programs.segmenter(config.segmenter, config.batch_size, config.num_prompts)
    ),
    "Reading a support, CrossConv U-Net": Group(
      lambda: support_programs.pairs(config.shape, config.widths, config.num_pairs, (4, 16)), flat
    ),
    "Explanations, small CNN": Group(
      lambda: explain_programs.classifier(config.batch_size), 32 * 32
    ),
    "Synthesis, 2D, one image": Group(
      lambda: core_programs.synthesis_programs(config, config.synthesis_shape),
      math.prod(config.synthesis_shape),
    ),
    "Synthesis, 3D, one image": Group(
      lambda: core_programs.synthesis_programs(config, config.synthesis_volume),
      math.prod(config.synthesis_volume),
    ),
    "Min-plus product, one axis of a distance transform": Group(
      lambda: distance_bench.programs(config.synthesis_volume[0])
    ),
    "Distance transform": Group(lambda: device_programs.distances(config.synthesis_volume)),
    "Clicks and components": Group(lambda: device_programs.clicks(config.shape), flat),
    "Surface metrics, one case": Group(
      lambda: host_programs.surfaces(config.synthesis_volume), math.prod(config.synthesis_volume)
    ),
    "Inference, 3D U-Net": Group(
      lambda: host_programs.volumes(config.synthesis_volume, config.volume, config.widths)
    ),
    "Private noise": Group(lambda: device_programs.private_noise(config.noise_size)),
  }
  chosen = {t: g for t, g in found.items() if not config.only or t.startswith(config.only)}
  check.require(
    chosen, f"a group of {sorted(found)}", f"only={config.only}", "begin as a title does"
  )
  return chosen
