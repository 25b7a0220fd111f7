"""Wrong updates that some clients send, to test aggregation rules with."""

from medjax.federated.attacks.attack import Attack, Sight, View

__all__ = ["Attack", "Sight", "View"]
