"""Sensitivity of a release, and the noise of a whole update, proved from their programs.

checker, update       what is asked, and what is answered
primitives, kinds     what is known of every primitive of JAX, one row each
forms                 bound of a row: |row|^2 <= sum_m q_m |m|^2, joint for leaves clipped together
owners                whose row is where: through reshapes, chunks, gathers, convolutions
norms, intervals      what elementwise operations say of norms and of numbers
keys, chance, noise   random numbers: where keys come from, Gaussian laws element by element
outputs, hidden       what leaves the program
walker, ledger        the walk through a program, and what it writes down
the rest              rules of single operations, which the rows of `primitives` name
"""

from medjax.privacy.sensitivity.checker import Sensitivity, check_sensitivity
from medjax.privacy.sensitivity.ledger import ProofStep
from medjax.privacy.sensitivity.update import Update, check_update

__all__ = ["Sensitivity", "ProofStep", "Update", "check_sensitivity", "check_update"]
