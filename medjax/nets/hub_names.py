"""What the transformers package calls the layers of SAM: checkpoints of the Hugging Face hub."""

import re

from medjax.nets.import_torch import TorchNames
from medjax.nets.promptable import PromptableSegmenter

# From the names of the released code to those of the package, in this order.
_RULES = (
  (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
  (r"^image_encoder\.", "vision_encoder."),
  (r"patch_embed\.proj$", "patch_embed.projection"),
  (r"\.neck\.0$", ".neck.conv1"),
  (r"\.neck\.1$", ".neck.layer_norm1"),
  (r"\.neck\.2$", ".neck.conv2"),
  (r"\.neck\.3$", ".neck.layer_norm2"),
  (r"\.norm(\d)$", r".layer_norm\1"),
  (r"norm_final_attn$", "layer_norm_final_attn"),
  (r"point_embeddings\.", "point_embed."),
  (r"mask_downscaling\.0$", "mask_embed.conv1"),
  (r"mask_downscaling\.1$", "mask_embed.layer_norm1"),
  (r"mask_downscaling\.3$", "mask_embed.conv2"),
  (r"mask_downscaling\.4$", "mask_embed.layer_norm2"),
  (r"mask_downscaling\.6$", "mask_embed.conv3"),
  (r"^prompt_encoder\.pe_layer\..*$", "shared_image_embedding.positional_embedding"),
  (r"output_upscaling\.0$", "upscale_conv1"),
  (r"output_upscaling\.1$", "upscale_layer_norm"),
  (r"output_upscaling\.3$", "upscale_conv2"),
  (r"(hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0$", r"\1.proj_in"),
  (r"(hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.1$", r"\1.layers.0"),
  (r"(hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.2$", r"\1.proj_out"),
)


def sam_hub_names(network: PromptableSegmenter) -> TorchNames:
  """Names for `import_torch(path, network, image, names=sam_hub_names(network))`.

  >>> from medjax import nets
  >>> sam_hub_names(nets.sam_vit_b()).modules["encoder/block3/mlp/wide"]
  'vision_encoder.layers.3.mlp.lin1'

  Args:
    network: with a `ViT` as its encoder, such as `sam_vit_b()`.
  """
  names = network.torch_names()
  modules = {}
  for own, theirs in names.modules.items():
    for pattern, replacement in _RULES:
      theirs = re.sub(pattern, replacement, theirs)
    modules[own] = theirs
  # The frequencies stand twice in such a file.
  return names._replace(modules=modules, passed_over=("prompt_encoder.shared_embedding.",))
