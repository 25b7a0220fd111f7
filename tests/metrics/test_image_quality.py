"""Likeness of images against scikit-image, and what no window and no range can do."""

import numpy as np
import pytest

from medjax import check, metrics


@pytest.mark.parametrize("shape", [(12, 15), (8, 9, 7)])
def test_psnr_and_ssim_are_those_of_scikit_image(shape):
  oracle = pytest.importorskip("skimage.metrics")
  random = np.random.default_rng(0)
  reference = random.random(shape)
  image = reference + 0.1 * random.normal(size=shape)
  span = float(reference.max())
  want = oracle.peak_signal_noise_ratio(reference, image, data_range=span)
  assert metrics.psnr(image, reference) == pytest.approx(want, abs=1e-10)
  for data_range, window in ((None, 7), (2.0, 5)):
    given = {"data_range": data_range or span, "win_size": window}
    want = oracle.structural_similarity(reference, image, **given)
    found = metrics.ssim(image, reference, data_range=data_range, window=window)
    assert found == pytest.approx(want, abs=1e-10)


def test_equal_images_and_closed_forms():
  image = np.random.default_rng(1).random((9, 9))
  assert metrics.psnr(image, image) == np.inf
  assert metrics.ssim(image, image) == pytest.approx(1, abs=1e-12)
  # An offset of a tenth of the range is 20 dB.
  assert metrics.psnr(image + 0.1, image, data_range=1.0) == pytest.approx(20)


def test_what_cannot_be_compared_is_refused():
  image = np.ones((9, 9))
  with pytest.raises(check.InputError, match="odd window"):
    metrics.ssim(image[:5], image[:5])
  with pytest.raises(check.InputError, match="magnitudes"):
    metrics.psnr(image * 1j, image)
  with pytest.raises(check.InputError, match="data_range"):
    metrics.psnr(image, 0 * image)
  with pytest.raises(check.InputError):
    metrics.psnr(image, image[:4])
