"""Positions of cases may be a NumPy array wherever a list of them may stand."""

import numpy as np
import pytest

from medjax import data
from medjax.data.normalise import foreground_statistics
from medjax.data.people.duplicates import near_duplicates
from medjax.data.streams.epochs import load_cases
from medjax.data.streams.memory import Memory, Reservoir
from medjax.data.streams.replay import replayed

SOURCE = data.ProceduralAnatomy(8, (16, 16), 3, 0, with_image=True)
USES = {
  "load_cases": lambda at: load_cases(SOURCE, at).subject.tolist(),
  "stack": lambda at: data.stack(SOURCE, at).image.tolist(),
  "subset": lambda at: data.subset(SOURCE, at).subjects,
  "near_duplicates": lambda at: near_duplicates(SOURCE, at),
  "foreground_statistics": lambda at: foreground_statistics(SOURCE, at),
  "replayed": lambda at: replayed(at, at[:0], 3, 0)(0).rows.tolist(),
  "store": lambda at: Memory(4).store("north", at),
  "offer": lambda at: Reservoir(2, 0).offer(at),
}


@pytest.mark.parametrize("use", USES)
def test_an_array_means_what_the_list_means(use):
  assert USES[use](np.array([1, 2, 5])) == USES[use]([1, 2, 5])
