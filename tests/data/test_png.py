"""PNG files give the values that they hold, at every depth, or are refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medjax.check import InputError
from medjax.data.formats import png
from medjax.data.sets.nnunet import NnUNetFolder
from tests.data.folders import write_json


def write(path, rows, width, depth, kind=0):
  """A PNG file by hand: `rows` are the bytes of its lines, unfiltered."""

  def part(name, content):
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum

  head = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
  body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
  content = part(b"IHDR", head) + part(b"IDAT", body) + part(b"IEND", b"")
  path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
  return path


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("read", [png.read_png, png.read_labels])
def test_grey_of_few_bits_keeps_its_values(tmp_path, depth, read):
  values = np.random.default_rng(0).integers(0, 2**depth, (3, 8))
  bits = (values[..., None] >> np.arange(depth)[::-1]) & 1  # most significant bit first
  packed = np.packbits(bits.reshape(3, -1).astype(np.uint8), axis=1)
  path = write(tmp_path / "a.png", list(packed), 8, depth)
  np.testing.assert_array_equal(read(path).array, values)


def test_grey_of_16_bits_keeps_its_values_and_colour_of_16_bits_is_refused(tmp_path):
  values = np.array([[300, 600, 65535]], ">u2")
  path = write(tmp_path / "a.png", [values.tobytes()], 3, 16)
  np.testing.assert_array_equal(png.read_png(path).array, values)
  path = write(tmp_path / "b.png", [values.tobytes()], 1, 16, kind=2)
  with pytest.raises(InputError, match="8 bits a channel in the colour picture .*b.png, got 16"):
    png.read_png(path)
  with pytest.raises(InputError, match="8 bits a channel"):
    png.read_labels(write(tmp_path / "c.png", [values[:, :2].tobytes()], 1, 16, kind=4))


def test_a_palette_is_looked_up_for_images_and_kept_for_labels(tmp_path):
  random = np.random.default_rng(0)
  indices = random.integers(0, 256, (6, 5)).astype(np.uint8)
  picture = Image.fromarray(indices, "P")
  greys = random.permutation(256).astype(np.uint8)
  colours = random.integers(0, 256, (256, 3)).astype(np.uint8)
  for name, palette, num in (("grey", np.repeat(greys[:, None], 3, 1), 1), ("colour", colours, 3)):
    path = tmp_path / f"{name}.png"
    picture.putpalette(palette.tobytes())
    picture.save(path)
    want = palette[indices] if num == 3 else greys[indices]
    np.testing.assert_array_equal(png.read_png(path).array, want)
    np.testing.assert_array_equal(png.read_labels(path).array, indices)
    assert png.read_num_channels(path) == num


def test_a_folder_of_palette_pictures_trains_on_what_they_show(tmp_path):
  for folder in ("imagesTr", "labelsTr"):
    (tmp_path / folder).mkdir()
  write_json(tmp_path, channels=("US",), labels={"background": 0, "a": 1}, ending=".png")
  grey = np.random.default_rng(0).integers(0, 256, (8, 9)).astype(np.uint8)
  order = np.random.default_rng(1).permutation(256)
  picture = Image.fromarray(order.argsort()[grey].astype(np.uint8), "P")
  picture.putpalette(np.repeat(order.astype(np.uint8)[:, None], 3, 1).tobytes())
  picture.save(tmp_path / "imagesTr/a_0000.png")
  label = Image.fromarray((grey > 128).astype(np.uint8), "P")
  label.putpalette([0, 0, 0, 255, 0, 0])  # class 1 is shown in red
  label.save(tmp_path / "labelsTr/a.png")
  example = NnUNetFolder(tmp_path, normalise="none")[0]
  np.testing.assert_array_equal(example.image[..., 0], grey)
  np.testing.assert_array_equal(example.label, grey > 128)


def test_another_kind_of_file_under_the_name_is_refused(tmp_path):
  path = tmp_path / "a.png"
  Image.fromarray(np.zeros((4, 4), np.uint8)).save(path, format="JPEG")
  with pytest.raises(InputError, match="a PNG file .*a.png, got another kind of file"):
    png.read_png(path)
  path.write_bytes(b"")
  with pytest.raises(InputError, match="got an empty file"):
    png.read_num_channels(path)
