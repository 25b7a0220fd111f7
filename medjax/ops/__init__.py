"""Array maths on ONE example: convolution, warping, blur, random fields, distances, styles.

The modules hold more than is exported here, such as `medjax.ops.conv.conv_general_dilated` and
`medjax.ops.warp`.
"""

from medjax.ops.clicks import NO_CLICK, Click, next_click, random_click
from medjax.ops.connected import connected_components, largest_component
from medjax.ops.distance_transform import distance_at, distance_transform
from medjax.ops.local_gradient_sign import local_gradient_sign
from medjax.ops.lossy_link import lossy_link
from medjax.ops.soft_segmentation import normalised_relu, soft_overlap_loss
from medjax.ops.uncertain import uncertain_statistics

__all__ = [
  "NO_CLICK",
  "Click",
  "connected_components",
  "distance_at",
  "distance_transform",
  "largest_component",
  "local_gradient_sign",
  "lossy_link",
  "next_click",
  "normalised_relu",
  "random_click",
  "soft_overlap_loss",
  "uncertain_statistics",
]
