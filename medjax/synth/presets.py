"""Published generators: SynthSeg's and Learn2Synth's ranges.

Numbers are those of the released code: BBillot/SynthSeg@66342c1 (brain_generator.py, lab2im
layers), and HuXiaoling/Learn2Synth@fc0fc26 (scripts/train_*.py) on balbasty/cornucopia@5f6681c
(synth.py).
"""

from medjax import check
from medjax.synth import deformation, generator, intensity, resolution
from medjax.synth.grouping import Grouping


def synthseg(
  grouping: Grouping, *, voxel_mm: float = 1.0, flip_axis: int | None = 0
) -> generator.Generator:
  """SynthSeg (Billot et al. 2023).

  Rotation +-15 degrees, scaling U(0.8, 1.2), shear +-0.012, velocity nodes N(0, U(0, 4 mm)) every
  25 voxels, flips 0.5; means U(0, 250), deviations U(0, 30), background 5 % zero and 25 % dark;
  bias N(0, U(0, 0.7)) every 40 voxels; clip [0, 300]; gamma exponent exp(N(0, 0.5)); resolution
  U(1, 4) mm isotropic (10 %), U(1, 8) mm along one axis, unchanged 5 %.

  DEVIATION: the final image is rescaled to [0, 1], as SynthSeg's prediction rescales real images.
  DEVIATION: the published `nonlin_std` 4 acts on half-resolution voxels that are read as full ones;
  see `Deformation.displacement`.

  Args:
    grouping: label tables.
    voxel_mm: size of the isotropic voxels of the label maps, in mm.
    flip_axis: axis from left to right; None never flips (asymmetric or sagittal views).
  """
  check.positive("voxel_mm", voxel_mm)
  return generator.Generator(
    grouping=grouping,
    deformation=deformation.Deformation(elastic=(0.0, 4.0 / voxel_mm)),
    flip=None if flip_axis is None else deformation.Flip(flip_axis),
    mixture=intensity.Mixture(),
    bias=intensity.BiasField(),
    gamma=intensity.Gamma(),
    resolution=resolution.Resolution(voxel_mm=voxel_mm),
    clip=(0.0, 300.0),
  )


def learn2synth_base(grouping: Grouping, *, flip_axis: int | None = None) -> generator.Generator:
  """Base generator of Learn2Synth (Hu et al. 2025): bias, noise, resolution are A_theta's to add.

  Translation +-0.1, elastic 0.05 of the extent on 2 to 10 nodes, rotation +-15 degrees, shear
  +-0.012, zoom 1 +- 0.15; means U(0, 1), deviations U(0, 0.05), background 0; gamma exponent
  LogNormal(0, 0.6); blur of U(0, 3) voxels; quantiles 1 and 99 %.

  DEVIATION: cornucopia's elastic field is U(-d, d), d ~ U(0, 0.05), and is not integrated, so it
  folds; here it is normal with the same deviation d / sqrt(3), and diffeomorphic.
  DEVIATION: cornucopia smooths each class with an edge-preserving filter of U(0, 10) voxels (90 %
  of its running time); here intensities within a class are white.

  Args:
    grouping: label tables.
    flip_axis: axis from left to right, or None as in the released code.
  """
  return generator.Generator(
    grouping=grouping,
    deformation=deformation.Deformation(
      scaling=(0.85, 1.15),
      translation_fraction=0.1,
      elastic=(0.0, 0.05 / 3**0.5),
      elastic_unit="extent",
      nodes=(2, 10),
    ),
    flip=None if flip_axis is None else deformation.Flip(flip_axis),
    mixture=intensity.Mixture(
      mean=(0.0, 1.0), std=(0.0, 0.05), zero_background=1.0, dark_background=0.0
    ),
    gamma=intensity.Gamma(0.6),
    blur=resolution.Blur((0.0, 3.0)),
    quantiles=(0.01, 0.99),
  )
