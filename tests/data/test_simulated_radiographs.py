"""Simulated radiographs: where the ill differ from the healthy."""

import numpy as np

from medjax.data.simulated.radiographs import radiograph


def test_an_ill_lung_is_brighter():
  clear, ill = (
    np.mean([radiograph(np.random.default_rng(i), 16, is_ill=is_ill) for i in range(200)], 0)
    for is_ill in (False, True)
  )
  lungs = clear < 0.5
  assert 0.1 < lungs.mean() < 0.5
  assert (ill - clear)[lungs].mean() > 0.03 and (ill - clear)[lungs].min() > -0.01
  assert abs((ill - clear)[:2]).max() < 0.02  # above the shoulders nothing differs but noise
