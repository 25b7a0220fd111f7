"""Domains told apart by distances: by hand, small where it is the same, and what is refused."""

import types

import numpy as np
import pytest

from experiments import continual_gen, domain_courses, domain_groups, domain_sets
from medjax import nets
from medjax.check import InputError
from tests.data.folders import real_set

RANDOM = np.random.default_rng(0)


def test_distances_are_means_over_groupings_of_the_nearest_cluster():
  means = [np.array([[0.0, 0.0], [4.0, 0.0]]), np.array([[1.0, 1.0]])]
  variances = [np.array([[1.0, 1.0], [4.0, 1.0]]), np.array([[1.0, 4.0]])]
  z = np.array([[2.0, 0.0]])
  first = min(np.sqrt((4 + 0) / 2), np.sqrt((4 / 4 + 0) / 2))  # the wide cluster is nearer
  second = np.sqrt((1 + 1 / 4) / 2)
  found = domain_groups.distances(means, variances, z)
  np.testing.assert_allclose(found, [(first + second) / 2])


@pytest.mark.parametrize("kind", ["mixture", "means"])
def test_a_small_score_means_the_same_domain(kind):
  """The paper prints both signs; a set from elsewhere lies farther, whatever groups it."""
  centres = RANDOM.normal(size=(3, 6)) * 3
  labels = RANDOM.integers(3, size=240)
  z = centres[labels] + RANDOM.normal(size=(240, 6))
  groups = domain_groups.grouped(z[:200], labels[:200], sizes=(1, 4), seed=0, kind=kind)
  assert [len(m) for m in groups.means] == [3, 1, 4]
  same = domain_groups.distances(groups.means, groups.variances, z[200:])
  other = domain_groups.distances(groups.means, groups.variances, z[200:] + 6)
  assert abs(same.mean() / groups.typical - 1) < 0.3 and other.mean() > 2 * groups.typical


def test_too_few_pictures_for_the_clusters_are_refused():
  with pytest.raises(InputError, match="more pictures than clusters, 20"):
    domain_groups.grouped(RANDOM.normal(size=(20, 2)), np.zeros(20, int), sizes=(1, 20), seed=0)


def test_units_that_do_not_fit_are_refused():
  config = continual_gen.Config(share_fraction=0.3)
  continual_gen.check_units(config, "abc")
  with pytest.raises(InputError, match="units of all domains"):
    continual_gen.check_units(config, "abcd")


def test_the_strongest_response_is_that_of_pictures_together():
  """Two subnetworks, five pictures, two and two and one of them together."""
  highest = np.array([[3.0, 0.0, 1.0, 1.0, 4.0], [2.0, 2.0, 0.0, 1.5, 5.0]])
  logits = np.stack([highest, highest - 7], -1)
  course = types.SimpleNamespace(config=types.SimpleNamespace(num_together=2))
  found = domain_courses.strongest(course, None, logits, 0)
  assert found.tolist() == [1, 1, 0, 0, 1]


def test_a_picture_may_go_to_a_subnetwork_of_the_same_domain():
  """Domains a, b and c, where c is a once more; every picture goes to subnetwork 1."""
  course = types.SimpleNamespace(
    names=("a", "b", "c"),
    parts={"test": [{"image": np.zeros((2, 1))}] * 3},
    predict=lambda image, j: (None, np.array([1, 1])),
    of_domain=[0, 1, 1],
  )
  assert continual_gen.routing(course, {}) == pytest.approx(2 / 3)
  assert continual_gen.routing(course, {"c": "a"}) == 1.0


def test_real_artefacts_are_domains_of_the_same_people(monkeypatch):
  mean = lambda images, weights, folder: images.mean((1, 2))  # noqa: E731
  monkeypatch.setattr(nets, "imagenet_features", mean)
  found = domain_sets.lesions(real_set("skin_ph2"), real_set("skin_artefacts"), "", "", 0, 24)
  assert found.names == ("clean", "ruler", "bubble", "mirrored")
  assert [len(own["image"]) for own in found.parts["test"]] == [64] * 4
  assert not set(found.people["train"][0]) & set(found.people["test"][1])
  clean, ruler = (own["image"] for own in found.parts["train"][:2])
  assert np.abs(clean - ruler).max() > 0.01
  np.testing.assert_allclose(found.parts["train"][3]["image"], clean, atol=1e-5)  # of means


def test_one_scanner_is_refused(tmp_path):
  with pytest.raises(InputError, match="two scanners or more"):
    domain_sets.scanners([tmp_path], "", "", "", 0)


def test_domains_show_the_same_digits_in_other_ways():
  image = RANDOM.random((3, 8, 8, 1)).astype(np.float32)
  shown = {d: domain_sets.shown(image, d, 0) for d in domain_sets.DIGITS}
  flat = shown["plain"]
  np.testing.assert_array_equal(shown["inverted"], 1 - flat)
  np.testing.assert_array_equal(np.sort(shown["permuted"]), np.sort(flat))
  assert not np.array_equal(shown["permuted"], flat)
  turned = shown["turned"].reshape(3, 8, 8)
  np.testing.assert_array_equal(turned[:, 0], flat.reshape(3, 8, 8)[:, :, -1])
  assert 0.05 < np.abs(shown["noisy"] - flat).mean() < 0.15
