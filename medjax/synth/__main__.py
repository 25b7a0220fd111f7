"""What another scanner would have made of an image: stress-test a model on your own data.

  python -m medjax.synth --site motion-t1 IN.nii.gz OUT.nii.gz
  python -m medjax.synth --list
  python -m medjax.synth --run RUN MAP.nii.gz OUT.nii.gz

Without labels the contrast of the image stays, and the site adds all that needs no labels: receive
profile, motion, ghosting, ringing, resolution, noise, intensity curve, gain. With --labels the
contrast too is made new, from smoothed tissue maps by the signal equation of the site's sequence.
The result lies on the grid of the input, header and all.

With --run the input is a label map, and the image is what the synthesiser that a run of Learn2Synth
has learnt makes of it. It works in voxels: give it maps of the voxel size that it was trained on.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from medjax import cli, synthesisers
from medjax.check import InputError, require, same_shape
from medjax.data.formats import labels, nifti
from medjax.data.formats.volume import Volume, check_same_grid
from medjax.synth import sites, tissues
from medjax.synth.acquisition import Site, acquire, rescan
from medjax.synth.grouping import Grouping
from medjax.types import Key


@dataclasses.dataclass(frozen=True)
class Config:
  input: cli.Positional[pathlib.Path | None] = None
  """NIfTI image of one channel, values 0 or more; with --run a label map."""
  output: cli.Positional[pathlib.Path | None] = None
  """NIfTI file to write."""
  site: str = ""
  """Name of the scanner, see --list."""
  labels: pathlib.Path | None = None
  """Label map on the grid of the image; makes the contrast new."""
  tissues: tuple[str, ...] = ()
  """VALUE=TISSUE for each label value, for example 1=csf; none: FreeSurfer's values."""
  seed: int = 0
  """Of noise, coil position, motion and all else that is random."""
  run: pathlib.Path | None = None
  """Run of Learn2Synth, or one of its files synthesisers/NAME.safetensors."""
  name: str = ""
  """Which synthesiser of a run that has several."""
  moved: pathlib.Path | None = None
  """With --run: NIfTI file to write the labels to that belong to the image, whose anatomy moved."""
  list: bool = False
  """Print the scanners and stop."""


def run(config: Config) -> None:
  if config.list:
    print("\n".join(_lines()))
    return
  if config.input is None or config.output is None:
    raise InputError(
      "IN.nii.gz OUT.nii.gz", "fewer files", "name an image and the file to write, or pass --list"
    )
  require(
    (config.run is None) == bool(config.site),
    "--site NAME or --run RUN",
    "both" if config.site else "neither",
    "choose a site of --list, or pass a run of Learn2Synth",
  )
  require(
    config.input.resolve() != config.output.resolve(),
    "an output of its own",
    f"the input, {config.output}",
    "pass another file",
  )
  require(
    config.output.parent.is_dir(),
    f"a folder {config.output.parent}",
    "nothing there",
    "make it, or pass another output",
  )
  volume = nifti.read_nifti(config.input)
  if config.run is not None:
    _synthesised(config, volume, config.input, config.output, config.run)
    return
  site = sites.find(config.site)
  require(
    volume.array.ndim == 3,
    f"an image of one channel in {config.input}",
    f"shape {volume.array.shape}",
    "split it into one file a channel",
  )
  lowest = float(volume.array.min())
  require(
    lowest >= 0, f"values of 0 or more in {config.input}", f"{lowest:g}", "shift or clip the image"
  )
  upright = nifti.to_ras(volume)
  key = jax.random.key(config.seed)
  # jit: for 160 x 192 x 224 with motion 8 s, compilation included, against 36 s without.
  if config.labels is None:
    image = jnp.asarray(upright.array[..., None], jnp.float32)
    scanned = jax.jit(lambda k, x: rescan(site, k, x, spacing=upright.spacing))(key, image)
  else:
    label, table = _labels(config, config.labels, volume)

    @jax.jit
    def scan(key: Key, label: jax.Array) -> jax.Array:
      maps = tissues.tissue_fractions(table, label, spacing=upright.spacing)
      return acquire(site, key, maps, spacing=upright.spacing)

    scanned = scan(key, jnp.asarray(label))
  result = nifti.from_ras(np.asarray(scanned[..., 0]), volume.affine)
  nifti.write_like(config.output, result, config.input)
  print(_said(site, config))


