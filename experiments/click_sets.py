"""Objects that are clicked at: ambiguous blobs at two scales, nuclei, and pictures with scribbles.

Not a study: the data of `experiments.click_sam`. Every picture is grey, square, in [0, 1], and has
one target. Blobs lie in tissue of another texture, with a soft edge, so that where they end is for
the person who clicks to say.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from medjax import check, data
from medjax.data.formats import format_of, npz
from medjax.data.seeds import generator

ANNOTATORS, POSITIVE, NEGATIVE = 3, 3, 2  # people, and clicks of each that are kept


class Targets(NamedTuple):
  """Pictures with one target each.

  Attributes:
    image: [n, side, side, 1] float32 in [0, 1].
    mask: [n, side, side] bool, never empty.
    subjects: person of each.
    manifest: what the run directory records.
    places, labels: [n, annotator, click, 2] (x, y) in pixels and [n, annotator, click] as in
      `nets.Prompts`, of people; None where nobody clicked.
  """

  image: np.ndarray
  mask: np.ndarray
  subjects: tuple[str, ...]
  manifest: Any
  places: np.ndarray | None = None
  labels: np.ndarray | None = None


def blobs(count: int, side: int, scale: float, seed: int) -> Targets:
  """Simulated regions that cover 20 to 60 % of a picture, magnified `scale` times."""
  images, masks = [], []
  for index in range(count):
    random = generator(seed, f"blobs {scale:g}", index)
    noise = lambda sigma, r=random: _scaled(smooth(r.normal(size=(side, side)), sigma))  # noqa: E731
    field = noise(6.0 * scale)
    field = field - np.quantile(field, 1 - random.uniform(0.2, 0.6))
    inside = 1 / (1 + np.exp(-field / 0.15))  # the soft edge, where both textures mix
    tissue, tumour = noise(2.0 * scale), 1.0 + noise(0.8 * scale)
    picture = 0.5 * noise(8.0 * scale) + (1 - inside) * tissue + inside * tumour
    images.append((picture - picture.min()) / (picture.max() - picture.min()))
    masks.append(field > 0)
  about = {"kind": "simulated blobs", "count": count, "side": side, "scale": scale, "seed": seed}
  names = tuple(f"picture {i}" for i in range(count))
  return Targets(np.stack(images).astype(np.float32)[..., None], np.stack(masks), names, about)


def nuclei(path: pathlib.Path, side: int, zoom: int, most: int, subject: str) -> Targets:
  """One nucleus in the middle of a window of side / zoom pixels, enlarged `zoom` times.

  Args:
    path: an nnU-Net folder of pictures, with numbers of nuclei in instancesTr.
    side: of the window that comes out.
    zoom: how much larger.
    most: nuclei of a picture, evenly over their numbers.
    subject: regular expression with one group that finds the person in a case name.
  Raises:
    InputError: a picture without numbers, or no nucleus that fits.
  """
  source = data.NnUNetFolder(path, subject_pattern=subject or None, normalise="none")
  folder = check.existing_folder(path / "instancesTr", "pass pictures whose nuclei are numbered")
  cut, images, masks, people = side // zoom, [], [], []
  for index, name in enumerate(source.names):
    picture = np.asarray(source[index].image, np.float32).mean(-1)
    file = check.existing_file(next(iter(folder.glob(f"{name}.*")), folder / f"{name}.png"))
    number = np.asarray(format_of(file).read_labels(file).array)
    chosen = []
    for one in np.unique(number[number > 0]):
      rows, columns = np.nonzero(number == one)
      top, left = (int(round(float(x.mean()))) - cut // 2 for x in (rows, columns))
      whole = 0 <= top <= picture.shape[0] - cut and 0 <= left <= picture.shape[1] - cut
      if whole and len(rows) >= 60:  # pixels: what lies at the border, or is a speck, stays out
        chosen.append((one, slice(top, top + cut), slice(left, left + cut)))
    for i in np.unique(np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(int)):
      one, rows, columns = chosen[i]
      large = lambda x: np.repeat(np.repeat(x, zoom, 0), zoom, 1)  # noqa: E731
      own = large(picture[rows, columns])
      images.append((own - own.min()) / max(float(own.max() - own.min()), 1e-8))
      masks.append(large(number[rows, columns] == one))
      people.append(source.subjects[index])
  check.require(
    masks,
    f"nuclei of 60 pixels or more in {folder}, with {cut} x {cut} pixels of picture around one",
    "none",
    "number the instances, or lower --size",
  )
  about = {**source.manifest(), "zoom": zoom}
  return Targets(np.stack(images)[..., None], np.stack(masks), tuple(people), about)


def scribbles(path: pathlib.Path, side: int) -> Targets:
  """Pictures with scribbles of three people, of which the middles of the longest become clicks.

  Args:
    path: an .npz with images, labels, scribbles_packed (bits along the last axis; [picture,
      annotator, positive or negative, row, column]), dataset and case.
    side: pictures are averaged over blocks to it.
  Raises:
    InputError: a damaged file, arrays that are missing or do not fit, or no target that is large
      enough.
  """
  from scipy import ndimage

  held = _arrays(path, ("images", "labels", "scribbles_packed", "dataset", "case"))
  drawn = np.unpackbits(held["scribbles_packed"], axis=-1).astype(bool)
  shape = held["images"].shape
  check.require(
    len(shape) == 3 and shape[1] == shape[2] and shape[1] % side == 0,
    f"images [picture, n, n] in {path.name}, n a multiple of {side}",
    f"{shape}",
    "change --size",
  )
  check.same_shape("labels", held["labels"].shape, "images", shape)
  check.require(
    drawn.shape == (shape[0], ANNOTATORS, 2, *shape[1:]),
    f"scribbles of {ANNOTATORS} annotators, on the object and beside it, as large as the images",
    f"{drawn.shape}",
    "pack the last axis of bits, see --help",
  )
  block = shape[1] // side
  mean = lambda x: x.reshape(-1, side, block, side, block).mean((2, 4))  # noqa: E731
  images = mean(held["images"].astype(np.float32)) / 255
  masks = mean(held["labels"].astype(np.float32)) > 0.5
  places = np.zeros((len(images), ANNOTATORS, POSITIVE + NEGATIVE, 2), np.float32)
  labels = np.full(places.shape[:-1], -2, np.int32)
  for i, annotator in np.ndindex(len(images), ANNOTATORS):
    slot = 0
    for kind, (label, most) in enumerate(((1, POSITIVE), (0, NEGATIVE))):
      parts, number = ndimage.label(drawn[i, annotator, kind], np.ones((3, 3)))
      sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
      for one in 1 + np.argsort(-sizes, kind="stable")[:most]:
        pixels = np.argwhere(parts == one)
        middle = pixels[np.square(pixels - pixels.mean(0)).sum(1).argmin()]  # on the scribble
        # Middles of pixels: those of the large grid lie between those of the small one.
        places[i, annotator, slot] = (middle[::-1] + 0.5) / block - 0.5
        labels[i, annotator, slot] = label
        slot += 1
  kept = np.flatnonzero(masks.sum((1, 2)) >= 12)  # pixels that are left of the target
  check.require(len(kept), f"targets of 12 pixels at {side} x {side}", "none", "raise --size")
  names = tuple(f"{held['dataset'][i]} {held['case'][i]}" for i in kept)
  about = {"kind": "scribbles", "file": path.name, "pictures": len(kept), "side": side}
  return Targets(images[kept][..., None], masks[kept], names, about, places[kept], labels[kept])


def _arrays(path: pathlib.Path, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
  with npz.opened(path) as held:
    check.require(
      set(wanted) <= set(held), f"arrays {wanted} in {path.name}", f"{sorted(held)}", "see --help"
    )
    return {name: held[name] for name in wanted}


def taken(own: Targets, rows: Any) -> Targets:
  """The pictures at some positions."""
  rows = np.asarray(rows)
  chosen = [None if x is None else x[rows] for x in (own.places, own.labels)]
  names = tuple(own.subjects[i] for i in rows)
  return Targets(own.image[rows], own.mask[rows], names, own.manifest, *chosen)


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
  """Gaussian smoothing around the edges, by the Fourier transform."""
  rates = [np.fft.fftfreq(n) for n in values.shape]
  square = rates[0][:, None] ** 2 + rates[1][None, :] ** 2
  return np.fft.ifft2(np.fft.fft2(values) * np.exp(-2 * (np.pi * sigma) ** 2 * square)).real


def _scaled(values: np.ndarray) -> np.ndarray:
  return (values - values.mean()) / values.std()
