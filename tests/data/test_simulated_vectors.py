"""Vectors around the centres of their classes."""

import numpy as np
import pytest

from medjax import data
from medjax.check import InputError


def test_a_class_has_its_centre_and_its_noise():
  centres = np.array([[3.0, 0.0, 1.0], [-3.0, 2.0, 1.0]])
  people = data.stack(data.feature_vectors("features", 400, 0, centres, noise=0.5))
  for k in range(2):
    own = people.image[people.label == k, 0, 0]
    np.testing.assert_allclose(own.mean(0), centres[k], atol=4 * 0.5 / len(own) ** 0.5)
    assert own.std(0) == pytest.approx(0.5, rel=0.2)
  assert 160 < people.label.sum() < 240


def test_sites_of_one_seed_are_different_people():
  one, other = (
    data.feature_vectors("features", 2, 0, np.zeros((2, 3)), noise=1, domain=name) for name in "ab"
  )
  assert not np.array_equal(one[0].image, other[0].image) and one.domains == ("a", "a")


@pytest.mark.parametrize(
  ("centres", "noise", "message"),
  ((np.zeros(3), 1, "two of each or more"), (np.zeros((2, 3)), -1, "noise >= 0")),
)
def test_bad_input_is_one_clear_line(centres, noise, message):
  with pytest.raises(InputError, match=message):
    data.feature_vectors("features", 2, 0, centres, noise=noise)
