"""Per-example norms and clipped sums from the jaxpr of any loss, with one backward pass."""
