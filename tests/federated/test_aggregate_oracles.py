"""Aggregation rules against ByzFL, torchjd, PyOD and Flower, whose values are stored."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.federated import aggregate
from medjax.federated.aggregate import outliers
from tests.oracles import make_aggregate_values as oracle

STORED = json.loads(pathlib.Path(oracle.HERE, "aggregate_values.json").read_text())["values"]
RULES = {
  "byzfl_median": aggregate.median(),
  "byzfl_trimmed_mean": aggregate.trimmed_mean(oracle.WRONG),
  "torchjd_trimmed_mean": aggregate.trimmed_mean(oracle.WRONG),
  "byzfl_krum": aggregate.krum(oracle.WRONG),
  "flower_multi_krum": aggregate.multi_krum(oracle.WRONG, oracle.CHOSEN),
  "byzfl_geometric_median": aggregate.geometric_median(iterations=500),
  "byzfl_centred_clipping": aggregate.centred_clipping(oracle.TAU, iterations=oracle.STEPS),
  "byzfl_mixing": aggregate.nearest_neighbour_mixing(
    oracle.WRONG, aggregate.trimmed_mean(oracle.WRONG)
  ),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_agree_with_other_libraries(name):
  call = jax.jit(lambda rows: RULES[name](rows, jnp.ones(len(rows))))
  for table, rows in oracle.tables().items():
    found, want = call(jnp.asarray(rows, jnp.float32)), np.array(STORED[name][table])
    if name == "flower_multi_krum":  # stored are the clients that it selects
      np.testing.assert_array_equal(np.flatnonzero(found.weights), want)
      want = rows[want].mean(0)
    # Weiszfeld's iteration ends when it moves by less than 1e-6 of the mean distance.
    close = 2e-4 if name == "byzfl_geometric_median" else 1e-5
    np.testing.assert_allclose(found.vector, want, rtol=close, atol=close)


def test_outlier_scores_are_pyods():
  for table, rows in oracle.tables().items():
    found = outliers.copod(jnp.asarray(oracle.distances(rows), jnp.float32), jnp.ones(11, bool))
    np.testing.assert_allclose(found, STORED["pyod_copod"][table], rtol=1e-5)
