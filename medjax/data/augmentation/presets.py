"""The augmentation that nnU-Net v2 trains with by default.

Isensee et al. 2021, Nature Methods. Numbers are those of the released code: MIC-DKFZ/nnUNet@017de4a
(nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py: get_training_transforms and
configure_rotation_dummyDA_mirroring_and_inital_patch_size) on MIC-DKFZ/batchgeneratorsv2@016760f.
"""

from medjax.data.augmentation import intensity
from medjax.data.augmentation.pipeline import Augmentation
from medjax.data.augmentation.spatial import Spatial


def nnunet(
  patch: tuple[int, ...],
  *,
  elastic_probability: float = 0.0,
  mirror_axes: tuple[int, ...] | None = None,
) -> Augmentation:
  """nnU-Net v2's default, for z-scored images of any number of channels.

  | what | range | probability |
  |---|---|---|
  | rotation | 3D +-30 degrees about each axis; 2D +-180 (+-15 if max / min size > 1.5) | 0.2 |
  | scaling | 0.7 to 1.4, all axes alike | 0.2 |
  | noise | deviation 0 to 0.1 | 0.1 |
  | blur | 0.5 to 1 voxels | 0.2, of these each channel 0.5 |
  | brightness | times 0.75 to 1.25 | 0.15 |
  | contrast | times 0.75 to 1.25 | 0.15 |
  | low resolution | 0.5 to 1 samples a voxel | 0.25, of these each channel 0.5 |
  | inverted gamma | exponent 0.7 to 1.5 | 0.1 |
  | gamma | exponent 0.7 to 1.5 | 0.3 |
  | mirroring | every axis | 0.5 |

  3D patches with max / min > 3 rotate (+-180), scale and lose resolution within the slices only,
  across their shortest axis. Elastic deformation is off, as in nnU-Net v2. Version 1's library
  default had it in 0.2 of the examples, with displacements of about 1 voxel and at most 3
  (deviation): `elastic_probability=0.2` comes close.

  DEVIATION: labels outside the image are `IGNORE`, not background, see `Spatial`.
  DEVIATION: blur uses the whole Gaussian and renormalises at the border; nnU-Net cuts it at 3
  deviations and reflects the image.
  DEVIATION: nnU-Net ends by setting channels that were normalised inside a mask to 0 outside it;
  here they keep what noise, contrast and gamma made of that 0.
  DEVIATION: mirroring comes first, not last, which changes only where low resolution samples.

  Args:
    patch: voxels per axis of the network's input.
    elastic_probability: of elastic deformation.
    mirror_axes: axes to mirror, None for all; leave out the axis from left to right where labels
      tell sides apart.

  >>> import jax, jax.numpy as jnp
  >>> augmentation = nnunet((8, 8))
  >>> augmentation.source_shape
  (12, 12)
  >>> image, label = augmentation(
  ...   jax.random.key(0), jnp.ones((12, 12, 3)), jnp.ones((12, 12), jnp.int32)
  ... )
  >>> image.shape, label.shape
  ((8, 8, 3), (8, 8))
  """
  ratio = max(patch) / min(patch)
  across, rotation = None, 30.0
  if len(patch) == 2:
    rotation = 15.0 if ratio > 1.5 else 180.0
  elif ratio > 3:
    across, rotation = patch.index(min(patch)), 180.0
  return Augmentation(
    patch=tuple(patch),
    spatial=Spatial(
      rotation_degrees=rotation,
      elastic_probability=elastic_probability,
      mirror_axes=mirror_axes,
      across=across,
    ),
    noise=intensity.Noise(),
    blur=intensity.Blur(),
    brightness=intensity.Brightness(),
    contrast=intensity.Contrast(),
    low_resolution=intensity.LowResolution(across=across),
    inverted_gamma=intensity.Gamma(probability=0.1, inverted=True),
    gamma=intensity.Gamma(),
  )
