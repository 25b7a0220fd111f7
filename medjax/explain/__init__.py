"""Maps that say where a network looked, and how well such a map hits what it should show."""

from medjax.explain.box import AttentionInBox, attention_in_box
from medjax.explain.gradcam import gradcam
from medjax.explain.picture import picture

__all__ = ["AttentionInBox", "attention_in_box", "gradcam", "picture"]
