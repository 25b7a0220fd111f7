"""Federated training: a round is a Step whose chunk is a block of clients."""

from medjax.federated import aggregate

__all__ = ["aggregate"]
