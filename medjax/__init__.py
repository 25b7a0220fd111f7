"""Gradient methods for medical imaging under distribution shift, scarcity and privacy, in JAX."""
