"""Networks: Linen modules behind `Model(init, apply)`, and an adapter for NNX."""

from medjax.nets.attention_mil import AttentionMIL, BagOutput
from medjax.nets.cross_conv import CrossConvUNet
from medjax.nets.cross_task import CrossTask
from medjax.nets.densenet import DenseNet
from medjax.nets.efficientnet import EfficientNetLite0, LiteStage, LiteStart, imagenet_normalised
from medjax.nets.features import features, from_features
from medjax.nets.frozen_features import imagenet_features
from medjax.nets.hub_names import sam_hub_names
from medjax.nets.image_text import ImageText, ImageTextOutput
from medjax.nets.import_torch import ImportReport, TorchNames, import_torch
from medjax.nets.in_context import InContext
from medjax.nets.instance_conv import InstanceConvNet
from medjax.nets.mask_decoder import MaskDecoder, MaskOutput
from medjax.nets.mixed_cell import (
  EDGES,
  OPERATIONS,
  CellDenoiser,
  MixedEdge,
  architecture_entropy,
  derived_operations,
  random_operations,
)
from medjax.nets.mixstyle import mixstyle
from medjax.nets.model import from_linen
from medjax.nets.nnx_model import from_nnx
from medjax.nets.precision import Precision
from medjax.nets.prompt_encoder import (
  BACKGROUND,
  BOTTOM_RIGHT,
  FOREGROUND,
  IGNORED,
  NOT_A_POINT,
  TOP_LEFT,
  PromptEncoder,
  Prompts,
  box_prompt,
  no_prompt,
  point_prompt,
)
from medjax.nets.promptable import (
  Promptable,
  PromptableSegmenter,
  lite_medsam,
  mini_promptable,
  promptable,
  sam_vit_b,
)
from medjax.nets.prototypes import PrototypeOutput, Prototypes
from medjax.nets.refining_decoder import RefiningDecoder, warm_started
from medjax.nets.relational_memory import MemoryNorm, RelationalMemory
from medjax.nets.residual_unet import ResidualUNet
from medjax.nets.resnet import ResNet9
from medjax.nets.set_transformer import SetOutput, SetTransformer
from medjax.nets.small_cnn import SmallCNN
from medjax.nets.spatial_adapter import SpatialAdapter
from medjax.nets.split import Split, SplitKind, split
from medjax.nets.streams import Streams
from medjax.nets.sum_unet import SumUNet
from medjax.nets.tiny_vit import TinyViT
from medjax.nets.torch_files import read_torch
from medjax.nets.unet import UNet
from medjax.nets.unrolled import Unrolled
from medjax.nets.vit import ViT
from medjax.nets.wavelet_autoencoder import WaveletAutoencoder
from medjax.nets.word_decoder import WordCache, WordDecoder

__all__ = [
  "AttentionMIL",
  "BACKGROUND",
  "BOTTOM_RIGHT",
  "BagOutput",
  "CrossConvUNet",
  "CellDenoiser",
  "CrossTask",
  "DenseNet",
  "EDGES",
  "EfficientNetLite0",
  "FOREGROUND",
  "IGNORED",
  "ImageText",
  "ImageTextOutput",
  "ImportReport",
  "InContext",
  "InstanceConvNet",
  "LiteStage",
  "LiteStart",
  "MaskDecoder",
  "MaskOutput",
  "MemoryNorm",
  "MixedEdge",
  "NOT_A_POINT",
  "OPERATIONS",
  "Precision",
  "PromptEncoder",
  "Promptable",
  "PromptableSegmenter",
  "Prompts",
  "PrototypeOutput",
  "Prototypes",
  "RefiningDecoder",
  "RelationalMemory",
  "ResNet9",
  "ResidualUNet",
  "SetOutput",
  "SetTransformer",
  "SmallCNN",
  "SpatialAdapter",
  "Split",
  "SplitKind",
  "Streams",
  "SumUNet",
  "TOP_LEFT",
  "TinyViT",
  "TorchNames",
  "UNet",
  "Unrolled",
  "ViT",
  "WaveletAutoencoder",
  "WordCache",
  "WordDecoder",
  "architecture_entropy",
  "box_prompt",
  "derived_operations",
  "features",
  "from_features",
  "from_linen",
  "from_nnx",
  "imagenet_features",
  "imagenet_normalised",
  "import_torch",
  "lite_medsam",
  "mini_promptable",
  "mixstyle",
  "no_prompt",
  "point_prompt",
  "promptable",
  "random_operations",
  "read_torch",
  "sam_hub_names",
  "sam_vit_b",
  "split",
  "warm_started",
]
