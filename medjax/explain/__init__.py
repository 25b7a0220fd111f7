"""Maps that say where a network looked, and checks of what such a map is worth.

maps     gradcam, occlusion, attention_rollout, integrated_gradients, expected_gradients
checks   map_curves (insertion and deletion), randomised_weights, attention_in_box
picture  any of them in the size of its image, in grey levels
"""

from medjax.explain.box import AttentionInBox, attention_in_box
from medjax.explain.curves import MapCurves, map_curves
from medjax.explain.gradcam import gradcam
from medjax.explain.occlusion import occlusion
from medjax.explain.path_gradients import Attribution, expected_gradients, integrated_gradients
from medjax.explain.picture import picture
from medjax.explain.rollout import attention_rollout
from medjax.explain.sanity import randomised_weights, rank_correlation, shuffled_weights

__all__ = [
  "AttentionInBox",
  "Attribution",
  "MapCurves",
  "attention_in_box",
  "attention_rollout",
  "expected_gradients",
  "gradcam",
  "integrated_gradients",
  "map_curves",
  "occlusion",
  "picture",
  "randomised_weights",
  "rank_correlation",
  "shuffled_weights",
]
