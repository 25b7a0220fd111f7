"""What a step costs here: time, compile time, flops and memory, as ratios to a plain step.

  python -m experiments.throughput demo          small shapes, about 3 minutes on 2 CPU cores
  python -m experiments.throughput evidence      the shapes of the record, about 8 minutes
  python -m experiments.throughput device        the shapes of an accelerator, for its record; it is
                                                 planned for 8 minutes and has run on a CPU alone

All programs of a group run interleaved in one process, warm; times are medians with the 10th and
90th percentile. Ratios are medians over rounds of (this program / the group's first), which cancels
what a shared machine does to both. Floors come from counting convolutions: a plain step is three
passes (forward, input, weights), a hypergradient step ten, so 10/3 of a plain step and 10/6 of a
plain step plus a forward and backward pass on real images. A clipped sum has the three passes of a
plain gradient.

results.json holds what is exact, by row: flops, temporary_bytes. timing.json holds the times:
median_s, low_s, high_s, ratio (to the first row), ratio_to_second, compile_s, examples_per_s.
record.json holds both with device, versions and commit: the file to keep. A further method adds a
row to `groups`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bench import distance_bench
from experiments.throughput import (
  clipping_programs,
  curriculum_programs,
  device_programs,
  support_programs,
  transfer_programs,
)
from experiments.throughput.measuring import Program, measure
from medjax import check, cli, data, grads, losses, nets, synth
from medjax.ops import conv
from medjax.train.report import Report


@dataclasses.dataclass(frozen=True)
class Config:
  """Shapes and repetitions of the benchmark.

  Attributes:
    shape: voxels per axis of the 2D steps.
    volume: voxels per axis of the 3D steps.
    synthesis_shape: voxels per axis of 2D synthesis.
    synthesis_volume: voxels per axis of 3D synthesis.
    batch_size: examples a step.
    num_classes: classes, background included.
    widths: channels of the U-Nets' levels.
    images: 32 x 32 x 3 images of the clipped sums.
    chunks: examples worked on together, as many as are tried; plain gradients too.
    clipped_volumes: 3D examples of the clipped sums.
    inner_steps: numbers K of inner steps of the hypergradients.
    num_runs: networks that are trained at once.
    noise_size: numbers of a private release.
    num_pairs: query and support pairs of a call of the network that reads a support.
    num_rounds: timed rounds; every program runs once a round.
    only: run the groups whose title begins with one of these words; all if there are none.
  """

  shape: tuple[int, int] = (64, 64)
  volume: tuple[int, int, int] = (16, 16, 16)
  synthesis_shape: tuple[int, int] = (128, 128)
  synthesis_volume: tuple[int, int, int] = (32, 32, 32)
  batch_size: int = 4
  num_classes: int = 6
  widths: tuple[int, ...] = (16, 32, 64)
  images: int = 8
  chunks: tuple[int, ...] = (8, 4)
  clipped_volumes: int = 4
  inner_steps: tuple[int, ...] = (1,)
  num_runs: int = 2
  noise_size: int = 100_000
  num_pairs: int = 16
  num_rounds: int = 15
  only: tuple[str, ...] = ()


PRESETS = {
  "demo": Config(),
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
    num_rounds=20,
  ),
}


def groups(config: Config) -> dict[str, Sequence[Program]]:
  """Programs that are compared with the first of their group."""
  makers: dict[str, Callable[[], Sequence[Program]]] = {
    "Learn2Synth, 2D U-Net": lambda: learn2synth_programs(config),
    "Style curriculum, 2D U-Net": lambda: curriculum_programs.unet(config.batch_size, config.shape),
    "Transfer and replay, 2D U-Net": lambda: transfer_programs.unet(
      config.batch_size, config.shape, config.widths
    ),
    "Reading a support, CrossConv U-Net": lambda: support_programs.pairs(
      config.shape, config.widths, config.num_pairs, (4, 16)
    ),
    "Clipping, ResNet9": lambda: clipping_programs.resnet(config.images, config.chunks),
    "Clipping, 3D U-Net": lambda: clipping_programs.unet(config.clipped_volumes, config.volume),
    "Min-plus product, one axis of a distance transform": lambda: distance_bench.programs(
      config.synthesis_volume[0]
    ),
    "3D U-Net training step": lambda: convolution_programs(config),
    "Synthesis, 2D, one image": lambda: synthesis_programs(config, config.synthesis_shape),
    "Synthesis, 3D, one image": lambda: synthesis_programs(config, config.synthesis_volume),
    "Number types, 2D plain step": lambda: device_programs.number_types(
      _images(config, config.shape), config.widths, config.num_classes
    ),
    "Number types, 3D plain step": lambda: device_programs.number_types(
      _images(config, config.volume), config.widths, config.num_classes
    ),
    "Inner steps of a hypergradient": lambda: device_programs.inner_steps(
      _images(config, config.shape), config.widths, config.num_classes, config.inner_steps
    ),
    "Networks at once": lambda: device_programs.runs_at_once(
      _images(config, config.shape), config.widths, config.num_classes, config.num_runs
    ),
    "Private noise": lambda: device_programs.private_noise(config.noise_size),
    "Distance transform": lambda: device_programs.distances(config.synthesis_volume),
  }
  chosen = {t: make() for t, make in makers.items() if not config.only or t.startswith(config.only)}
  check.require(
    chosen, f"a group of {sorted(makers)}", f"only={config.only}", "begin as a title does"
  )
  return chosen


def learn2synth_programs(config: Config) -> list[Program]:
  """Plain step, plain step plus a real forward and backward pass, hypergradient step; warm Adam."""
  model = nets.from_linen(
    nets.UNet(config.num_classes, config.widths, norm="none", activation="elu")
  )
  augmentation = synth.ParametricAugmentation()
  theta = augmentation.init(sigma=0.05)
  image, label = _images(config, config.shape)
  tx = optax.adam(1e-3)

  def inner(params, theta, example, key):
    augmented = augmentation(theta, key, example[0])
    return losses.soft_dice(model.apply(params, augmented)[0], example[1])

  def outer(params, example, key):
    del key
    return losses.soft_dice(model.apply(params, example[0])[0], example[1])

  def plain(params, state, batch, key):
    value, gradient = jax.value_and_grad(
      lambda p: grads.batch_mean(lambda e, k: inner(p, theta, e, k), batch, key)
    )(params)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value

  def plain_and_real(params, state, batch, key):
    params, state, value = plain(params, state, batch, key)
    real = jax.value_and_grad(lambda p: grads.batch_mean(lambda e, k: outer(p, e, k), batch, key))(
      params
    )
    return params, state, value, real

  compute = grads.hypergradient(inner, outer, tx)

  def hypergradient(params, state, batch, key):
    return compute(theta, params, state, jax.tree.map(lambda x: x[None], batch), batch, key)

  key = jax.random.key(0)
  params, _ = model.init(key, image[0])
  state = tx.init(params)
  warm = jax.jit(plain)
  for step in range(3):
    params, state, _ = warm(params, state, (image, label), jax.random.fold_in(key, step))
  args = (params, state, (image, label), key)
  size = config.batch_size
  return [
    Program("plain step", plain, args, size),
    Program("plain step + real forward and backward", plain_and_real, args, size, 2.0),
    Program("hypergradient step", hypergradient, args, size, 10 / 3),
  ]


def convolution_programs(config: Config) -> list[Program]:
  """The same 3D U-Net step on the backend's own convolution and on the one medjax chooses."""
  image, label = _images(config, config.volume)
  tx = optax.adam(1e-3)

  def program(name: str, implementation: conv.Implementation) -> Program:
    net = nets.UNet(
      config.num_classes, config.widths, norm="none", activation="elu", convolution=implementation
    )
    model = nets.from_linen(net)
    params, _ = model.init(jax.random.key(0), image[0])

    def step(params, state, image, label):
      def loss(p):
        return jax.vmap(lambda x, y: losses.soft_dice(model.apply(p, x)[0], y))(image, label).mean()

      updates, state = tx.update(jax.grad(loss)(params), state, params)
      return optax.apply_updates(params, updates), state

    return Program(name, step, (params, tx.init(params), image, label), config.batch_size)

  return [program("native convolution", "native"), program("medjax.ops.conv", "auto")]


