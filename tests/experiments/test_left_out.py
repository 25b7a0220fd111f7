"""Sites left out in turn: who trains, what is refused, and which evaluation each choice takes."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import left_out, left_out_sites
from medjax import data, study
from medjax.check import InputError
from medjax.types import TrainState


def store(num=7):
  return {
    "image": np.arange(num, dtype=np.float32)[:, None],
    "site": np.array([0, 0, 0, 0, 0, 4, 4])[:num],
    "label": np.array([0, 0, 0, 0, 1, 0, 1])[:num],
  }


def test_sites_and_classes_come_equally_often_whatever_their_sizes():
  own = store()
  stream = data.resampled(own, 6, 0, groups=own["site"], classes=own["label"])
  drawn = [stream(step) for step in range(400)]
  site, label = (np.concatenate([batch[name] for batch in drawn]) for name in ("site", "label"))
  assert all(np.bincount(batch["site"] // 4).tolist() == [3, 3] for batch in drawn)
  for group in (0, 4):  # class 1 is one of five at site 0: half of the draws all the same
    share = label[site == group].mean()
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt((site == group).sum())
  again = data.resampled(own, 6, 0, groups=own["site"], classes=own["label"])(17)
  assert all(np.array_equal(again[name], drawn[17][name]) for name in again)


def test_shares_that_do_not_come_out_even_move_on():
  own = store()
  stream = data.resampled(own, 3, 1, groups=own["site"])
  counts = sum(np.bincount(stream(step)["site"] // 4) for step in range(10))
  assert counts.tolist() == [15, 15]
  with pytest.raises(InputError, match="groups"):
    data.resampled(own, 3, 1, groups=own["site"][:2])


@pytest.mark.parametrize(
  ("names", "unseen", "train_on", "told"),
  [
    ("a", (), (), "two sites or more"),
    ("ab", ("c",), (), "site to be one of"),
    ("abc", ("a",), ("a", "b"), "a in left_out and in train_on"),
    ("ab", (), ("a", "b"), "all sites train"),
  ],
)
def test_turns_that_make_no_sense_are_refused(names, unseen, train_on, told):
  with pytest.raises(InputError, match=told):
    left_out_sites.chosen_sites(dict.fromkeys(names), unseen, train_on)


def test_a_site_without_a_class_is_refused_by_name():
  cases = [types.SimpleNamespace(label=np.int32(k)) for k in (0, 1, 0)]

  class Whole(list):
    domains, class_names = ("XR", "XR", "CS"), ("normal", "atypical")

  with pytest.raises(InputError, match="class at CS, got none of atypical"):
    left_out_sites.check_classes(Whole(cases))


def test_the_oracle_takes_the_evaluation_that_is_best_on_the_site_left_out(tmp_path):
  """Logits are (0, w): class 1 is right for two people of three, class 0 for the third."""
  whole = types.SimpleNamespace(subjects=("ann", "bob", "cyd"), domains=("XR",) * 3)
  task = types.SimpleNamespace(logits=_logits)
  scorer = left_out_sites.Scorer(whole, task, ("accuracy",))
  cases = {
    "image": np.zeros((3, 1, 1, 1), np.float32),
    "label": np.array([1, 1, 0], np.int32),
    "index": np.arange(3),
  }
  turn = study.Turn("XR", None, cases, {"unseen": cases}, {})
  watch = left_out_sites.Watch(scorer, turn, lambda state: state.params, tmp_path)
  history = []
  for step, weight in ((10, -1.0), (20, 1.0), (30, -2.0)):
    state = TrainState.start(jnp.float32(weight), ()).replace(step=jnp.int32(step))
    history.append({"step": step, "unseen/accuracy": watch.unseen(state)["accuracy"]})
  fit = types.SimpleNamespace(history=history)
  trained = study.Trained("a", None, fit, 30)
  rows = watch.oracle(trained, {"arm": "a", "role": "unseen, oracle"})
  assert [row["accuracy/all"] for row in rows] == [1.0, 1.0, 0.0]
  assert list(rows[0])[:3] == ["arm", "role", "case"] and rows[2]["subject"] == "cyd"


def test_weights_are_averaged_over_the_stretch_that_validation_chooses(tmp_path):
  """Class 1 is right for everybody: the loss of weight w is log(1 + exp(-w))."""
  whole = types.SimpleNamespace(subjects=("ann", "bob"), domains=("XR", "XR"))
  scorer = left_out_sites.Scorer(whole, types.SimpleNamespace(logits=_of_weight), ("accuracy",))
  cases = {
    "image": np.zeros((2, 1, 1, 1), np.float32),
    "label": np.array([1, 1], np.int32),
    "index": np.arange(2),
  }
  turn = study.Turn("CS", None, cases, {"unseen": cases}, {})
  # The mean that a segment carries is ten times the weight that its last update left.
  watch = left_out_sites.StretchWatch(scorer, turn, lambda state: state.extra, tmp_path)
  history = []
  weights = [0.0, 2.0, 1.9, 1.8, *[-3.0] * 6]
  steps = [10, 20, 30, 40, *range(50, 101, 10), 105]
  for step, weight in zip(steps, [*weights, -3.0], strict=True):
    state = TrainState.start({"w": jnp.float32(weight)}, (), extra={"w": jnp.float32(10 * weight)})
    found = watch.validation(state.replace(step=jnp.int32(step)))
    np.testing.assert_allclose(found["loss"], np.log1p(np.exp(-weight)), rtol=1e-5)
    history.append({"step": step, "validation/loss": found["loss"]})
  last = TrainState.start({"w": jnp.float32(-3.0)}, ())
  fit = types.SimpleNamespace(history=history, state=last)
  own = watch.final(study.Trained("swad", last, fit, 105))
  np.testing.assert_allclose(own["w"], np.mean([20.0, 19.0, 18.0]), rtol=1e-6)
  # A training that ends in the stretch: its last segment has five updates, the others ten.
  short = types.SimpleNamespace(history=[*history[:3], {**history[3], "step": 35}], state=last)
  (tmp_path / "40.safetensors").rename(tmp_path / "35.safetensors")
  own = watch.final(study.Trained("swad", last, short, 35))
  np.testing.assert_allclose(own["w"], (20 + 19 + 9) / 2.5, rtol=1e-6)


def _of_weight(params, image):
  return jnp.stack([image.sum(), image.sum() + params["w"]])


def _logits(params, image):
  return jnp.stack([image.sum(), image.sum() + params])


def test_masks_are_scored_by_the_mean_overlap_of_a_person():
  whole = types.SimpleNamespace(subjects=("ann", "ann", "bob"), domains=("XR", "XR", "CS"))
  task = types.SimpleNamespace(logits=_as_it_is)
  scorer = left_out_sites.Scorer(whole, task, ("dice",))
  image = np.zeros((3, 2, 2, 1), np.float32)
  image[0, 0], image[2] = 1, 1  # half of ann's first, all of bob's
  label = np.array([np.ones((2, 2)), np.zeros((2, 2)), np.ones((2, 2))], np.int32)
  rows = scorer(None, {"image": image, "label": label, "index": np.arange(3)}, {})
  assert [(row["subject"], row["domain"]) for row in rows] == [("ann", "XR"), ("bob", "CS")]
  np.testing.assert_allclose([row["dice/all"] for row in rows], [(2 / 3 + 1) / 2, 1.0])


def _as_it_is(params, image):
  return jnp.concatenate([0.5 - image, image - 0.5], -1)


def test_means_by_site_are_of_the_role_that_sources_choose():
  about = [("XR", "unseen", 1.0), ("XR", "unseen", 0.0), ("XR", "unseen, oracle", 1.0)]
  about += [("CS", "unseen", 1.0)]
  rows = [{"arm": "erm", "domain": t, "role": r, "accuracy/all": v} for t, r, v in about]
  assert left_out.by_site(rows, "accuracy") == {"erm": {"XR": 0.5, "CS": 1.0}}


def test_a_batch_that_holds_one_picture_of_a_site_is_refused(tmp_path):
  frame = left_out.LeftOutFrame("", {}, (), metrics=("dice",))
  config = left_out_sites.Settings(batch_size=3)
  images = [np.full((2, 2, 1), k, np.float32) for k in range(3)]
  sites = {
    name: data.Simulated("s", 1, 0, lambda random: (images[0], 0), class_names=("a", "b"),
                         channel_names=("x",), domain=name)
    for name in "abc"
  }  # fmt: skip
  with pytest.raises(InputError, match="two pictures of each of the 2 sites"):
    left_out.run(frame, config, None, sites, None, ())
