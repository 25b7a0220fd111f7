"""Terms add up, nobody judges themselves, and planted places are where the text says."""

import jax
import numpy as np
import pytest

from experiments import atrophy, biomarkers, boosted, boosted_tables, clinical_tables
from experiments import region_ranking as ranking
from medjax import study
from medjax.check import InputError
from medjax.data.formats import nifti
from tests.data import folders

RANDOM = np.random.default_rng(0)
OASIS = "Subject ID,Group,M/F,Age,EDUC,SES,MMSE,CDR,eTIV,nWBV"


@pytest.fixture(scope="module")
def machine():
  """A machine of 80 rows whose answer is the sign of the first feature; and its rows."""
  pytest.importorskip("interpret")
  known = RANDOM.normal(size=(80, 3))
  known[:8, 2] = np.nan
  label = (known[:, 0] > 0).astype(np.int32)
  new = np.array([[-2.0, 0, 0], [2.0, 0, np.nan]])
  return boosted.boosted(known, label, new, 0, names="abc", num_pairs=1, num_bags=2)


def test_terms_of_a_machine_sum_to_its_log_odds_and_name_the_feature(machine):
  np.testing.assert_allclose(machine.constant + machine.parts.sum(1), machine.log_odds, rtol=1e-9)
  assert machine.log_odds[0] < 0 < machine.log_odds[1]
  assert machine.terms[:3] == ("a", "b", "c") and len(machine.terms) == 4
  assert np.argmax(machine.importance) == 0


def test_a_constant_feature_and_one_class_are_refused():
  pytest.importorskip("interpret")
  rows, label = np.stack([np.arange(6.0), np.ones(6)], 1), np.arange(6) % 2
  with pytest.raises(InputError, match="got age the same in all"):
    boosted.boosted(rows, label, rows, 0, names=("size", "age"))
  with pytest.raises(InputError, match="rows of both classes"):
    boosted.boosted(rows[:, :1], 0 * label, rows[:, :1], 0, names=("size",))


def test_regions_that_are_chosen_do_not_meet_and_are_the_largest_that_may():
  grid = ranking.grid_of(8, 4)
  assert sorted(set(grid.corners.ravel().tolist())) == [0, 2, 4]
  maps = RANDOM.uniform(size=(3, 8, 8, 8))
  sums = grid.sums(maps)
  for k, (a, b, c) in enumerate(grid.corners):
    np.testing.assert_allclose(sums[:, k], maps[:, a : a + 4, b : b + 4, c : c + 4].sum((1, 2, 3)))
  chosen = ranking.ranked(grid, sums[0], 8)
  assert chosen[0] == np.argmax(sums[0])
  for i, k in enumerate(chosen):
    for other in chosen[:i]:
      assert np.abs(grid.corners[k] - grid.corners[other]).max() >= 4
  places = np.array([[0, 0, 0], [7, 7, 7]])
  np.testing.assert_array_equal(
    ranking.found(grid, [0, 1], places), [True, False]
  )  # candidates 0 and 1 begin at (0, 0, 0) and (0, 0, 2)
  cut = grid.cut(maps[..., None], [5, 0])
  np.testing.assert_array_equal(cut[:, 1, ..., 0], maps[:, :4, :4, :4])


def test_a_ranking_by_people_who_agree_is_stable_and_one_by_two_halves_is_not():
  grid = ranking.grid_of(8, 4)
  alike = np.zeros((10, len(grid.corners)))
  alike[:, 0] = 1
  place = np.array([[1.0, 1.0, 1.0]])
  assert ranking.how_often(grid, alike, 1, place, 0) == ([1.0], [1.0])
  halves = alike.copy()
  halves[5:, 0], halves[5:, -1] = 0, 1
  (share,), _ = ranking.how_often(grid, halves, 1, place, 0, num_draws=1000)
  # Candidate 0 wins with 5 or more of 10 people of its half, ties included: binomial(10, 1/2).
  assert abs(share - 0.623) < 0.05


def test_nobody_is_judged_by_a_network_that_has_seen_them():
  by_fold = np.arange(9.0).reshape(3, 3, 1)  # fold k says 3 k + person
  fold = np.array([1, 0, -1])
  assert biomarkers.out_of_fold(by_fold, fold).ravel().tolist() == [3.0, 1.0, 5.0]
  assert biomarkers.in_fold(by_fold, fold).ravel().tolist() == [3.0, 5.5, 5.0]


def test_a_region_is_judged_by_its_own_network_alone():
  module = biomarkers.RegionNets(4)
  regions = RANDOM.normal(size=(3, 2, 2, 2, 1)).astype(np.float32)

  @jax.jit
  def slopes(regions):
    params = module.init(jax.random.key(0), regions)["params"]
    return jax.jacobian(lambda p: module.apply({"params": p}, regions))(params)

  for name, slope in slopes(regions).items():
    size = np.abs(np.asarray(slope)).reshape(3, 3, -1).max(-1)  # [output, region of the weight]
    assert (size[~np.eye(3, dtype=bool)] == 0).all(), name


