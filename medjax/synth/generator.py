"""Label map to image: domain randomisation as draw(key, shape) and apply(parameters, label).

SynthSeg (Billot et al., Medical Image Analysis 2023), order of operations:

  deform -> flip -> mixture -> bias field -> clip -> rescale -> gamma -> blur -> resolution -> noise

Every component is a frozen record of ranges; None switches it off. One example in, one out.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.synth import intensity
from medjax.synth.deformation import Deformation, Flip
from medjax.synth.grouping import Grouping
from medjax.synth.noise import Noise
from medjax.synth.resolution import Blur, Resolution
from medjax.transforms import Fixed, Pipeline, pipeline
from medjax.types import Key, PyTree


@dataclasses.dataclass(frozen=True)
class Generator:
  """Configuration of a generator; see `medjax.synth.presets` for published ones.

  Attributes:
    grouping: tables from raw label values to intensity classes, targets and mirrored labels.
    mixture: class intensities; the only part that is always on.
    deformation, flip, bias, gamma, blur, resolution, noise: see their classes; None is off.
    clip: bounds of the intensities after the bias field, in the mixture's units; None is off.
    quantiles: the intensities that become 0 and 1 in the final image, (0, 1) is min-max. Also
      switches on min-max to [0, 1] before gamma, so that the widths of gamma and noise mean the
      same for all images. None leaves the mixture's units all through; gamma then needs to be off.
  """

  grouping: Grouping
  mixture: intensity.Mixture = intensity.Mixture()
  deformation: Deformation | None = None
  flip: Flip | None = None
  bias: intensity.BiasField | None = None
  gamma: intensity.Gamma | None = None
  blur: Blur | None = None
  resolution: Resolution | None = None
  noise: Noise | None = None
  clip: tuple[float, float] | None = None
  quantiles: tuple[float, float] | None = (0.0, 1.0)

  def __post_init__(self):
    if self.clip is not None:
      check.ordered("clip", self.clip)
    if self.quantiles is None:
      check.require(self.gamma is None, "gamma=None without rescaling", "gamma", "set quantiles")
    else:
      check.ordered("quantiles", self.quantiles, least=0, most=1)

  @property
  def appearance(self) -> Pipeline:
    """What happens to the image that the mixture made, in order."""
    clip, quantiles = self.clip, self.quantiles
    return pipeline(
      bias=self.bias,
      clip=None if clip is None else Fixed(lambda image: jnp.clip(image, *clip)),
      to_unit=None if quantiles is None else Fixed(intensity.rescale),
      gamma=self.gamma,
      blur=self.blur,
      resolution=self.resolution,
      noise=self.noise,
      rescale=None
      if quantiles is None
      else Fixed(lambda image: intensity.rescale(image, quantiles)),
    )

  def draw(self, key: Key, shape: tuple[int, ...]) -> dict[str, PyTree]:
    """Everything random about one image, for label maps of `shape` = [*space], 2D or 3D.

    Returns:
      Parameters by the name of the component; those that are off are missing. Switching a component
      on or off leaves the numbers of the others as they are.
    """
    moves = {"deformation": self.deformation, "flip": self.flip}
    drawn: dict[str, PyTree] = {
      name: move.draw(rng.stream(key, name), shape)
      for name, move in moves.items()
      if move is not None
    }
    classes = (*shape, self.grouping.num_generation)
    drawn["mixture"] = self.mixture.draw(rng.stream(key, "mixture"), classes)
    return drawn | self.appearance.draw(key, (*shape, 1))

  def apply(
    self, parameters: dict[str, PyTree], label: Int[Array, "*space"]
  ) -> tuple[Float[Array, "*space 1"], Int[Array, "*space"]]:
    """Image in [0, 1] and the deformed raw labels that belong to it.

    Args:
      parameters: what `draw` gave for this shape, or any change of it.
      label: [*space] raw values that `grouping.check_label` accepts.
    Returns:
      (image [*space, 1] float32, label [*space]); `grouping.to_target(label)` gives class ids.
    """
    if self.deformation is not None:
      label = self.deformation.apply(parameters["deformation"], label)
    if self.flip is not None:
      label = self.flip.apply(parameters["flip"], label, jnp.asarray(self.grouping.mirror))
    image = self.mixture.apply(parameters["mixture"], self.grouping.to_generation(label))
    return self.appearance.apply(parameters, image), label


def generate(
  config: Generator, key: Key, label: Int[Array, "*space"]
) -> tuple[Float[Array, "*space 1"], Int[Array, "*space"]]:
  """`config.apply(config.draw(key, label.shape), label)`: one synthetic image and its labels.

  Guarantees: a function of (config, key, label) alone. Labels are the same bits under jit, vmap and
  any batch size; images differ by at most rounding of sums, whose order batching may change.

  >>> import jax
  >>> from medjax.synth import grouping
  >>> config = Generator(grouping.identity(2))
  >>> image, label = generate(config, jax.random.key(0), jnp.eye(4, dtype=jnp.int32))
  >>> image.shape, label.shape
  ((4, 4, 1), (4, 4))
  """
  return config.apply(config.draw(key, label.shape), label)