def synthesis_programs(config: Config, shape: tuple[int, ...]) -> list[Program]:
  """Both published generators on a procedural anatomy, from a key and a label map."""
  label = jnp.asarray(data.ProceduralAnatomy(1, shape, config.num_classes, seed=0)[0].label)
  table = synth.identity(config.num_classes)
  generators = {
    "SynthSeg": synth.synthseg(table),
    "Learn2Synth base": synth.learn2synth_base(table),
  }
  return [
    Program(
      name,
      lambda key, label, g=generator: synth.generate(g, key, label),
      (jax.random.key(0), label),
      1,
    )
    for name, generator in generators.items()
  ]


def build(config: Config, options: cli.RunOptions) -> None:
  with options.directory(config) as directory:
    if directory.finished:
      return
    report = Report("What a step costs", f"Measured on {jax.devices()[0].device_kind}.")
    results, timing = {}, {}
    for group, programs in groups(config).items():
      measured = measure(programs, config.num_rounds)
      rows = []
      for program in programs:
        m = measured[program.name]
        low, median, high = np.percentile(m.times, [10, 50, 90])
        ratio = float(np.median(m.ratios))
        second = measured[programs[1].name].times
        ratio_to_second = float(np.median(m.times / second))
        results[f"{group}: {program.name}"] = {
          "flops": m.flops,
          "temporary_bytes": m.temporary_bytes,
        }
        timing[f"{group}: {program.name}"] = {
          "median_s": median,
          "low_s": low,
          "high_s": high,
          "ratio": ratio,
          "ratio_to_second": ratio_to_second,
          "compile_s": m.compile_s,
          "examples_per_s": program.num_examples / median,
        }
        flops_ratio = m.flops / measured[programs[0].name].flops
        rows.append(
          [
            program.name,
            1e3 * median,
            f"{1e3 * low:.1f} to {1e3 * high:.1f}",
            ratio,
            program.floor,
            ratio_to_second,
            flops_ratio,
            m.temporary_bytes / 2**20,
            program.num_examples / median,
            m.compile_s,
          ]
        )
        print(
          f"{group}: {program.name}: {1e3 * median:.2f} ms, {ratio:.2f}x"
          f" ({ratio_to_second:.2f}x of row 2), flops {flops_ratio:.2f}x,"
          f" {m.temporary_bytes / 2**20:.1f} MiB, {program.num_examples / median:.1f} examples/s",
          flush=True,
        )
      report.section(group).table(
        [
          "program",
          "ms",
          "10-90 %",
          "ratio",
          "floor",
          "to row 2",
          "flops",
          "MiB",
          "examples/s",
          "compile s",
        ],
        rows,
        "Ratios are to the first row unless the column says otherwise; flops as XLA counts them;"
        " MiB of temporary memory.",
      )
    directory.write_json("timing", timing)
    report.write(directory.path / "report.html")
    about = {name: directory.config[name] for name in ("versions", "commit", "devices")}
    directory.write_json("record", {**about, "results": results, "timing": timing})
    directory.write_json("results", results)


def _images(config: Config, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """A batch of procedural images [batch, *shape, 1] and labels."""
  source = data.ProceduralAnatomy(
    config.batch_size, shape, config.num_classes, seed=0, with_image=True
  )
  batch = data.stack(source)
  return jnp.asarray(batch.image), jnp.asarray(batch.label)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
