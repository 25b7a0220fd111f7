"""A slice with those beside it."""

import numpy as np
import pytest

from medjax import data, types
from medjax.check import InputError
from medjax.data.grid.neighbours import neighbours
from medjax.data.sets.prostate import ProstateSites
from tests.data import fake_downloads, folders


@pytest.mark.parametrize("axis", [0, 2])
def test_channels_are_the_slices_beside(tmp_path, axis):
  plain = ProstateSites(fake_downloads.prostate(tmp_path))
  source = neighbours(plain, axis)
  assert isinstance(source, types.Source)
  assert source.channel_names == ("T2-1", "T2", "T2+1")
  volume, stacked = (np.moveaxis(s[3].image, axis, 0) for s in (plain, source))
  np.testing.assert_array_equal(stacked[..., 1], volume[..., 0])
  np.testing.assert_array_equal(stacked[1:, ..., 0], volume[:-1, ..., 0])
  np.testing.assert_array_equal(stacked[:-1, ..., 2], volume[1:, ..., 0])
  for end, channel in ((0, 0), (-1, 2)):
    np.testing.assert_array_equal(stacked[end, ..., channel], volume[end, ..., 0])
  np.testing.assert_array_equal(source[3].label, plain[3].label)
  assert data.slices(source, axis)[0].image.shape[-1] == 3


def test_label_maps_have_no_neighbours(tmp_path):
  maps = data.LabelMapFolder(folders.nnunet(tmp_path) / "labelsTr")
  with pytest.raises(InputError, match="label maps alone"):
    neighbours(maps)
