"""Sites that label one organ each, and the shots of a new one."""

import numpy as np
import pytest

from experiments import few_shot_sites, few_shots
from medjax.check import InputError
from tests.data.folders import real_set


def test_each_hospital_keeps_the_organ_that_it_labels_and_the_shots_show_theirs():
  sites = few_shot_sites.simulated(2, (4, 12, 12), 2, 2, seed=0)
  assert sites.labelled.astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
  for label, domain in zip(sites.pretraining.label, sites.pretraining.domain, strict=True):
    assert set(np.unique(label)) == {0, domain + 1}
  assert set(np.unique(sites.new.label)) == {0, 1, 2, 3}
  shots = few_shots.shots_of(sites.new.image[:2], sites.new.label[:2], 2, sites.new.image[2:])
  assert shots.wanted == (sites.new.label[:2] == 2).sum() / 2
  absent = np.where(sites.new.label[:2] == 2, 0, sites.new.label[:2])
  with pytest.raises(InputError, match="an organ that every labelled volume shows"):
    few_shots.shots_of(sites.new.image[:2], absent, 2, sites.new.image[2:])


def test_people_of_one_folder_are_parted_and_thin_volumes_are_padded():
  root = real_set("hippocampus_nifti")
  sites = few_shot_sites.folders([root], (40, 64, 48), 2, 3, "", seed=0)
  parts = [set(own) for own in sites.people.values()]
  assert len(set.union(*parts)) == sum(map(len, parts)) == 40
  assert sites.new.image.shape == (5, 40, 64, 48, 1)  # its volumes are smaller on some axis
  assert {1, 2} <= set(np.unique(sites.new.label))
  with pytest.raises(InputError, match="45 people for shots and queries"):
    few_shot_sites.folders([root], (8, 8, 8), 5, 40, "", seed=0)
