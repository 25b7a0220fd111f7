"""Undersampled k-space of several clients, simulated from phantoms or from pictures.

Not a study: the data of `fedautomri`. An example is a Batch row whose image [height, width,
2 coils + 1] holds what was measured (real parts of all coils, imaginary parts, the mask) and whose
label [height, width] is the picture that was measured, in units of its largest value.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check, cli, data, federated, study
from medjax.data.seeds import generator
from medjax.ops import cartesian
from medjax.synth.coils import Coil
from medjax.types import Array, Batch, Source


class Acquisitions(NamedTuple):
  """Examples of all clients.

  Attributes:
    parts: "train", "validation" and "test"; `domain` is the client.
    held: rows of each client in a part.
    people: names, by part.
    names: person of each test example.
    sensitivities: [coil, height, width] complex, None for one coil.
    manifest: what the run directory records.
  """

  parts: dict[str, Batch]
  held: dict[str, list[np.ndarray]]
  people: Mapping[str, Sequence[str]]
  names: list[str]
  sensitivities: Array | None
  manifest: dict[str, Any]


def unpacked(image: Array) -> tuple[Array, Array]:
  """(k-space [coil, height, width], mask [height, width]) of an example's image."""
  count = (image.shape[-1] - 1) // 2
  measured = jnp.moveaxis(image[..., : 2 * count], -1, 0)
  return measured[:count] + 1j * measured[count:], image[..., -1]


def load(config: Any, options: cli.RunOptions) -> Acquisitions:
  """Phantoms with another contrast, mask and noise for each client, or slices of --data."""
  number = config.num_clients
  if options.preset == "brain":
    (path,) = study.paths_of(options.data, 1)
    whole = data.NnUNetFolder(path, subject_pattern=config.subject_pattern)
    source: Source = data.slices(whole, 2)
    middle = [i for i in range(len(source)) if source[i].name.endswith(("_z006", "_z009", "_z012"))]
    source = data.subset(source, middle)
    check.require(
      len(set(source.subjects)) >= 3 * number,
      f"{3 * number} people for {number} clients",
      f"{len(set(source.subjects))}",
      "ask for fewer clients",
    )
    codes = np.unique(source.subjects, return_inverse=True)[1]
    owner = np.zeros(len(source), np.int32)
    for client, chosen in enumerate(federated.evenly(codes, number, options.seed)):
      owner[chosen] = client
  else:
    study.paths_of(options.data, 1 if options.preset == "kspace" else 0)
    shape = (config.size, config.size)
    source = data.concat(
      {
        f"client {c}": data.ProceduralAnatomy(
          config.num_people, shape, 7, options.seed + 1000 * c, with_image=True, noise=0.0
        )
        for c in range(number)
      }
    )
    owner = np.repeat(np.arange(number, dtype=np.int32), config.num_people)
  names = [f"{owner[i]} {source.subjects[i]}" for i in range(len(source))]
  shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
  rows: dict[str, list[int]] = {part: [] for part in shares}
  for c in range(number):  # every client has people of its own in every part
    own = np.flatnonzero(owner == c)
    for part, some in study.parted([names[i] for i in own], shares, options.seed).items():
      rows[part] += own[list(some)].tolist()
  people = study.people_by_part(names, rows)
  shape = (config.size, config.size)
  sensitivities = coils(config.num_coils, shape)
  masks = [
    cartesian.line_mask(
      shape, config.acceleration, generator(options.seed, "mask", c), centre_fraction=0.12
    )
    for c in range(number)
  ]
  parts, held = {}, {}
  for part, own in rows.items():
    stacked = data.stack(source, own, tuple(side * config.coarser for side in shape))
    stacked = stacked.replace(image=_coarse(stacked.image, config.coarser))
    client = owner[list(own)]
    images = [
      acquire(stacked.image[n, ..., 0], masks[client[n]], sensitivities, config.noise, seed)
      for n, seed in enumerate(np.asarray(own).tolist())
    ]
    targets = np.stack([_scaled(image[..., 0]) for image in stacked.image])
    parts[part] = stacked.replace(
      image=np.stack(images).astype(np.float32),
      label=targets.astype(np.float32),
      domain=client.astype(np.int32),
      index=np.arange(len(own), dtype=np.int32),
      subject=np.unique([names[i] for i in own], return_inverse=True)[1].astype(np.int32),
    )
    held[part] = [np.flatnonzero(client == c) for c in range(number)]
    check.require(
      all(map(len, held[part])),
      f"{part} pictures at each of {number} clients",
      f"{[len(h) for h in held[part]]}",
      "take more people",
    )
  tested = [names[i] for i in rows["test"]]
  return Acquisitions(parts, held, people, tested, sensitivities, source.manifest())


