"""Values of SAM in the transformers package on random weights: tests/oracles/sam_tiny.safetensors.

  pip install "transformers==5.24.0" "torch==2.13.0"; python tests/oracles/make_sam_values.py

The file holds the weights under the names of that package, and under "oracle." one picture and what
the network gives for a box, for two clicks with a mask, and for no prompt.
"""

import pathlib

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import (
  SamMaskDecoderConfig,
  SamPromptEncoderConfig,
  SamVisionConfig,
)

WIDTH = 16
torch.manual_seed(0)
vision = SamVisionConfig(
  hidden_size=WIDTH,
  num_hidden_layers=2,
  num_attention_heads=2,
  image_size=32,
  patch_size=4,
  window_size=3,  # does not divide the 8 patches of a side: padded windows
  global_attn_indexes=[1],
  output_channels=WIDTH,
  mlp_dim=4 * WIDTH,
  num_pos_feats=WIDTH // 2,
)
prompts = SamPromptEncoderConfig(
  hidden_size=WIDTH, image_size=32, patch_size=4, mask_input_channels=8
)
decoder = SamMaskDecoderConfig(
  hidden_size=WIDTH, mlp_dim=WIDTH, num_attention_heads=2, iou_head_hidden_dim=WIDTH
)
model = SamModel(
  SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
).eval()
with torch.no_grad():  # tables of distances start at zero, norms at one: nothing may be hidden
  for parameter in model.parameters():
    parameter.add_(0.3 * torch.randn_like(parameter))
  image = torch.rand(1, 3, 32, 32)
  embedding = model.get_image_embeddings(image)
  box = torch.tensor([[[3.0, 5.0, 20.0, 25.0]]])
  points, labels = torch.tensor([[[[4.0, 6.0], [18.0, 9.0]]]]), torch.tensor([[[1, 0]]])
  mask = torch.randn(1, 1, 32, 32)
  every = {"multimask_output": True, "image_embeddings": embedding}
  by_box = model(input_boxes=box, **every)
  by_points = model(input_points=points, input_labels=labels, input_masks=mask, **every)
  single = model(input_boxes=box, multimask_output=False, image_embeddings=embedding)
found = {name: value.numpy() for name, value in model.state_dict().items()}
oracle = {
  "image": image[0].permute(1, 2, 0),
  "embedding": embedding[0].permute(1, 2, 0),
  "box": box[0, 0],
  "points": points[0, 0],
  "labels": labels[0, 0].to(torch.int32),
  "mask": mask[0, 0, :, :, None],
  "box_logits": torch.cat([single.pred_masks[0, 0], by_box.pred_masks[0, 0]]).permute(1, 2, 0),
  "box_quality": torch.cat([single.iou_scores[0, 0], by_box.iou_scores[0, 0]]),
  "points_logits": by_points.pred_masks[0, 0].permute(1, 2, 0),
  "points_quality": by_points.iou_scores[0, 0],
}
found |= {f"oracle.{name}": np.ascontiguousarray(value.numpy()) for name, value in oracle.items()}
target = pathlib.Path(__file__).with_name("sam_tiny.safetensors")
save_file({name: np.ascontiguousarray(array) for name, array in found.items()}, target)
target.chmod(0o644)
