"""Sensitivity of a release, and the noise of a whole update, proved from their programs.

checker, update      what is asked, and what is answered
bound of a row       forms.py     |row|^2 <= sum_m q_m |m|^2, jointly for leaves clipped together
whose row is where   owners.py    through reshapes, chunks, gathers, convolutions
rows and norms       norms.py
keys, chance, noise   random numbers: where keys come from, Gaussian laws element by element
outputs, hidden      what leaves the program
the rest             moves, reductions, lookups, loops, sums, trusted; walker.py calls them
"""

from medjax.privacy.sensitivity.checker import Sensitivity, check_sensitivity
from medjax.privacy.sensitivity.ledger import ProofStep
from medjax.privacy.sensitivity.update import Update, check_update

__all__ = ["Sensitivity", "ProofStep", "Update", "check_sensitivity", "check_update"]