def _coarse(images: np.ndarray, factor: int) -> np.ndarray:
  """Means of blocks of factor x factor pixels."""
  count, height, width, channels = images.shape
  blocks = (count, height // factor, factor, width // factor, factor, channels)
  return images.reshape(blocks).mean((2, 4))


def _scaled(image: np.ndarray) -> np.ndarray:
  return np.maximum(image, 0) / max(float(image.max()), 1e-6)


def acquire(
  image: np.ndarray, mask: np.ndarray, sensitivities: Array | None, noise: float, seed: int
) -> np.ndarray:
  """What is measured of a real picture, with noise, as an example's image."""
  random = generator(seed, "acquisition")
  kspace = np.asarray(_acquired(jnp.asarray(_scaled(image), jnp.float32), mask, sensitivities))
  hurt = random.normal(size=kspace.shape) + 1j * random.normal(size=kspace.shape)
  kspace = kspace + noise * mask[None] * hurt
  return np.moveaxis(np.concatenate([kspace.real, kspace.imag, mask[None]]), 0, -1)


@jax.jit
def _acquired(image: Array, mask: Array, sensitivities: Array | None) -> Array:
  return cartesian.acquired(image, mask, sensitivities)


def coils(number: int, shape: tuple[int, int]) -> Array | None:
  """Simulated sensitivities; None for one coil."""
  if number == 1:
    return None
  ring = Coil(num_elements=number, jitter=0.0)
  return ring.sensitivities(ring.draw(jax.random.key(0), (*shape, 1)), shape)


def measured(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Real k-space of several coils, its mask, and sensitivities from its middle.

  Args:
    path: .npy file, complex [coil, height, width], 0 where nothing was sampled, frequency 0 in the
      middle.
  Returns:
    k-space with frequency 0 first, mask, and images of the middle of k-space over their root sum of
    squares.
  Raises:
    InputError: another file, or nothing sampled.
  """
  kspace = np.load(check.existing_file(path, "see --help"), allow_pickle=False)
  check.require(
    kspace.ndim == 3 and np.iscomplexobj(kspace),
    f"complex [coil, height, width] in {path.name}",
    f"{kspace.dtype} {kspace.shape}",
    "pass k-space of one slice",
  )
  kspace = np.fft.ifftshift(kspace, (1, 2)).astype(np.complex64)
  mask = cartesian.checked_mask(
    np.asarray((np.abs(kspace) > 0).any(0), np.float32), kspace.shape[1:]
  )
  near = [np.abs(np.fft.fftfreq(n) * n) <= 10 for n in kspace.shape[1:]]
  middle = kspace * near[0][None, :, None] * near[1][None, None, :]
  coarse = np.fft.ifft2(middle, norm="ortho")
  power = np.sqrt((np.abs(coarse) ** 2).sum(0))
  own = coarse / np.maximum(power, 1e-3 * power.max())
  scale = np.abs(np.fft.ifft2(kspace, norm="ortho")).max()
  return kspace / scale, mask, own.astype(np.complex64)
