"""Pictures of eye grounds from several cameras, graded by their lesions: simulated.

Not a study: what studies of graded pictures share. Each camera is a Source whose domain it is.
"""

import numpy as np
from scipy import ndimage

from medjax import data
from medjax.types import Source

GRADES = ("none", "few", "some", "many", "most")
_LEAST = (0, 1, 4, 9, 17, 31)  # lesions from which a grade begins
CAMERAS = {  # gain of red, green and blue; darkening towards the edge; noise; blur in pixels
  "wide": ((1.0, 1.0, 1.0), 0.2, 0.02, 0.0),
  "warm": ((1.08, 0.93, 0.85), 0.3, 0.02, 0.2),
  "old": ((0.92, 0.96, 0.88), 0.25, 0.04, 0.2),
  "cold": ((0.9, 1.0, 1.12), 0.1, 0.03, 0.3),
}
"""Shifts at which a plain network loses a part of what it can tell: at twice these gains, and more
noise and blur, every method was at chance at an unseen camera, which tells nothing of them."""


def fundus(num: int, size: int, seed: int, camera: str) -> Source:
  """Discs with a bright spot and 0 to 30 dark lesions; every grade is as likely.

  Args:
    num: people, one picture each.
    size: side in pixels.
    seed: any int.
    camera: of `CAMERAS`; it changes colour, light, noise and sharpness alone.
  """
  gain, vignette, noise, blur = CAMERAS[camera]
  y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
  radius = np.hypot(y, x)

  def draw(random: np.random.Generator) -> tuple[np.ndarray, int]:
    grade = int(random.integers(len(GRADES)))
    count = int(random.integers(_LEAST[grade], _LEAST[grade + 1]))
    spot = random.uniform(-0.5, 0.5, 2)
    ground = 0.6 + 0.3 * np.exp(-(((y - spot[0]) ** 2 + (x - spot[1]) ** 2) / 0.03))
    dark = np.zeros_like(ground)
    for _ in range(count):
      angle, far = random.uniform(0, 2 * np.pi), 0.85 * np.sqrt(random.random())
      distance = np.hypot(y - far * np.sin(angle), x - far * np.cos(angle))
      dark = np.maximum(dark, 1 / (1 + np.exp(30 * (distance - random.uniform(0.04, 0.09)))))
    colour = np.stack([ground, 0.6 * ground * (1 - 0.7 * dark), 0.3 * ground], -1)
    seen = (
      colour * np.array(gain) * (1 - vignette * radius**2)[..., None] * (radius < 0.95)[..., None]
    )
    seen = ndimage.gaussian_filter(seen, (blur, blur, 0)) if blur else seen
    seen = seen + random.normal(0, noise, seen.shape)
    return np.clip(seen, 0, 1).astype(np.float32), grade

  return data.Simulated(
    "simulated fundus",
    num,
    seed,
    draw,
    class_names=GRADES,
    channel_names=("red", "green", "blue"),
    domain=camera,
    options={"size": size, "camera": camera},
  )
