"""Two tasks that train in turn: MT-COOL, and the exact bilevel derivative beside it."""

from medjax.methods.cooperative.bilevel import bilevel
from medjax.methods.cooperative.in_turn import cooperative, divergence
from medjax.methods.cooperative.task import Task

__all__ = ["Task", "bilevel", "cooperative", "divergence"]