def _synthesised(
  config: Config, volume: Volume, source: pathlib.Path, output: pathlib.Path, run: pathlib.Path
) -> None:
  """Image of a label map by a learned synthesiser, and the labels that it moved."""
  made = synthesisers.load(run, config.name or None)
  require(
    volume.array.ndim == 3, f"a label map in {source}", f"shape {volume.array.shape}", "split it"
  )
  upright = nifti.to_ras(volume)
  ids = labels.class_ids(
    labels.whole_numbers(upright.array, str(source)), made.label_values, str(source)
  )
  key = jax.random.key(config.seed)
  image, target = synthesisers.synthesise_volume(made, key, np.asarray(ids, np.int32))
  nifti.write_like(output, nifti.from_ras(image, volume.affine), source)
  if config.moved is not None:
    values = np.asarray(made.label_values, np.int32)[target]
    nifti.write_like(config.moved, nifti.from_ras(values, volume.affine), source)
  learnt = ", ".join(
    f"{name} {float(value):.4g}" for name, value in made.augmentation.describe(made.theta).items()
  )
  print(f"{output}: synthetic image, seed {config.seed}; learnt: {learnt}")


def _labels(config: Config, path: pathlib.Path, image: Volume) -> tuple[np.ndarray, Grouping]:
  """The label map upright, and the tissues of its values."""
  volume = nifti.read_nifti(path)
  same_shape(str(path), volume.array.shape, str(config.input), image.space)
  check_same_grid(str(path), volume, str(config.input), image)
  table = tissues.by_freesurfer()
  if config.tissues:
    pairs = [word.partition("=") for word in config.tissues]
    require(
      all(value.isdigit() and name for value, _, name in pairs),
      "--tissues VALUE=TISSUE ...",
      " ".join(config.tissues),
      "write for example 1=csf 2=cortical_gray_matter 3=white_matter",
    )
    table = tissues.by_name({int(value): name for value, _, name in pairs})
  label = labels.whole_numbers(nifti.to_ras(volume).array, str(path))
  table.check_label(label)
  return label, table


def _said(site: Site, config: Config) -> str:
  contrast = (
    f"contrast of the input kept ({site.sequence.describe()} needs --labels)"
    if config.labels is None
    else f"contrast by {site.sequence.describe()} at {site.field:g} T"
  )
  added = [
    *site.out_of_family,
    "coil profile",
    f"voxels of {_voxel(site)} mm",
    "Rician noise",
    "gain",
  ]
  return f"{config.output}: {site.name}, seed {config.seed}; {contrast}; {', '.join(added)}"


def _voxel(site: Site) -> str:
  return " x ".join(f"{v:g}" for v in (site.voxel_mm[0], *site.voxel_mm))


def _lines() -> list[str]:
  rows = [("site", "T", "sequence", "voxel mm", "noise", "gain", "beyond the family", "")]
  for site in sites.catalogue():
    rows.append(
      (
        site.name,
        f"{site.field:g}",
        site.sequence.describe(),
        _voxel(site),
        "-".join(f"{v:g}" for v in site.noise),
        "-".join(f"{v:g}" for v in site.gain),
        ", ".join(site.out_of_family),
        site.description,
      )
    )
  widths = [max(len(row[i]) for row in rows) for i in range(7)]
  return [
    "  ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=False)), row[7]]).rstrip()
    for row in rows
  ]


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m medjax.synth")