def test_patients_lose_grey_matter_at_planted_places_and_nowhere_else():
  held = atrophy.drawn(120, 12, 0)
  middles = np.round(held.planted).astype(int)
  grey = held.image[..., 0] / held.volume[:, -1:, None, None]  # of one's own brain
  at_places = grey[:, middles[:, 0], middles[:, 1], middles[:, 2]]
  ratio = at_places[held.label == 1].mean(0) / at_places[held.label == 0].mean(0)
  # Patients lose .6 with probability .8, others with .1: (1 - .48) / (1 - .06) = .55.
  assert (np.abs(ratio - 0.55) < 0.15).all(), ratio
  template = held.image[held.label == 0, ..., 0].mean(0)
  far = np.min([np.linalg.norm(np.indices((12,) * 3).T - m, axis=-1).T for m in middles], 0) > 3
  where = far & (template > 0.3)
  rest = grey[held.label == 1].mean(0)[where].mean() / grey[held.label == 0].mean(0)[where].mean()
  assert abs(rest - 1) < 0.06
  assert held.volume.shape == (120, 14) and len(held.regions) == 14
  np.testing.assert_allclose(held.volume[:, :-1].sum(1), held.volume[:, -1], rtol=1e-4)


def test_copies_of_an_anatomy_are_one_subject(tmp_path):
  label = np.zeros((16, 16, 16), np.int16)
  label[2:14, 2:14, 2:14] = 3
  label[6:10, 6:10, 6:10] = 17
  label[4, 4, 4] = 507  # outside of the brain
  for name in ("one", "two"):
    nifti.write_nifti(tmp_path / f"{name}.nii.gz", label, np.eye(4))
  held = atrophy.of_label_maps(tmp_path, 4, 8, 0, num_planted=1)
  assert held.subjects == ("one", "one", "two", "two")
  assert not np.allclose(held.image[0], held.image[1], atol=0.3)
  with pytest.raises(InputError, match="a multiple of 2 people, got 5"):
    atrophy.of_label_maps(tmp_path, 5, 8, 0)


def oasis(path, *lines):
  path.write_text("\n".join([OASIS, *lines]) + "\n")
  return path


VISITS = (
  "a,Demented,M,80,12,2,20,1,1500,.7", "a,Demented,M,82,12,,19,1,1500,.69",
  "b,Nondemented,F,70,16,1,30,0,1400,.75", "c,Converted,F,70,16,1,30,0,1400,.75",
)  # fmt: skip


def test_a_table_leaves_out_what_defines_the_answer(tmp_path):
  table = clinical_tables.oasis(oasis(tmp_path / "own.csv", *VISITS))
  assert table.subjects == ("a", "a", "b") and table.label.tolist() == [1, 1, 0]
  assert (
    len(table.names) == 6 and np.isnan(table.feature[1, 2]) and np.isnan(table.feature).sum() == 1
  )
  assert not np.isin([0, 1], table.feature[:, 3:]).all()  # the rating is no feature
  with pytest.raises(InputError, match="Group in line 2"):
    clinical_tables.oasis(oasis(tmp_path / "own.csv", VISITS[0].replace("Demented", "demented")))


def test_visits_of_a_person_stand_in_one_fold_and_on_one_side_of_a_bag(tmp_path):
  lines = [VISITS[0].replace("a,", f"p{i},") for i in range(4) for _ in range(2)]
  lines += [VISITS[2].replace("b,", f"q{i},") for i in range(4)]
  table = clinical_tables.oasis(oasis(tmp_path / "own.csv", *lines))
  turns = boosted_tables.turns_of(table, 2, 0)
  study.splits_of(turns, 0)  # which refuses a person on two sides
  assert sorted(name for turn in turns for name in turn.people["test"]) == sorted(
    set(table.subjects)
  )
  both = turns[0]._replace(people={"train": ["a"], "test": ["a"]})
  with pytest.raises(InputError, match="no subject in both"):
    study.splits_of([both], 0)


def test_the_real_tables_are_read():
  path = folders.real_set("tabular_clinics") / "oasis_longitudinal.csv"
  table = clinical_tables.oasis(path)
  assert len(table.label) == 336 and len(set(table.subjects)) == 136  # of 373 and 150; 14 converted
  table = clinical_tables.prostate(folders.real_set("prostate_zones_labels") / "marksheet.csv")
  assert table.feature.shape == (1500, 4) and len(set(table.subjects)) == 1476
