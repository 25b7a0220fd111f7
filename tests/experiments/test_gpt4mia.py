"""Parts of the digits that leave no test set are refused by the names of their settings."""

import dataclasses

import pytest

from experiments import gpt4mia
from medjax import cli
from medjax.check import InputError


def test_parts_that_leave_no_test_set_are_named(tmp_path):
  pytest.importorskip("sklearn")
  config = dataclasses.replace(gpt4mia.PRESETS["demo"], num_train=1700, num_known=300)
  with pytest.raises(InputError, match=r"num_train \+ num_known below 1797.*got 1700 \+ 300"):
    gpt4mia.build(config, cli.RunOptions(tmp_path, 0, (), "demo", "gpt4mia"))
