"""Mixed batches and pools on the device."""

import jax
import numpy as np
import pytest

from medjax import rng
from medjax.check import InputError
from medjax.data.streams.epochs import batches
from medjax.data.streams.mixture import mix, mmtl_paper, mmtl_released, pooled, rows
from medjax.data.streams.replay import replayed

B = 16


def test_slots_go_over_one_by_one():
  stream = mix(lambda t: {"x": np.zeros((4, 2))}, lambda t: {"x": np.ones((4, 2))}, lambda t: t)
  for t in range(5):
    np.testing.assert_array_equal(stream(t)["x"][:, 0], np.arange(4) < t)


def test_both_sites_draw_the_same_whatever_the_mix():
  source, target = rows(50, 8, 0, name="source"), rows(20, 8, 0, name="target", first=50)
  for count in (0, 3, 8):
    mixed = mix(source, target, lambda t, c=count: c)(5)
    np.testing.assert_array_equal(mixed, np.r_[target(5)[:count], source(5)[count:]])


def test_the_paper_and_the_released_code_differ_as_published():
  # Specification of the two: 0 in epochs 0 to 3 and 15 at 59 against 1 at epoch 0 and 15 at 59;
  # equal in 24 of 60 epochs, the code larger by 1 in 36; shares .4625 and .5 of all slots.
  epochs = np.arange(60)
  paper, code = (
    np.array([schedule(100 * e + 99) for e in epochs])
    for schedule in (mmtl_paper(B, 60, 100), mmtl_released(B, 100))
  )
  assert paper[:4].tolist() == [0] * 4 and paper[-1] == 15
  assert code[0] == 1 and code[-1] == 15
  assert ((code - paper) == 1).sum() == 36 and ((code - paper) == 0).sum() == 24
  assert paper.sum() / (60 * B) == 0.4625
  assert code.sum() / (60 * B) == 0.5


def test_a_pool_gives_the_batches_of_the_host():
  pool = {"image": np.arange(24.0, dtype=np.float32).reshape(6, 4), "label": np.arange(6)}
  index = rows(6, 4, seed=3)
  stream = pooled(pool, index)
  for t in range(4):
    jax.tree.map(
      np.testing.assert_array_equal, stream(t), {k: v[index(t)] for k, v in pool.items()}
    )
  seen = np.concatenate([index(t) for t in range(3)])
  np.testing.assert_array_equal(np.bincount(seen), np.full(6, 2))


def test_what_does_not_fit_is_refused():
  with pytest.raises(InputError, match=r"target slots in \[0, 4\]"):
    mix(lambda t: np.zeros(4), lambda t: np.ones(4), lambda t: 5)(0)
  with pytest.raises(InputError, match="shape"):
    mix(lambda t: np.zeros(4), lambda t: np.ones(3), lambda t: 1)(0)
  with pytest.raises(InputError, match=r"rows in \[0, 5\)"):
    pooled(np.zeros(5), rows(2, 2, 0, first=4))(0)


def test_people_of_two_sites_who_share_an_index_have_their_own_keys():
  def site(name):
    store = {"x": np.arange(6.0), "index": np.arange(6)}
    return batches(store, 6, 0, name=name)

  mixed = mix(site("a"), site("b"), lambda t: 3)
  for t in range(5):
    keys = jax.random.key_data(rng.example_keys(jax.random.key(0), mixed(t)))
    assert len(set(map(tuple, keys.tolist()))) == 6
  assert any(len(set(mixed(t)["index"].tolist())) < 6 for t in range(5))


def test_a_pool_gives_replayed_cases_their_weights_and_numbers():
  pool = {"x": np.arange(5.0), "index": np.arange(5), "weight": np.full(5, 2.0)}
  drawn = replayed([0, 1, 2], [4], 6, 0, form="weighted")
  batch = pooled(pool, drawn)(3)
  np.testing.assert_array_equal(batch["x"], drawn(3).rows)
  np.testing.assert_array_equal(batch["weight"], 2 * drawn(3).weight)
  keys = jax.random.key_data(rng.example_keys(jax.random.key(0), batch))
  assert len(set(map(tuple, keys.tolist()))) == 6 and (batch["index"] == 4).sum() == 3
