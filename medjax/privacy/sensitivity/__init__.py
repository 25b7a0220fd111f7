"""Sensitivity of a release, proved from its program.

bound of a row       forms.py     |row|^2 <= sum_m q_m |m|^2, jointly for leaves clipped together
whose row is where   owners.py    through reshapes, chunks, gathers, convolutions
rows and norms       norms.py
the rest             moves, reductions, lookups, loops, sums, trusted; walker.py calls them
"""

from medjax.privacy.sensitivity.checker import Sensitivity, check_sensitivity
from medjax.privacy.sensitivity.ledger import Step

__all__ = ["Sensitivity", "Step", "check_sensitivity"]
