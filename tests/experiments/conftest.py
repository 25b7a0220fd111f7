"""Whole runs of studies are slow tests, but for those that the README begins with.

The default suite runs segmentation, Learn2Synth and private training whole here, and FuseStyle in
tests/contracts/test_studies.py; of the others it tests settings, refusals and parts.
`make test-slow` runs them all.
"""

import pytest

SLOW_RUNS = {
  "test_lscl.py",
  "test_ms_replay.py",
  "test_site_transfer.py",
  "test_site_transfer_chest.py",
}
WHOLE = {"finished", "moved"}  # fixtures that train


def pytest_collection_modifyitems(items):
  for item in items:
    if item.path.name in SLOW_RUNS and WHOLE & set(getattr(item, "fixturenames", ())):
      item.add_marker(pytest.mark.slow)
