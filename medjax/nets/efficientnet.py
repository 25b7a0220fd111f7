"""EfficientNet-Lite for 2D pictures (Tan and Le 2019; Lite: Liu 2020), with ImageNet weights.

  stem       conv 3x3 stride 2, norm, ReLU6
  block      x + project(depthwise(expand(x))): 1x1 to `expand` times the channels, norm, ReLU6;
             depthwise k x k, norm, ReLU6; 1x1, norm; the sum where the shape stays
  top        conv 1x1 to 1,280 channels, norm, ReLU6; mean over space; dense

The Lite variants have no squeeze-and-excitation and ReLU6 instead of swish. Convolutions pad as
TensorFlow's SAME, so pictures of any size are taken. 4,652,008 parameters with a head of 1,000
classes and 42,016 running statistics, as published.

  network = nets.EfficientNetLite0()
  params, _, _ = nets.import_torch(path, network)
  logits = nets.from_linen(network).apply(params, nets.imagenet_normalised(picture))[0]
"""

import functools
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from medjax import check
from medjax.axes import BATCH_AXIS, require_batch_axis
from medjax.nets.import_torch import TorchNames
from medjax.ops import conv, depthwise
from medjax.tree import at_least_float32

_START = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_EPSILON = 1e-3
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FoldedNorm = Literal["folded", "batch"]


class LiteStage(NamedTuple):
  """Blocks of one resolution.

  Attributes:
    repeats: number of blocks; the first has the stride.
    kernel: side of the depthwise kernels.
    stride: of the first block.
    expand: channels inside a block, in units of those that enter it.
    width: channels that leave a block.
  """

  repeats: int
  kernel: int
  stride: int
  expand: int
  width: int


LITE0 = (
  LiteStage(1, 3, 1, 1, 16),
  LiteStage(2, 3, 2, 6, 24),
  LiteStage(2, 5, 2, 6, 40),
  LiteStage(3, 3, 2, 6, 80),
  LiteStage(3, 5, 1, 6, 112),
  LiteStage(4, 5, 2, 6, 192),
  LiteStage(1, 3, 1, 6, 320),
)


def imagenet_normalised(image: jax.Array) -> jax.Array:
  """A picture [height, width, 1 or 3] in [0, 1] with ImageNet's mean 0 and deviation 1, in three
  channels: what ImageNet networks of PyTorch were trained on."""
  check.require(
    image.shape[-1] in (1, 3), "1 or 3 channels", f"{image.shape}", "pick a channel, or three"
  )
  spread = jnp.broadcast_to(image, (*image.shape[:-1], 3))
  axes = (1,) * (image.ndim - 1)
  return (spread - jnp.array(_MEAN).reshape(*axes, 3)) / jnp.array(_STD).reshape(*axes, 3)


class EfficientNetLite0(nn.Module):
  """Classifier of [height, width, channel], or its features.

  `nets.features(module, "block5")` gives what an inner block hands on, "top" what is averaged.

  Attributes:
    num_outputs: classes, or 0 for the features [num_features] alone.
    norm: "folded": every convolution has a bias into which `import_torch` multiplies the trained
      BatchNorm, so no examples are coupled and there is no model state: for weights that stay, and
      for methods with per-example gradients. "batch": BatchNorm as it was trained, whose running
      statistics are model state: for training on, or from scratch.
    stages: blocks; the defaults are those of Lite0.
    stem: channels of the stem.
    num_features: channels before the mean.
    dtype: computation type; parameters, statistics, features and logits stay float32.
  """

  num_outputs: int = 1000
  norm: FoldedNorm = "folded"
  stages: tuple[LiteStage, ...] = LITE0
  stem: int = 32
  num_features: int = 1280
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, image: Float[Array, "height width channel"], train: bool = False
  ) -> Float[Array, " outputs"]:
    check.one_of("norm", self.norm, ("folded", "batch"))
    layer = functools.partial(_ConvNorm, norm=self.norm, train=train, dtype=self.dtype)
    x = layer(self.stem, 3, stride=2, name="stem")(image[None])
    for i, (stage, stride) in enumerate(_blocks(self.stages)):
      x = LiteBlock(stage, stride, self.norm, train, self.dtype, name=f"block{i}")(x)
    x = layer(self.num_features, 1, name="top")(x)
    features = at_least_float32(x).mean(axis=(0, 1, 2))
    if not self.num_outputs:
      return features
    return nn.Dense(self.num_outputs, name="head")(features)

  def torch_names(self) -> TorchNames:
    """Names of the package efficientnet-lite-pytorch; see `import_torch`."""
    layers = {"stem": ("_conv_stem", "_bn0"), "top": ("_conv_head", "_bn1")}
    for i, (stage, _) in enumerate(_blocks(self.stages)):
      if stage.expand > 1:
        layers[f"block{i}/expand"] = f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0"
      layers[f"block{i}/depthwise"] = f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1"
      layers[f"block{i}/project"] = f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2"
    modules = {f"{path}/conv": conv for path, (conv, _) in layers.items()}
    modules |= {f"{path}/norm": norm for path, (_, norm) in layers.items()}
    return TorchNames(
      modules=modules | {"head": "_fc"},
      folds=dict(layers.values()) if self.norm == "folded" else {},
      epsilon=_EPSILON,
      passed_over=() if self.num_outputs else ("_fc.",),
      inputs=(jax.ShapeDtypeStruct((32, 32, 3), jnp.float32),),
    )


