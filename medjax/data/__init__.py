"""Data: sources of examples, splits over subjects, streams that are functions of (seed, step)."""
