"""An update of every method and rounds of every federation on 8 simulated devices and on 1.

  python -m tests.contracts.eight_devices [NAME ...]

Prints a line for each row; ends with 1 if one of them differs.
"""

import os
import sys

os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import jax  # noqa: E402
import numpy as np  # noqa: E402

from medjax import sweeps, train  # noqa: E402
from tests.contracts import methods, rounds, test_rounds  # noqa: E402

KEY = jax.random.key(0)
NUM_DEVICES = 8


def updated(update, state, batch, *, mesh):
  """The state after an update, on the host."""
  if mesh is not None:
    state, batch = train.replicate(state, mesh), train.shard_batch(batch, mesh)
  return jax.device_get(update(state, batch, KEY)[0])


def rows_of(row):
  """Eight examples: the batches of two steps."""
  return jax.tree.map(lambda *x: np.concatenate(x), row.stream(0), row.stream(1))


def weightless(batch):
  """The same examples as padding: a private sample of nobody."""
  return batch.replace(weight=np.zeros_like(batch.weight))


def differs(row, mesh):
  """What differs between one device and all of them, "" if nothing does."""
  is_private = row.name.startswith("private")
  step = row.step(noise_multiplier=1.0) if is_private else row.step()
  update = jax.jit(sweeps.whole(step))
  state, batch = step.init(row.params(), KEY), rows_of(row)
  one, many = (updated(update, state, batch, mesh=m) for m in (None, mesh))
  try:
    # Sums in another order: rounding of float32.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), one, many)
    if is_private:
      # Of nobody only the noise is released: it is the same to the bit.
      one, many = (updated(update, state, weightless(batch), mesh=m) for m in (None, mesh))
      jax.tree.map(np.testing.assert_array_equal, one.params, many.params)
      assert np.abs(one.params["w"] - np.asarray(state.params["w"])).max() > 0
  except AssertionError as error:
    return str(error)
  return ""


def rounds_differ(row, mesh):
  """The same of a federation's rounds, a client a device: to the bit."""
  stream = rounds.stream(chunk=NUM_DEVICES)
  one = test_rounds.run(row, stream, "vmap")
  many = test_rounds.run(row, stream, "vmap", lambda block: train.shard_batch(block, mesh))
  try:
    test_rounds.assert_equal(one, many)
  except AssertionError as error:
    return str(error)
  return ""


def main(names):
  assert len(jax.devices()) == NUM_DEVICES
  mesh, failed = train.data_mesh(), 0
  for row in (*methods.ROWS, *rounds.ROWS):
    if not names or row.name in names:
      found = (differs if row in methods.ROWS else rounds_differ)(row, mesh)
      failed += bool(found)
      print(f"{row.name}: {found or 'equal'}", flush=True)
      jax.clear_caches()
  return int(failed > 0)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
