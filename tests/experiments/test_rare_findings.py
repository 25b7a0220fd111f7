"""Pictures of your own, thinned to classes of very unequal number."""

import numpy as np
import pytest

from experiments import rare_findings
from medjax import data
from medjax.check import InputError


def a_file(path, per_class, num_classes=rare_findings.CLASSES):
  random, arrays = np.random.default_rng(0), {}
  for use, count in {"train": per_class, "test": 6}.items():
    label = np.repeat(np.arange(num_classes), count)
    arrays[f"{use}_images"] = random.integers(0, 256, (len(label), 4, 4, 3), dtype=np.uint8)
    arrays[f"{use}_labels"] = label[:, None].astype(np.uint8)
  arrays["test_images"][0] = arrays["train_images"][0]  # one picture in both parts
  np.savez(path, **arrays)
  return path


def test_classes_are_as_unequal_as_the_simulated_ones_and_no_picture_is_in_both_parts(tmp_path):
  found = rare_findings.pictures(a_file(tmp_path / "x.npz", 300), 5, 0)
  train, test = (data.stack(found[use]) for use in ("train", "test"))
  assert np.bincount(train.label).tolist() == list(rare_findings.COUNTS)
  assert np.bincount(test.label).tolist() == [5] * 10
  assert not set(found["train"].subjects) & set(found["test"].subjects)
  assert train.image.shape[1:] == (4, 4, 3) and 0.9 < train.image.max() <= 1


def test_bad_input_is_one_clear_line(tmp_path):
  with pytest.raises(InputError, match="300 train pictures of class 0, got 299"):
    rare_findings.pictures(a_file(tmp_path / "x.npz", 299), 5, 0)
  with pytest.raises(InputError, match="6 test pictures of class 0, got 5"):
    rare_findings.pictures(a_file(tmp_path / "y.npz", 300), 6, 0)
  with pytest.raises(InputError, match="10 classes in .*, got 9"):
    rare_findings.pictures(a_file(tmp_path / "z.npz", 9, 9), 5, 0)
