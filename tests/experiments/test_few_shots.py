"""Sites that label one organ each, and the shots of a new one."""

import dataclasses

import numpy as np
import pytest

from experiments import few_shot_sites, few_shots, fseft
from medjax.check import InputError
from tests.data.folders import nnunet, real_set


def test_each_hospital_keeps_the_organ_that_it_labels_and_the_shots_show_theirs():
  sites = few_shot_sites.simulated(2, (4, 12, 12), 2, 2, seed=0)
  assert sites.labelled.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
  for label, domain in zip(sites.pretraining.label, sites.pretraining.domain, strict=True):
    assert set(np.unique(label)) == {0, domain + 1}
  assert set(np.unique(sites.new.label)) == {0, 1, 2, 3}
  shots = few_shots.shots_of(sites.new.image[:2], sites.new.label[:2], 2, sites.new.image[2:])
  assert shots.wanted == (sites.new.label[:2] == 2).sum() / 2


def test_an_organ_that_a_shot_lacks_is_refused_before_anything_is_trained():
  sites = few_shot_sites.simulated(1, (4, 12, 12), 1, 2, seed=0)
  config = fseft.Config(shots=(1,))
  assert list(fseft.drawn(config, sites, (0, 1))) == [(s, 1, k) for s in (0, 1) for k in (1, 2, 3)]
  label = np.where(sites.new.label == 2, 0, sites.new.label)
  without = dataclasses.replace(sites, new=sites.new.replace(label=label))
  with pytest.raises(InputError, match="liver, an organ that every labelled volume shows, got"):
    fseft.drawn(config, without, (0,))
  with pytest.raises(InputError, match="every labelled volume shows, got sizes of \\[\\] voxels"):
    few_shots.shots_of(sites.new.image[:0], sites.new.label[:0], 1, sites.new.image[1:])


def test_of_an_organ_that_is_not_there_no_size_is_wrong():
  truth = np.zeros((4, 4, 4), np.int32)
  found = truth.copy()
  found[0] = 1
  assert np.isnan(list(fseft.figures(truth, truth, "spleen").values())).all()
  empty = fseft.figures(found, truth, "spleen")
  assert empty["dice/spleen"] == 0 and np.isnan(empty["size_error/spleen"])
  assert fseft.figures(truth, found, "spleen") == {"dice/spleen": 0, "size_error/spleen": 1}


def test_volumes_thinner_than_the_window_are_padded(tmp_path):
  root = nnunet(tmp_path / "thin", tuple("abcdef"), shape=(6, 5, 4))
  sites = few_shot_sites.folders([root], (6, 8, 8), 2, 3, "", seed=0)
  whole = few_shot_sites.folders([root], (6, 5, 4), 2, 3, "", seed=0)
  for wide, own in ((sites.new.image, whole.new.image), (sites.new.label, whole.new.label)):
    assert wide.shape[:4] == (5, 6, 8, 8)
    np.testing.assert_array_equal(wide[:, :, 1:6, 2:6], own)
    assert not wide[:, :, 0].any() and not wide[:, :, :, :2].any()
  with pytest.raises(InputError, match="a shape of 3 positive sizes"):
    few_shot_sites.folders([root], (6, 8), 2, 3, "", seed=0)


def test_people_of_one_folder_are_parted_and_thin_volumes_are_padded():
  root = real_set("hippocampus_nifti")
  sites = few_shot_sites.folders([root], (40, 64, 48), 2, 3, "", seed=0)
  parts = [set(own) for own in sites.people.values()]
  assert len(set.union(*parts)) == sum(map(len, parts)) == 40
  assert sites.new.image.shape == (5, 40, 64, 48, 1)  # its volumes are smaller on some axis
  assert {1, 2} <= set(np.unique(sites.new.label))
  with pytest.raises(InputError, match="45 people for shots and queries"):
    few_shot_sites.folders([root], (8, 8, 8), 5, 40, "", seed=0)
