"""How an arm of the study of lossy links cuts and joins."""

import numpy as np
import pytest

from experiments import splitfed
from medjax.check import InputError
from medjax.types import Batch


def test_learned_weights_are_judged_by_cases_that_no_hospital_trains_on():
  held = [np.arange(13), np.arange(13, 20)]
  trained, apart = splitfed.set_aside(held)
  assert apart.tolist() == [0, 6, 12, 13, 19]
  every = np.concatenate([*trained, apart])
  assert sorted(every) == list(range(20))


def test_every_arm_joins_by_the_rule_that_it_names():
  task = splitfed.Task(splitfed.Config(shape=(8, 8), widths=(4, 8)))
  n = np.arange(1, dtype=np.int32)
  judged = Batch(np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 8), np.int32), n, n, n, np.ones(1))
  names = {arm: task.rule(splitfed.ARMS[arm].make(), judged).name for arm in splitfed.ARMS}
  assert {arm: name for arm, name in names.items() if name != "mean"} == {
    "deep-near": "fed_ncl_v4(penalty=1)",
    "deep-near-loss": "fed_ncl_v2(loss)",
    "deep-learned": "auto_fedavg(5)",
  }


def test_bad_input_is_one_clear_line():
  with pytest.raises(InputError, match="loss_rates to be one of"):
    splitfed.Config(loss_rates=(0.2,))
