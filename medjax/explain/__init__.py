"""Maps that say where a network looked, and checks of what such a map is worth.

maps     gradcam, occlusion, attention_rollout, integrated_gradients, expected_gradients,
         linear_parts, cell_parts
checks   map_curves (insertion and deletion), randomised_weights, attention_in_box
picture  any of them in the size of its image, in grey levels
concepts concept_scores, visual_activation, discriminability, greedy_choice, concept_logits,
         concept_influence: classes from how well an image fits phrases
"""

from medjax.explain.box import AttentionInBox, attention_in_box
from medjax.explain.concepts import (
  check_scores,
  concept_influence,
  concept_logits,
  concept_scores,
  discriminability,
  visual_activation,
)
from medjax.explain.curves import MapCurves, map_curves
from medjax.explain.gradcam import gradcam
from medjax.explain.greedy import GreedyChoice, greedy_choice
from medjax.explain.linear_parts import LinearParts, cell_parts, linear_parts
from medjax.explain.occlusion import occlusion
from medjax.explain.path_gradients import Attribution, expected_gradients, integrated_gradients
from medjax.explain.picture import picture
from medjax.explain.rollout import attention_rollout
from medjax.explain.sanity import randomised_weights, rank_correlation, shuffled_weights

__all__ = [
  "AttentionInBox",
  "Attribution",
  "GreedyChoice",
  "LinearParts",
  "MapCurves",
  "attention_in_box",
  "attention_rollout",
  "cell_parts",
  "check_scores",
  "concept_influence",
  "concept_logits",
  "concept_scores",
  "discriminability",
  "expected_gradients",
  "gradcam",
  "greedy_choice",
  "integrated_gradients",
  "linear_parts",
  "map_curves",
  "occlusion",
  "picture",
  "randomised_weights",
  "rank_correlation",
  "shuffled_weights",
  "visual_activation",
]
