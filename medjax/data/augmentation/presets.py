"""The augmentation that nnU-Net v2 trains with by default, and artefacts of MR scanners to add.

nnU-Net: Isensee et al. 2021, Nature Methods. Numbers are those of the released code,
MIC-DKFZ/nnUNet@017de4a (nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py: get_training_transforms
and configure_rotation_dummyDA_mirroring_and_inital_patch_size) on
MIC-DKFZ/batchgeneratorsv2@016760f.
"""

from medjax.data.augmentation import intensity
from medjax.data.augmentation.augmentation import Augmentation
from medjax.data.augmentation.spatial import Spatial
from medjax.synth.artefacts import Ghosting, Motion, Ringing
from medjax.synth.intensity import BiasField
from medjax.transforms import AboveMinimum, Pipeline, Sometimes, pipeline


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
  >>> image, label = jax.jit(augmentation)(
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
    transforms=pipeline(
      noise=Sometimes(intensity.SharedNoise(), 0.1),
      blur=Sometimes(intensity.ChannelBlur(), 0.2, channel_probability=0.5),
      brightness=Sometimes(intensity.Brightness(), 0.15),
      contrast=Sometimes(intensity.Contrast(), 0.15),
      low_resolution=Sometimes(
        intensity.LowResolution(across=across), 0.25, channel_probability=0.5
      ),
      inverted_gamma=Sometimes(intensity.GammaRetainingStats(inverted=True), 0.1),
      gamma=Sometimes(intensity.GammaRetainingStats(), 0.3),
    ),
  )


def mr_artefacts(
  spacing: tuple[float | int, ...],
  *,
  probability: float = 0.1,
  phase_axis: int = 0,
  slice_axis: int | None = None,
) -> Pipeline:
  """Motion, ghosting, Gibbs ringing and bias field of `medjax.synth`, for z-scored MR images.

  Every channel counts as an image of the same scan: all are changed alike. What is trained on here
  is no longer out of family at test time (see `synth.Site.out_of_family`).

  Args:
    spacing: voxel size in mm, one per axis of the patch.
    probability: probability of each of the four, in an example.
    phase_axis: phase-encoding axis, between whose lines the patient moves.
    slice_axis: axis across the slices, along which nothing rings; None in 2D or for 3D k-space.

  >>> import dataclasses, jax, jax.numpy as jnp
  >>> base = nnunet((8, 8))
  >>> changes = dict(mr_artefacts((1.0, 1.0)).steps)
  >>> augmentation = dataclasses.replace(base, transforms=base.transforms.replace(**changes))
  >>> jax.jit(augmentation)(jax.random.key(0), jnp.ones((12, 12, 1)))[0].shape
  (8, 8, 1)
  """
  in_plane = tuple(axis for axis in range(len(spacing)) if axis != slice_axis)
  artefacts = {
    "bias": BiasField((0.0, 0.5)),
    "motion": Motion(spacing=spacing, axis=phase_axis),
    "ghosting": Ghosting(axis=phase_axis),
    "ringing": Ringing(axes=in_plane),
  }
  return pipeline(**{k: Sometimes(AboveMinimum(v), probability) for k, v in artefacts.items()})
