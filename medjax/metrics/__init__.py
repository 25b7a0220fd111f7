"""How good a label map is: overlap with the truth, per class and per case."""
