"""Computations on gradients: hypergradients through an optimiser step."""
