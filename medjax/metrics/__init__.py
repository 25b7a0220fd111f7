"""How good a label map is: overlap with the truth, per class and per case."""

from medjax.metrics.overlap import dice, jaccard

__all__ = ["dice", "jaccard"]