class LiteStart(nn.Module):
  """The first blocks of EfficientNet-Lite0: [height, width, 3] -> [height / 4, width / 4, 24].

  >>> image = jax.ShapeDtypeStruct((16, 16, 3), jnp.float32)
  >>> params = jax.eval_shape(LiteStart().init, jax.random.key(0), image)["params"]
  >>> sorted(params), jax.eval_shape(LiteStart().apply, {"params": params}, image).shape
  (['block0', 'block1', 'block2', 'stem'], (4, 4, 24))

  Parameters have the names that they have in `EfficientNetLite0` with norm "folded", so that those
  of ImageNet are taken over: `{name: whole[name] for name in nets.LiteStart.PARTS}`.
  """

  PARTS: ClassVar[tuple[str, ...]] = ("stem", "block0", "block1", "block2")

  @nn.compact
  def __call__(self, image: Float[Array, "height width channel"]) -> Float[Array, "h w feature"]:
    x = _ConvNorm(32, 3, norm="folded", train=False, stride=2, name="stem")(image[None])
    for i, (stage, stride) in enumerate(_blocks(LITE0[:2])):
      x = LiteBlock(stage, stride, "folded", False, None, name=f"block{i}")(x)
    return x[0]


def _blocks(stages: tuple[LiteStage, ...]) -> list[tuple[LiteStage, int]]:
  """Every block with its stride, in order."""
  return [(s, s.stride if i == 0 else 1) for s in map(LiteStage._make, stages)
          for i in range(s.repeats)]  # fmt: skip


class LiteBlock(nn.Module):
  """[1, height, width, channel] -> the same with `stage.width` channels."""

  stage: LiteStage
  stride: int
  norm: FoldedNorm
  train: bool
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    stage, width = LiteStage(*self.stage), x.shape[-1]
    layer = functools.partial(_ConvNorm, norm=self.norm, train=self.train, dtype=self.dtype)
    y = x
    if stage.expand > 1:
      y = layer(width * stage.expand, 1, name="expand")(y)
    y = layer(
      width * stage.expand, stage.kernel, stride=self.stride, is_depthwise=True, name="depthwise"
    )(y)
    y = layer(stage.width, 1, is_active=False, name="project")(y)
    return x + y if y.shape == x.shape else y


class _ConvNorm(nn.Module):
  """Convolution, norm and ReLU6."""

  width: int
  kernel: int
  norm: FoldedNorm
  train: bool
  stride: int = 1
  is_depthwise: bool = False
  is_active: bool = True
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.Conv(
      self.width,
      (self.kernel, self.kernel),
      strides=(self.stride, self.stride),
      feature_group_count=x.shape[-1] if self.is_depthwise else 1,
      use_bias=self.norm == "folded",
      dtype=self.dtype,
      kernel_init=_START,
      conv_general_dilated=(
        depthwise.depthwise_conv if self.is_depthwise else conv.conv_general_dilated
      ),
      name="conv",
    )(x)
    if self.norm == "batch":
      if self.train:
        require_batch_axis(
          f"a vmapped axis {BATCH_AXIS!r} to take BatchNorm's statistics over",
          "one example alone",
          "train with `supervised`, or use norm='folded', which couples no examples",
        )
      x = nn.BatchNorm(
        use_running_average=not self.train,
        momentum=0.99,
        epsilon=_EPSILON,
        axis_name=BATCH_AXIS if self.train else None,
        dtype=self.dtype,
        name="norm",
      )(x)
    return jnp.clip(x, 0, 6) if self.is_active else x
