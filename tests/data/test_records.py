"""Existing TFDS, grain and list sources are Sources: values, people, labels, what is refused."""

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from medjax import data, types
from medjax.check import InputError
from tests.data import fake_downloads

RANDOM = np.random.default_rng(0)
HELD = [
  {
    "image": RANDOM.integers(0, 255, (5, 6, 3)).astype(np.uint8),
    "label": [k % 2],
    "id": f"p{k // 2}",
  }
  for k in range(4)
]
CLASSES = ("healthy", "ill")


@pytest.mark.parametrize("records", [HELD, grain.MapDataset.source(HELD)], ids=["list", "grain"])
def test_records_are_cases(records):
  source = data.from_records(records, class_names=CLASSES, subject="id")
  assert isinstance(source, types.Source) and len(source) == 4 and source.knows_people
  assert source.subjects == ("p0", "p0", "p1", "p1") and source.channel_names == ("R", "G", "B")
  for k in range(4):
    np.testing.assert_allclose(source[k].image * 255, HELD[k]["image"], rtol=1e-6)
    assert source[k].label == k % 2 and source[k].label.shape == ()
  parts = data.split_subjects(source.subjects, {"train": 0.5, "test": 0.5}, seed=0)
  assert len(parts.indices("train", source.subjects)) == 2


def test_what_tfds_wrote_is_read_by_its_fields(tmp_path):
  heads = data.CC359(fake_downloads.cc359(tmp_path / "raw", zipped=True))
  ready = data.Prepared(data.prepare(heads, tmp_path, name="heads"))
  held = tfds.builder_from_directory(str(ready.root)).as_data_source("train")
  source = data.from_records(
    held, class_names=heads.class_names, subject="subject", domain="domain", spacing=(1, 1, 1)
  )
  indices = ready.indices("train")
  assert source.subjects == tuple(ready.subjects[i] for i in indices)
  assert source.domains == tuple(ready.domains[i] for i in indices)
  np.testing.assert_array_equal(source[1].image, ready[indices[1]].image)
  np.testing.assert_array_equal(source[1].label, ready[indices[1]].label)


def test_the_manifest_follows_the_content():
  first = data.from_records(HELD, class_names=CLASSES).manifest()
  changed = [*HELD[:3], {**HELD[3], "label": [0]}]
  assert data.from_records(changed, class_names=CLASSES).manifest()["files"] != first["files"]
  assert data.from_records(list(HELD), class_names=CLASSES).manifest() == first


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"image": "picture"}, "a field 'picture' in record 0, got image, label, id"),
    ({"subject": ("a", "b")}, "a subject for each of 4 records, got 2"),
    ({"class_names": ("healthy",)}, "labels of 1 classes in record 1"),
    ({"spacing": (1, 1, 1, 1)}, "voxel sizes for 3 axes"),
  ],
)
def test_what_is_refused(options, message):
  with pytest.raises(InputError, match=message):
    data.from_records(HELD, **{"class_names": CLASSES, **options})[1]
  with pytest.raises(InputError, match="records, got none"):
    data.from_records([], class_names=CLASSES)
