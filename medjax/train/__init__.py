"""The loop and what surrounds it: mesh, checkpoints, logs, run directory, report."""
