"""Perturbations of voxels of at most eps: FGSM, PGD and free adversarial training.

  x' = x + delta,   |delta| <= eps   in every voxel

All train on every sample that they see (Shafahi et al. 2019): the first update takes the start,
each further one the sample that the gradient before made. Intensities are not clipped to a range.
"""

from medjax import check
from medjax.methods.adversaries.adversary import Adversary
from medjax.methods.adversaries.chain import chain
from medjax.methods.adversaries.components import noise


def fgsm(*, eps: float | int) -> Adversary:
  """delta <- eps * sign(g), from 0 (Goodfellow et al. 2015); meant for two updates.

  Where a gradient is exactly 0, delta stays.
  """
  return chain(noise(eps), step=2.0)


def pgd(
  *, eps: float | int, step: float | int | None = None, start: float | int = 1.0
) -> Adversary:
  """delta <- clip(delta + step * sign(g)), from anywhere (Madry et al. 2018).

  Args:
    eps: largest perturbation, in the image's unit.
    step: in the image's unit, in (0, 2 eps]; a quarter of eps by default.
    start: uniform within this fraction of eps; 0 starts from the image itself.
  """
  check.positive("eps", eps)
  return chain(noise(eps), step=0.25 if step is None else step / eps, start=start)


def free(*, eps: float | int) -> Adversary:
  """delta <- clip(delta + eps * sign(g)): adversarial training for free (Shafahi et al. 2019).

  The number of updates is their number of replays. DEVIATION: they carry delta over from one batch
  to whichever examples stand at its place in the next; here every batch starts from 0.
  """
  return chain(noise(eps), step=1.0)
