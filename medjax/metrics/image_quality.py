"""Likeness of two images: peak signal-to-noise ratio and structural similarity.

With windows of n values, their means m, variances v and covariance c (divided by n - 1), and the
range R of the values,

  PSNR = 10 log10(R^2 / mean |x - y|^2)
  SSIM = mean of (2 m_x m_y + C_1)(2 c + C_2) / ((m_x^2 + m_y^2 + C_1)(v_x + v_y + C_2)),
  C_1 = (.01 R)^2,  C_2 = (.03 R)^2

Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004), with
uniform windows of 7 pixels that lie within the image, as fastMRI (Zbontar et al. 2018) counts it.
"""

import numpy as np

from medjax import check


def psnr(image: np.ndarray, reference: np.ndarray, *, data_range: float | None = None) -> float:
  """Peak signal-to-noise ratio in dB, inf for equal images.

  Args:
    image: real, of any shape; take magnitudes of complex ones.
    reference: of the same shape.
    data_range: R; None: the largest value of the reference, as in fastMRI.
  Raises:
    InputError: other shapes, complex values, or a range that is not above 0.

  >>> psnr(np.array([0.0, 0.9]), np.array([0.0, 1.0])).__round__(3)
  23.01
  """
  first, second, span = _checked(image, reference, data_range)
  error = float(np.mean((first - second) ** 2))
  return float("inf") if error == 0 else float(10 * np.log10(span**2 / error))


def ssim(
  image: np.ndarray, reference: np.ndarray, *, data_range: float | None = None, window: int = 7
) -> float:
  """Structural similarity of two images [height, width] or two volumes, 1 for equal ones.

  Args:
    image, reference, data_range: as for `psnr`.
    window: side of the windows in pixels, odd; no side of the image is shorter.
  Raises:
    InputError: as `psnr`, or a window that does not fit.
  """
  first, second, span = _checked(image, reference, data_range)
  check.require(
    window % 2 == 1 and 3 <= window <= min(first.shape),
    f"an odd window of 3 to {min(first.shape)} pixels",
    f"{window}",
    "take a smaller window, or larger images",
  )

  def mean(x: np.ndarray) -> np.ndarray:
    """Of every window that lies within the image, axis by axis."""
    for axis in range(x.ndim):
      x = np.lib.stride_tricks.sliding_window_view(x, window, axis).mean(-1)
    return x

  count = window**first.ndim
  unbiased = count / (count - 1)
  m_x, m_y = mean(first), mean(second)
  v_x = unbiased * (mean(first * first) - m_x * m_x)
  v_y = unbiased * (mean(second * second) - m_y * m_y)
  covariance = unbiased * (mean(first * second) - m_x * m_y)
  c_1, c_2 = (0.01 * span) ** 2, (0.03 * span) ** 2
  above = (2 * m_x * m_y + c_1) * (2 * covariance + c_2)
  below = (m_x**2 + m_y**2 + c_1) * (v_x + v_y + c_2)
  return float(np.mean(above / below))


def _checked(
  image: np.ndarray, reference: np.ndarray, data_range: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
  first, second = np.asarray(image), np.asarray(reference)
  check.same_shape("image", first.shape, "reference", second.shape)
  check.require(
    not (np.iscomplexobj(first) or np.iscomplexobj(second)),
    "real images",
    "complex ones",
    "compare their magnitudes",
  )
  first, second = first.astype(np.float64), second.astype(np.float64)
  span = float(second.max()) if data_range is None else float(data_range)
  check.positive("data_range", span, "pass the range of the values")
  return first, second, span
