"""Prepared sets: what goes in comes out, splits over people, digests, TFDS by name."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medjax import data, types
from medjax.check import InputError
from medjax.data.people.parts import split_by_site
from medjax.data.sets import record_files, tfds_builders
from medjax.data.sets.cc359 import CC359
from medjax.data.sets.chest import chest_xray14
from medjax.data.sets.prepared import Prepared, prepare
from medjax.data.sets.prostate import SITES, ProstateSites
from tests.data import fake_downloads


def by_name(source):
  return {source[i].name: source[i] for i in range(len(source))}


def test_cases_come_out_as_they_went_in(tmp_path):
  source = CC359(fake_downloads.cc359(tmp_path / "raw", zipped=True))
  folder = prepare(source, tmp_path / "prepared", name="heads")
  ready = Prepared(folder)
  assert isinstance(ready, types.Source)
  assert sorted(ready.names) == sorted(source.names)
  for name, want in by_name(source).items():
    found = by_name(ready)[name]
    # float16 has 11 significant bits.
    np.testing.assert_allclose(found.image, want.image, rtol=2**-11, atol=2**-24)
    np.testing.assert_array_equal(found.label, want.label)
    np.testing.assert_array_equal(found.affine, want.affine)
    assert (found.subject, found.domain, found.spacing) == (want.subject, want.domain, want.spacing)
  assert prepare(source, tmp_path / "prepared", name="heads") == folder  # nothing to do
  assert ready.manifest()["options"]["source"]["files"] == source.manifest()["files"]
  assert ready.splits().indices("train", ready.subjects) == ready.indices("train")


def test_a_published_test_set_is_never_drawn_anew(tmp_path):
  images = np.random.default_rng(0).integers(0, 255, (12, 4, 4)).astype(np.uint8)
  cut = {"train": slice(0, 6), "val": slice(6, 8), "test": slice(8, 12)}
  content = {f"{part}_images": images[rows] for part, rows in cut.items()}
  content |= {f"{part}_labels": np.arange(12)[rows, None] % 2 for part, rows in cut.items()}
  np.savez(tmp_path / "x.npz", **content)
  ready = Prepared(prepare(data.open_source(tmp_path / "x.npz"), tmp_path, name="x"))
  for part, rows in cut.items():
    found = [ready[i].image[..., 0] * 255 for i in ready.indices(part)]
    np.testing.assert_allclose(found, images[rows], rtol=2**-10)


def test_another_set_of_that_name_is_refused(tmp_path):
  root = fake_downloads.prostate(tmp_path / "raw")
  prepare(ProstateSites(root), tmp_path, name="p")
  with pytest.raises(InputError, match="choose another name"):
    prepare(ProstateSites(root, normalise="minmax"), tmp_path, name="p")
  with pytest.raises(InputError, match="lower case"):
    prepare(ProstateSites(root), tmp_path, name="Prostate sites")


def test_a_changed_record_is_found(tmp_path):
  folder = prepare(ProstateSites(fake_downloads.prostate(tmp_path / "raw")), tmp_path, name="p")
  ready = Prepared(folder)
  ready.check()
  record = next(folder.glob("p-train.array_record*"))
  record.write_bytes(record.read_bytes() + b"x")
  with pytest.raises(InputError, match="p-train.*prepare it anew"):
    ready.check()
  (folder / "medjax.json").write_text("{")
  with pytest.raises(InputError, match="damaged"):
    Prepared(folder)
  with pytest.raises(InputError, match="nothing there"):
    Prepared(tmp_path)


def test_every_site_with_enough_people_is_in_every_part(tmp_path):
  source = ProstateSites(fake_downloads.prostate(tmp_path, cases=5))
  splits = split_by_site(source, seed=3)
  for part, people in splits.parts.items():
    sites = [subject.partition("/")[0] for subject in people]
    assert sorted(sites) == sorted(SITES * (3 if part == "train" else 1))
  assert splits == split_by_site(source, seed=3) != split_by_site(source, seed=4)


def test_published_parts_and_labels_of_many_classes_are_kept(tmp_path):
  source = chest_xray14(fake_downloads.chest_xray14(tmp_path / "raw"), size=(8, 8))
  ready = Prepared(prepare(source, tmp_path, name="chest"))
  assert ready.parts == ("train", "train", "test")
  for i in range(3):
    np.testing.assert_array_equal(ready[i].label, source.label(i))
    assert ready[i].affine is None and ready[i].image.shape == (8, 8, 1)
  assert data.stack(ready).label.shape == (3, 14)


@pytest.mark.parametrize(
  ("name", "fake", "options", "num"),
  [
    ("cc359", "cc359", {"zipped": True}, 6),
    ("prostate_sites", "prostate", {}, 12),
    ("ms_les_seg", "mslesseg", {"zipped": True}, 5),
    ("ljubljana_ms", "ljubljana", {}, 3),
  ],
)
def test_tfds_knows_the_builders_and_their_downloads(tmp_path, name, fake, options, num):
  root = getattr(fake_downloads, fake)(tmp_path / "manual", **options)
  builder = tfds.builder(name, data_dir=tmp_path / "tfds", file_format="array_record")
  assert isinstance(builder, tfds_builders.SourceBuilder)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
  records = builder.as_data_source("test")
  people = {record["subject"].decode() for record in records}
  ready = Prepared(builder.data_path)
  assert people == {ready.subjects[i] for i in ready.indices("test")}
  assert len(ready) == len(ready.names) == num
  ready.check()
  if name == "ms_les_seg":
    assert people == {"P54"} and set(ready.parts) == {"train", "test"}


def test_values_beyond_half_precision_are_refused(tmp_path, capfd):
  root = fake_downloads.prostate(tmp_path / "raw")
  source = ProstateSites(root, normalise=lambda channel: 1e6 * channel)
  with pytest.raises(InputError, match="normalise the images"):
    prepare(source, tmp_path, name="p")
  assert "examples" not in capfd.readouterr().err  # no bar in front of the error in a log file


def test_a_stopped_preparation_goes_on_at_its_last_shard(tmp_path, monkeypatch):
  """What is whole is not read again, and the result is that of a run that was never stopped."""
  monkeypatch.setattr(record_files, "_SHARD_BYTES", 1)  # a case a shard
  root = fake_downloads.prostate(tmp_path / "raw")
  whole = Prepared(prepare(ProstateSites(root), tmp_path / "whole", name="p"))

  class Counted(ProstateSites):
    most, read = 7, ()

    def __getitem__(self, index):
      if len(self.read) == self.most:
        raise KeyboardInterrupt
      self.read += (index,)
      return super().__getitem__(index)

  stopped = Counted(root)
  with pytest.raises(KeyboardInterrupt):
    prepare(stopped, tmp_path / "set", name="p")
  (partial,) = (tmp_path / "set" / "p").iterdir()
  damaged = sorted(partial.glob("*.array_record*"))[0]
  damaged.write_bytes(b"half of a file")
  second = Counted(root)
  second.most = 100
  shown = []
  folder = prepare(
    second,
    tmp_path / "set",
    name="p",
    progress=lambda left: (shown.append(len(left)), iter(left))[1],
  )
  # Builder and size of a case look at two; of the twelve, six of seven readings made a shard.
  already = len(stopped.read) - 2 - 1
  assert shown == [len(whole) - already]
  assert len(second.read) == 2 + shown[0]
  ready = Prepared(folder)
  ready.check()
  assert ready.manifest()["files"] == whole.manifest()["files"]
  assert not partial.exists()
